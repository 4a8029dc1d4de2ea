"""The steps of an image: what is installed, and which functions run when it is built.

A step is read when a function is called, not when it is written: the text of a requirements file,
what lies at a path, the code of a function are those of then.
"""

from __future__ import annotations

import os
import pickle
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from kernel_worker.errors import InvalidError
from kernel_worker.model import ImageStep, digest_of
from notebook_ext.secret import Secret, variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Kind = Literal["pip", "uv"]
_IGNORED = ("copy", "gpu", "cpu", "memory", "timeout", "volumes", "cloud", "region", "uv_version")
"""What Modal takes and makes no difference here."""
_WHILE_BUILT = ("env", "secrets", "force_build")
_OF_INSTALLERS = ("find_links", "index_url", "extra_index_url", "pre", "extra_options")
_INDEX = {
    "find_links": ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    "index_url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    "extra_index_url": ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
}
"""As variables and not as options: an address may hold a password, and `ps` shows options."""
_FIT = ("msgspec", "pyzmq", "cryptography", "pynacl", "threadpoolctl")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_PACKAGE = frozenset({"__pycache__", "build", "dist"})


class Step(NamedTuple):
    """A layer for which something is installed or run, once."""

    title: str
    key: str
    """Tells it from steps of the same title."""
    paths: tuple[Path, ...]
    """What it depends on of this machine's files."""
    made: Callable[[], ImageStep]
    """Returns it as it is now."""

    def stamp(self) -> tuple[object, ...]:
        """Return what changes when what lies on disk does, or the function that it runs."""
        return tuple(_stamp(path) for path in self.paths)


def check_names(method: str, given: Mapping[str, object], known: Sequence[str] = ()) -> None:
    """Raise `InvalidError` for an option that `method` does not have."""
    for name, value in given.items():
        if name not in known and name not in _IGNORED and name not in _WHILE_BUILT:
            allowed = ", ".join((*known, "force_build"))
            raise InvalidError(f"{name}={value!r}: allowed in {method} are {allowed}.")


def install(
    method: str, kind: Kind, packages: Sequence[str | list[str]], options: Mapping[str, Any]
) -> Step:
    """Return the step that installs `packages`; raise `InvalidError` where one cannot be."""
    wanted = _flat(method, packages)
    variables_, arguments, mark = _read(method, options)
    found = [_located(each) for each in wanted]
    paths = tuple(path for _, path in found if path is not None)
    arguments += [text for text, _ in found]
    title = f"{method} {' '.join(wanted)}"

    def made() -> ImageStep:
        stamp = mark + "".join(map(_content, paths))
        return ImageStep(kind, title, tuple(arguments), "", variables_, stamp)

    return Step(title, _key(arguments, variables_, mark), paths, made)


def install_file(method: str, kind: Kind, path: object, options: Mapping[str, Any]) -> Step:
    """Return the step that installs what a requirements file lists."""
    found = existing("requirements_txt", path)
    variables_, arguments, mark = _read(method, options)
    title = f"{method} {found.name}"

    def made() -> ImageStep:
        text = "\n".join(_requirements(found))
        return ImageStep(kind, title, tuple(arguments), text, variables_, mark)

    return Step(title, _key([str(found), *arguments], variables_, mark), (found,), made)


def project_requirements(path: object, extras: Sequence[str]) -> list[str]:
    """Return the dependencies that a pyproject.toml lists, with those of its `extras`."""
    import tomllib  # noqa: PLC0415  rarely

    found = existing("pyproject_toml", path)
    project = tomllib.loads(found.read_text(encoding="utf-8")).get("project", {})
    optional = project.get("optional-dependencies", {})
    missing = [extra for extra in extras if extra not in optional]
    if missing:
        raise InvalidError(
            f"optional_dependencies={list(extras)!r}: allowed are those of {found}: "
            f"{', '.join(optional) or 'there are none'}."
        )
    more = [each for extra in extras for each in optional[extra]]
    return [*project.get("dependencies", []), *more]


def run(
    raw: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> Step:
    """Return the step that runs a function."""
    if not callable(raw) or hasattr(type(raw), "__remote_reference__"):
        raise InvalidError(f"run_function({raw!r}): allowed is a plain function.")
    check_names("run_function", options, ("args", "kwargs", "env", "secrets"))
    variables_, mark = _while_built(options), _mark(options)
    title = f"run_function({getattr(raw, '__name__', type(raw).__name__)})"
    key = _key([str(id(raw))], variables_, mark)
    from notebook_ext.capture import Capturer  # noqa: PLC0415  cloudpickle: 20 ms

    capturer = Capturer(raw)

    def made() -> ImageStep:
        captured = capturer.read()
        arguments = pickle.dumps((args, kwargs))
        parts = captured.objects[captured.code], captured.objects[captured.snapshot]
        content = msgspec.msgpack.encode((*parts, arguments))
        stamp = mark + captured.version + digest_of(arguments)
        return ImageStep("function", title, (), "", variables_, stamp, content)

    return _Running(title, key, (), made)


class _Running(Step):
    """A step whose function may read differently at each call."""

    __slots__ = ()

    def stamp(self) -> tuple[object, ...]:
        """Return what the function is now."""
        return (self.made().stamp,)


@cache
def constraints() -> tuple[str, ...]:
    """Return what workers need in versions that fit those here."""
    from importlib import metadata  # noqa: PLC0415  large, and not everybody has an image

    found = [f"cloudpickle=={metadata.version('cloudpickle')}"]  # pickles by value are its own
    try:
        required = metadata.requires("notebook-ext") or []
    except metadata.PackageNotFoundError:  # a checkout on the path
        required = []
    for each in required:
        name = _NAME.match(each)
        if name is not None and name[0].lower() in _FIT and ";" not in each:
            found.append(each)
    return tuple(found)


def existing(option: str, path: object) -> Path:
    """Return the file or folder that `path` names; raise `InvalidError` where there is none."""
    found = Path(path).expanduser().absolute() if isinstance(path, str | Path) and path else None
    if found is None or not found.exists():
        raise InvalidError(f"{option}={path!r}: allowed is the path of something that exists.")
    return found


# ---- reading ----------------------------------------------------------------------------------


def _flat(method: str, packages: Iterable[object]) -> list[str]:
    """Return requirements that were given one by one, or in lists."""
    found: list[str] = []
    for each in packages:
        for one in each if isinstance(each, list | tuple) else (each,):
            if not isinstance(one, str) or not one.strip():
                raise InvalidError(f"{method}({one!r}): allowed are requirements, such as 'numpy'.")
            found.append(one.strip())
    if not found:
        raise InvalidError(f"{method}(): give at least one package, as in {method}('numpy').")
    return found


def _read(
    method: str, options: Mapping[str, Any]
) -> tuple[tuple[tuple[str, str], ...], list[str], str]:
    """Return the variables, the arguments and the mark that the options of an installer make."""
    check_names(method, options, (*_OF_INSTALLERS, *_WHILE_BUILT))
    pairs = dict(_while_built(options))
    for name, told in _INDEX.items():
        if (value := options.get(name)) is not None:
            pairs.update(dict.fromkeys(told, str(value)))
    arguments = ["--pre"] if options.get("pre") else []
    import shlex  # noqa: PLC0415  rarely

    arguments += shlex.split(str(options.get("extra_options") or ""))
    return tuple(sorted(pairs.items())), arguments, _mark(options)


def _while_built(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for secret in options.get("secrets") or ():
        if not isinstance(secret, Secret):
            kind = type(secret).__name__
            raise InvalidError(f"secrets=[<{kind}>]: allowed is a list of Secret.")
        pairs |= secret.values
    given = options.get("env")
    pairs |= variables("env", given) if given is not None else {}
    return tuple(sorted(pairs.items()))


def _mark(options: Mapping[str, Any]) -> str:
    """Return what makes a forced build differ from every other one."""
    return os.urandom(8).hex() if options.get("force_build") else ""


def _key(arguments: Sequence[str], pairs: Sequence[tuple[str, str]], mark: str) -> str:
    return digest_of(repr((list(arguments), list(pairs), mark)).encode())[:16]


def _located(requirement: str) -> tuple[str, Path | None]:
    """Return a requirement that is a path in its full form, and the path; others as they are."""
    path, bracket, extras = requirement.partition("[")
    if not path.startswith(("/", ".", "~")) and not path.endswith((".whl", ".tar.gz")):
        return requirement, None
    if "://" in requirement:
        return requirement, None
    found = existing("package", path)
    return f"{found}{bracket}{extras}", found


def _requirements(path: Path) -> list[str]:
    """Return the lines of a requirements file, those that it includes in their places."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        option, _, name = text.replace("=", " ", 1).partition(" ")
        if option in {"-r", "--requirement"}:
            found += _requirements(existing("requirements", path.parent / name.strip()))
        elif option in {"-c", "--constraint"}:
            found.append(f"{option} {existing('constraints', path.parent / name.strip())}")
        elif text.startswith(("./", "../")):
            found.append(str(path.parent / text))
        else:
            found.append(line)
    return found


def _content(path: Path) -> str:
    """Return what changes with the content of a file, or of a project's folder."""
    if path.is_file():
        return digest_of(path.read_bytes())
    return digest_of(repr(_stamp(path)).encode())


def _stamp(path: Path) -> tuple[object, ...]:
    """Return what changes when a file does, or one in a folder."""
    if not path.is_dir():
        found = path.stat() if path.exists() else None
        return (str(path), found and (found.st_mtime_ns, found.st_size))
    inner = sorted(
        each
        for each in path.rglob("*")
        if not any(
            p.startswith(".") or p in _NOT_PACKAGE or p.endswith(".egg-info")
            for p in each.relative_to(path).parts
        )
    )
    return tuple(_stamp(each) for each in inner if each.is_file())
