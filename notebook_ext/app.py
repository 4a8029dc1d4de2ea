"""`App`: what functions are defined on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from kernel_worker.errors import InvalidError
from notebook_ext import cloud
from notebook_ext import options as options_
from notebook_ext.function import Function, body_of
from notebook_ext.hooks import MethodDefinition, is_hook
from notebook_ext.marks import is_endpoint, marked_options
from notebook_ext.twin import twin

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from notebook_ext.cls import Cls
    from notebook_ext.deployment import Deployment
    from notebook_ext.image import Image
    from notebook_ext.options import Options
    from notebook_ext.secret import Secret
    from notebook_ext.twin import Waiting

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """A named group of functions. An unnamed one lives as long as the session."""

    def __init__(
        self,
        name: str | None = None,
        *,
        image: Image | None = None,
        secrets: Sequence[Secret] | None = None,
    ) -> None:
        """Make the app `name`.

        Args:
            name: for people, and for what is deployed.
            image: that of the functions and classes which have none of their own.
            secrets: those of all functions and classes, beside their own, which are stronger.

        Raises:
            InvalidError: the name is no name, the image none, or the secrets no list of them.
        """
        given: object = name
        if given is not None and not (isinstance(given, str) and given and "/" not in given):
            raise InvalidError(f"App({name!r}): allowed is a non-empty str without a slash.")
        self._name = name
        defaults = {"image": image} if image is not None else {}
        self._defaults = options_.parse({**defaults, "secrets": secrets})
        self._secrets = list(secrets or ())
        self._functions: dict[str, Function[Any, Any]] = {}
        self._entrypoints: dict[str, Callable[..., Any]] = {}
        self._classes: dict[str, Cls] = {}

    @property
    def name(self) -> str | None:
        """The name, if it has one."""
        return self._name

    @property
    def key(self) -> str:
        """The app's part of its functions' keys."""
        return self._name if self._name is not None else "-"

    @property
    def registered_entrypoints(self) -> dict[str, Callable[..., Any]]:
        """The functions that a command line can begin with, by name."""
        return dict(self._entrypoints)

    @property
    def registered_functions(self) -> dict[str, Function[Any, Any]]:
        """The functions defined on it, by name."""
        return dict(self._functions)

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """The classes defined on it, by name."""
        return dict(self._classes)

    @overload
    def function(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def function(self, raw: Callable[P, R], /) -> Function[P, R]: ...
    @overload
    def function(self, raw: None = None, /, **options: Any) -> _Decorator: ...
    def function(self, raw: Any = None, /, **options: Any) -> Any:
        """Make a function one that can run on workers; with options or bare.

        Args:
            raw: the function, where the decorator is bare.
            options: see the table in the documentation: cpu, memory (MiB), gpu, min_containers,
                max_containers, buffer_containers, scaledown_window (seconds), timeout (seconds),
                startup_timeout (seconds), retries, rerun_on_crash, env, schedule, name, ….

        Raises:
            InvalidError: an option, a value or a function that cannot be.
        """
        parsed = self._parsed(options)
        if raw is None:
            return _Decorator(self, parsed)
        return _Decorator(self, parsed)(raw)

    def _parsed(self, options: dict[str, Any]) -> Options:
        """Return the options of a function or a class, with what the app has for all."""
        own = options.get("secrets")
        if self._secrets and isinstance(own, list | tuple):
            options = {**options, "secrets": [*self._secrets, *own]}
        return options_.parse(options, self._defaults)

    def local_entrypoint(self, raw: Any = None, /, *, name: str | None = None) -> Any:
        """Name a function that `notebook-ext run` can begin with; it stays a plain function.

        Its parameters are the options of the command line, by their annotations.

        Raises:
            InvalidError: it is no plain function.
        """
        if raw is None:
            return lambda function: self.local_entrypoint(function, name=name)
        if isinstance(raw, Function) or not callable(raw) or not hasattr(raw, "__name__"):
            raise InvalidError(
                f"@app.local_entrypoint on {raw!r}: allowed is a plain function, which "
                "calls remote ones."
            )
        self._entrypoints[name or raw.__name__] = raw
        return raw

    @overload
    def cls(self, raw: type, /) -> Cls: ...
    @overload
    def cls(self, raw: None = None, /, **options: Any) -> Callable[[type], Cls]: ...
    def cls(self, raw: Any = None, /, **options: Any) -> Any:
        """Make a class one whose methods can run on workers; with options or bare.

        Args:
            raw: the class, where the decorator is bare.
            options: as of `function`; each distinct set of parameters has a pool with them.

        Raises:
            InvalidError: an option, a value or a class that cannot be.
        """
        parsed = self._parsed(options)
        if parsed.is_generator is not None:
            raise InvalidError(
                f"is_generator={parsed.is_generator}: a class has none; leave it out, methods are "
                "generators where they are written with `yield`."
            )

        if parsed.schedule is not None:
            raise InvalidError(
                f"schedule={str(parsed.schedule)!r}: a class has none; give it to a function, "
                "@app.function(schedule=...), that calls a method of an instance."
            )

        from notebook_ext.cls import Cls, batched_method, checked_class  # noqa: PLC0415  when used

        def decorated(kind: Any) -> Cls:
            marked = {**marked_options(checked_class(kind)), **batched_method(kind)}
            options = options_.with_marks(parsed, marked)
            if is_endpoint(kind):
                from notebook_ext.web import function, serving  # noqa: PLC0415  when used

                options = function.check_options(options, kind)
                serving.equip(kind)
            made = Cls(kind, self, options)
            self._classes[made.name] = made
            return made

        return decorated if raw is None else decorated(raw)

    def run(self, **_: object) -> Running:
        """Do nothing, in `with` and `async with`: functions run on workers with and without it."""
        return Running(self)

    @twin
    def deploy(
        self, /, name: str | None = None, *, tag: str = "", **cloud_only: Any
    ) -> Waiting[Deployment]:
        """Make the functions and classes, as they are now, known by name: everywhere, from now on.

        `Function.from_name(app, name)` and `Cls.from_name(app, name)` find them. Deploying
        again puts a new version in the place of the old one, on which the calls in flight end. The
        floors (`min_containers`) of functions, and of the instance of a class that has no
        parameters or only defaults, are kept without any notebook.

        Args:
            name: the app's name, where it is not the one that it was made with.
            tag: whatever you call this version, for the history.
            cloud_only: `environment_name` selects the profile.

        Returns:
            What is deployed, with its version.

        Raises:
            InvalidError: it has no name or no functions.
            SerializationError: something that a function captures cannot travel.
        """
        __tracebackhide__ = True
        from notebook_ext import deployment  # noqa: PLC0415  imported when used

        cloud.check("deploy", {k: v for k, v in cloud_only.items() if k != "show_progress"})
        return deployment.deploy(self, name, tag)

    def add(self, function: Function[Any, Any]) -> None:
        """Note a function that was defined on this app."""
        self._functions[function.name] = function

    def __repr__(self) -> str:
        return f"App({self._name!r})" if self._name is not None else "App()"

    def __reduce__(self) -> tuple[Any, ...]:
        return App, (self._name,)  # its functions travel with their own options


class Running:
    """What `with app.run():` enters: the app itself."""

    def __init__(self, app: App) -> None:
        """Stand for `app`."""
        self._app = app

    def __enter__(self) -> App:
        return self._app

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> App:
        return self._app

    async def __aexit__(self, *_: object) -> None:
        pass


class _Decorator:
    """`@app.function(...)`, with its options read."""

    def __init__(self, app: App, options: options_.Options) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]]) -> Function[P, R]: ...
    @overload
    def __call__(self, raw: Callable[P, R]) -> Function[P, R]: ...
    def __call__(self, raw: Callable[..., Any]) -> Function[..., Any]:
        """Return the `Function`."""
        options = options_.with_marks(self._options, marked_options(raw))
        if is_endpoint(raw):
            return cast("Function[..., Any]", self._web_function(raw, options))
        function: Function[..., Any] = Function(_checked(raw), self._app, options)
        if options.schedule is not None:
            from notebook_ext.schedule import check_function  # noqa: PLC0415  only where there is one

            check_function(raw, options.schedule)
        self._app.add(function)
        return function

    def _web_function(self, raw: Callable[..., Any], options: options_.Options) -> Any:
        from notebook_ext.web.function import WebFunction  # noqa: PLC0415  when used

        made = WebFunction(raw, self._app, options)
        self._app._classes[made.name] = made  # noqa: SLF001  it is a part of it
        return made


def _checked(raw: Any) -> Callable[..., Any]:
    """Return `raw` if it can be a remote function; raise `InvalidError` otherwise."""
    if isinstance(raw, Function):
        raise InvalidError(f"{raw.name} is a remote function already; use .with_options(...).")
    if inspect.isclass(raw):
        raise InvalidError(
            f"{raw.__qualname__} is a class, and @app.function is for functions: use @app.cls()."
        )
    if isinstance(raw, MethodDefinition) or is_hook(raw):
        raise InvalidError(
            f"{raw.__qualname__} is a method, and @app.function is for plain functions: options "
            "go to the class, @app.cls(...)."
        )
    if not callable(raw):
        raise InvalidError(
            f"@app.function on {raw!r}: allowed is a function (options are given by name)."
        )
    if not hasattr(body_of(raw), "__qualname__"):
        raise InvalidError(f"@app.function on {raw!r}: allowed is a function with a name.")
    return raw  # type: ignore[no-any-return]
