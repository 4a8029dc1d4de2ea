"""`Image`: the packages and files that workers have, instead of the notebook's own.

Theory. An image is what was said of it, a tuple of layers; each method returns another one. The
first call of a function with it has every host make a virtual environment by it, once; equal images
are one. What changes without a package being installed (variables, files, the working directory)
makes no other environment.

What needs another machine than this one (system packages, commands, container images) is refused,
by an error that says what to do: workers run on the machine as it is.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from kernel_worker.errors import InvalidError, SerializationError
from kernel_worker.model import ImageSpec, ImageStep, digest_of
from notebook_ext import image_files as files
from notebook_ext import image_steps as steps
from notebook_ext.image_imports import Imports
from notebook_ext.secret import variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_AS_IT_IS = "workers run on this machine as it is"
_ON_IT = f"use the machine's own ways to do that, beforehand: {_AS_IT_IS}"
_SLIM = f"use Image.debian_slim() and .pip_install(...): {_AS_IT_IS}"
_LOCKED = "export its lock file and use .pip_install_from_requirements(path)"


class Refused:
    """A method of Modal's `Image` that cannot be here; its call says what to do instead."""

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., NoReturn]:
        return self._refuse

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        raise InvalidError(
            f"Image.{self._name}({', '.join(given)}) is not available here; {self.instead}."
        )


class Variables(NamedTuple):
    """A layer of environment variables."""

    pairs: tuple[tuple[str, str], ...]


class Directory(NamedTuple):
    """A layer that says where workers are."""

    path: str


class Image:
    """What workers have besides Python: make one with `Image.debian_slim()`."""

    __slots__ = ("_known", "_layers")

    apt_install = Refused(_ON_IT)
    run_commands = Refused(f"use .run_function(...), or a shell on the machine: {_AS_IT_IS}")
    dockerfile_commands = Refused(_SLIM)
    from_registry = Refused(_SLIM)
    from_dockerfile = Refused(_SLIM)
    from_aws_ecr = Refused(_SLIM)
    from_gcp_artifact_registry = Refused(_SLIM)
    from_scratch = Refused(_SLIM)
    micromamba = Refused(_SLIM)
    micromamba_install = Refused("use .pip_install(...): environments are made by uv or pip")
    poetry_install_from_file = Refused(_LOCKED)
    uv_sync = Refused(_LOCKED)
    pip_install_private_repos = Refused("use .pip_install('git+https://…')")
    entrypoint = Refused(f"leave it out: {_AS_IT_IS}")
    cmd = Refused(f"leave it out: {_AS_IT_IS}")
    shell = Refused(f"leave it out: {_AS_IT_IS}")

    def __init__(self, layers: tuple[Any, ...] = ()) -> None:
        """Use `debian_slim`."""
        self._layers = layers
        self._known: tuple[object, ImageSpec] | None = None

    @classmethod
    def debian_slim(cls, python_version: str | None = None, **cloud_only: Any) -> Image:
        """Return an image without packages, with the Python of this notebook.

        Args:
            python_version: if given, that version: functions travel as bytecode.
            cloud_only: what only means something in Modal's cloud.

        Raises:
            InvalidError: it is another version.
        """
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if python_version is not None and ".".join(str(python_version).split(".")[:2]) != here:
            raise InvalidError(
                f"python_version={python_version!r}: allowed is {here!r}, the Python of this "
                "notebook: functions travel as its bytecode. Run the notebook with that Python."
            )
        steps.check_names("debian_slim", cloud_only)
        return cls()

    # ---- packages ---------------------------------------------------------------------------

    def pip_install(self, *packages: str | list[str], **options: Any) -> Image:
        """Return this image with packages more, installed by uv where it is found, else by pip.

        Args:
            packages: requirements, as on pip's command line; paths are those of this machine.
            options: find_links, index_url, extra_index_url, pre, extra_options (a string, as on the
                command line), env and secrets (variables while this is installed), force_build.

        Raises:
            InvalidError: something that is no requirement, or no option.
        """
        return self._with(steps.install("pip_install", "pip", packages, options))

    def uv_pip_install(
        self, *packages: str | list[str], requirements: Sequence[str] = (), **options: Any
    ) -> Image:
        """Return this image with packages more, installed by uv and by nothing else.

        Args:
            packages: as of `pip_install`.
            requirements: paths of requirements files.
            options: as of `pip_install`.

        Raises:
            InvalidError: as `pip_install`.
        """
        name = "uv_pip_install"
        layers = [steps.install_file(name, "uv", path, options) for path in requirements]
        if packages or not layers:
            layers.append(steps.install(name, "uv", packages, options))
        return self._with(*layers)

    def pip_install_from_requirements(
        self, requirements_txt: str | Path, *deprecated: Any, **options: Any
    ) -> Image:
        """Return this image with what a requirements file lists; it is read at each call.

        Args:
            requirements_txt: its path.
            deprecated: find_links, in Modal's old place.
            options: as of `pip_install`.

        Raises:
            InvalidError: as `pip_install`; there is no such file.
        """
        if deprecated:
            options["find_links"] = deprecated[0]
        name = "pip_install_from_requirements"
        return self._with(steps.install_file(name, "pip", requirements_txt, options))

    def pip_install_from_pyproject(
        self, pyproject_toml: str | Path, optional_dependencies: Sequence[str] = (), **options: Any
    ) -> Image:
        """Return this image with the dependencies of a project.

        Args:
            pyproject_toml: the path of its pyproject.toml.
            optional_dependencies: names of its extras.
            options: as of `pip_install`.

        Raises:
            InvalidError: as `pip_install`; there is no such file, or no such extra.
        """
        wanted = steps.project_requirements(pyproject_toml, optional_dependencies)
        return self._with(steps.install("pip_install_from_pyproject", "pip", wanted, options))

    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Image:
        """Return this image after a function has run in it, once: what it wrote to disk stays.

        It runs again where its code, what it captures, or what is installed before it changes. What
        it writes below `sys.prefix` goes with the image.

        Args:
            raw_f: a plain function.
            args: its arguments by position …
            kwargs: … and by name.
            options: env and secrets (variables while it runs), force_build.

        Raises:
            InvalidError: it is no plain function.
        """
        return self._with(steps.run(raw_f, tuple(args), dict(kwargs or {}), options))

    # ---- files and variables ------------------------------------------------------------------

    def env(self, vars: Mapping[str, str]) -> Image:  # noqa: A002  Modal's name
        """Return this image with environment variables, while it is built and in its workers.

        Raises:
            InvalidError: it is no dict of str to str.
        """
        return self._with(Variables(tuple(sorted(variables("vars", vars).items()))))

    def workdir(self, path: str | PurePosixPath) -> Image:
        """Return this image with another working directory than that of the caller.

        Args:
            path: of this machine, or relative: then below the files that the image has.

        Raises:
            InvalidError: it is no path.
        """
        given: object = path
        if not isinstance(given, str | PurePosixPath) or not str(path):
            raise InvalidError(f"path={path!r}: allowed is a path, such as '/data' or 'assets'.")
        return self._with(Directory(str(path)))

    def add_local_file(
        self, local_path: str | Path, remote_path: str | None = None, **options: Any
    ) -> Image:
        """Return this image with a file of this machine; an edit of it is seen by the next call.

        Args:
            local_path: the file.
            remote_path: where it lies, relative to the folder that `$NOTEBOOK_EXT_IMAGE_FILES`
                names in workers; with a slash at the end, the folder in which it lies.
            options: copy, which makes no difference here.

        Raises:
            InvalidError: there is no such file; `remote_path` is absolute.
        """
        steps.check_names("add_local_file", options)
        return self._with(files.added_file(local_path, remote_path))

    def add_local_dir(
        self,
        local_path: str | Path,
        remote_path: str | None = None,
        *,
        ignore: Sequence[str] | Callable[[Path], bool] = (),
        **options: Any,
    ) -> Image:
        """Return this image with all files of a folder of this machine; see `add_local_file`.

        Args:
            local_path: the folder.
            remote_path: where it lies, relative; None: under its own name.
            ignore: patterns of what is left out, or a function that says so of a path.
            options: copy, which makes no difference here.

        Raises:
            InvalidError: there is no such folder; `remote_path` is absolute.
        """
        steps.check_names("add_local_dir", options)
        return self._with(files.added_folder(local_path, remote_path, ignore))

    def add_local_python_source(self, *modules: str, **options: Any) -> Image:
        """Return this image with modules of this machine, to be imported in workers.

        What a function imports, and lies beside the notebook, travels by itself: this is for what
        is imported in other ways, and for packages with files of data.

        Args:
            modules: names of modules or packages that can be imported here.
            options: copy and ignore.

        Raises:
            InvalidError: there is no such module here.
        """
        ignore = options.pop("ignore", ())
        steps.check_names("add_local_python_source", options)
        return self._with(*files.added_modules(modules, ignore))

    def imports(self) -> Imports:
        """Return a context manager for imports of what the image has and the notebook may not.

        Modules that are not there are stand-ins here: functions that use them get the real ones on
        workers.
        """
        return Imports()

    def build(self, *_: object, **__: object) -> Image:
        """Do nothing, as the first call that needs it builds it; return this image."""
        return self

    # ---- what it is made of -------------------------------------------------------------------

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its workers."""
        found: dict[str, str] = {}
        for layer in self._layers:
            if isinstance(layer, Variables):
                found.update(layer.pairs)
        return found

    @property
    def directory(self) -> str:
        """Where its workers are; empty where that is the caller's place."""
        found = [layer.path for layer in self._layers if isinstance(layer, Directory)]
        return str(PurePosixPath(*found)) if found else ""

    @property
    def identity(self) -> str:
        """Tells it from images that something else was said of."""
        return digest_of(
            repr(
                [layer[:-1] if isinstance(layer, steps.Step) else layer for layer in self._layers]
            ).encode()
        )

    def spec(self) -> ImageSpec:
        """Return what it is made from, as that lies on disk now; the same object if it is the same.

        Raises:
            InvalidError: a file is gone, or they are too large together.
        """
        added = [layer for layer in self._layers if isinstance(layer, files.Added)]
        stamp = tuple(layer.stamp() for layer in self._layers if isinstance(layer, _ON_DISK))
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, ImageSpec(self._steps(), files.read(added), steps.constraints()))
        return self._known[1]

    def _steps(self) -> tuple[ImageStep, ...]:
        """Return the steps; each sees the variables that were said before it."""
        found, pairs = [], dict[str, str]()
        for layer in self._layers:
            if isinstance(layer, Variables):
                pairs.update(layer.pairs)
            elif isinstance(layer, steps.Step):
                step = layer.made()
                around = tuple(sorted({**pairs, **dict(step.variables)}.items()))
                found.append(msgspec.structs.replace(step, variables=around))
        return tuple(found)

    def _with(self, *layers: object) -> Image:
        return Image((*self._layers, *layers))

    def __repr__(self) -> str:
        done = [layer.title for layer in self._layers if isinstance(layer, steps.Step)]
        return f"<Image: {', '.join(done) or 'no packages'}>"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"{self!r} does not travel as a value: give it as image=… where a function is defined."
        )


_ON_DISK = (steps.Step, files.Added)
