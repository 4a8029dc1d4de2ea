"""`Function`: a function that runs here or on workers."""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, ParamSpec, TypeVar, cast

from msgspec.structs import replace

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError
from kernel_worker.model import Digest, FunctionKey, digest_of, is_deployed
from notebook_ext import marks
from notebook_ext import options as options_
from notebook_ext.autoscaler import Pooled
from notebook_ext.callee import Callee
from notebook_ext.companions import note, table_here
from notebook_ext.looked_up import FromName, Lookup, ask
from notebook_ext.source import NO_TABLE, Source
from notebook_ext.stored import objects_of
from notebook_ext.twin import Waiting, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kernel_worker.model import Schedule
    from notebook_ext.app import App
    from notebook_ext.options import Options

P = ParamSpec("P")
R = TypeVar("R")

_known: weakref.WeakValueDictionary[FunctionKey, Function[Any, Any]] = weakref.WeakValueDictionary()


class FunctionInfo(NamedTuple):
    """What a function is."""

    name: str
    module: str
    signature: str
    version: str
    options: Options


class Function(Callee[P, R], Pooled):
    """A function that runs here when it is called, and on workers through `remote`, `map`, ….

    `App.function` makes it. It is read when it is called: its code, closure and the globals that it
    uses, as they are then.
    """

    def __init__(
        self, raw: Callable[P, Any], app: App, options: Options, variant: str = ""
    ) -> None:
        """Wrap `raw`; see `App.function` and, for `variant`, `with_options`."""
        body = body_of(raw)
        name = options.name or body.__qualname__
        super().__init__(
            FunctionKey(f"{scope()}/{app.key}/{name}{variant}"),
            name,
            getattr(body, "__module__", None) or "builtins",  # none in a bare `exec`
            options,
            raw=raw,
            app=app,
        )
        self.is_generator = marks.streams_items(raw, options, name)
        self._introduce(raw)

    def _introduce(self, raw: Callable[P, Any]) -> None:
        """Look like `raw`, and be found by key."""
        functools.update_wrapper(self, raw)
        _known[self._key] = self

    @classmethod
    def reference(
        cls,
        key: FunctionKey,
        name: str,
        module: str,
        *,
        table: Digest = NO_TABLE,
        is_generator: bool = False,
    ) -> Function[Any, Any]:
        """Return a function that is known here by its key alone.

        `table` is where it is found that came as an argument.
        """
        function: Function[Any, Any] = object.__new__(cls)
        Source.__init__(function, key, name, module, options_.Options(), table=table)
        function.is_generator = is_generator
        names = {"__name__": name.rpartition(".")[2], "__qualname__": name, "__module__": module}
        vars(function).update(names)  # as `_introduce` does
        return function

    def newest(self) -> Function[P, R]:
        """Return the function that its cell defines now."""
        return _known.get(self._key, self)

    from_name: ClassVar[FromName] = FromName()
    """See `notebook_ext.looked_up.FromName`."""
    lookup: ClassVar[Lookup] = Lookup()
    """See `notebook_ext.looked_up.Lookup`."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run here, as the plain function would; the same as `local`."""
        __tracebackhide__ = True
        found, named = objects_of(args, kwargs)
        return cast("R", self.get_raw_f()(*found, **named))

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run here, as the plain function would."""
        __tracebackhide__ = True
        found, named = objects_of(args, kwargs)
        return cast("R", self.get_raw_f()(*found, **named))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Refuse to be a method: that would lose `self`."""
        if instance is None:
            return self
        raise InvalidError(
            f"{self._name} is a method, and @app.function is for plain functions: decorate it with "
            "@nb.method(), and its class with @app.cls()."
        )

    def with_options(self, **given: Any) -> Function[P, R]:
        """Return a variant of this function with a pool of its own; later values win.

        Raises:
            InvalidError: as `App.function`.
        """
        self._check_own("with_options", given)
        if given.get("schedule") is not None:
            raise InvalidError(
                f"{self._name}.with_options(schedule={given['schedule']!r}): a variant is not "
                "deployed, and what is not deployed is not called by itself; give the schedule to "
                "@app.function."
            )
        return self._variant(options_.parse(given, self._options))

    def with_concurrency(
        self, *, max_inputs: int, target_inputs: int | None = None
    ) -> Function[P, R]:
        """Return a variant of which a worker runs several inputs at once; see `concurrent`.

        Raises:
            InvalidError: as `concurrent`.
        """
        given = {"max_inputs": max_inputs, "target_inputs": target_inputs}
        self._check_own("with_concurrency", given)
        return self._variant(options_.with_concurrency(self._options, max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Function[P, R]:
        """Return a variant whose function takes lists of inputs; see `batched`.

        Raises:
            InvalidError: as `batched`.
        """
        self._check_own("with_batching", {"max_batch_size": max_batch_size, "wait_ms": wait_ms})
        options = options_.with_batching(self._options, max_batch_size, wait_ms)
        marks.check_batched(self.get_raw_f())
        return self._variant(options)

    def _check_own(self, asked: str, given: Mapping[str, Any]) -> None:
        """Raise `InvalidError` unless it is defined here."""
        if self._app is None:
            where = "deployed" if is_deployed(self._key) else "defined in another process"
            raise InvalidError(
                f"{self._name}.{asked}({_spelled(given)}): {self._name} is {where}; give its "
                "options where it is defined."
            )

    def _variant(self, options: Options) -> Function[P, R]:
        assert self._app is not None  # noqa: S101  see `_check_own`
        mark = digest_of(repr((options.changes_pool(), options.settings)).encode())[:8]
        return Function(self.get_raw_f(), self._app, options, f"~{mark}")

    @property
    def schedule(self) -> Schedule | None:
        """When it is called by itself once it is deployed, and where: in this directory."""
        schedule = self._options.schedule
        if schedule is None:
            return None
        return replace(schedule, directory=self._context().directory)

    @property
    def _replayable(self) -> Any:
        return self._raw

    def get_raw_f(self) -> Callable[P, Any]:
        """Return the plain function.

        In a worker, a function that only arrived by name is loaded first; so is one that is
        deployed, in the version that is in force.
        """
        if is_deployed(self._key):
            from notebook_ext.arrival import load_deployed  # noqa: PLC0415  rarely

            return load_deployed(ask(self._key).join())
        if self._raw is None:
            from notebook_ext.arrival import load  # noqa: PLC0415  in workers only

            self._raw = load(self._key, self._table)
        return self._raw

    @property
    def web_url(self) -> str:
        """The URL at which a deployed endpoint is served.

        Raises:
            InvalidError: it is no endpoint.
        """
        found = self._web_url()
        if found is None:
            raise InvalidError(
                f"{self._name}.web_url: {self._name} is no endpoint; write @nb.fastapi_endpoint() "
                "below @app.function() (there are asgi_app, wsgi_app and web_server too)."
            )
        return found

    @twin
    def get_web_url(self, /) -> Waiting[str | None]:
        """Return `web_url`, or None where it is no endpoint."""
        waiting: Waiting[str | None] = Waiting()
        waiting.complete(self._web_url)
        return waiting

    def _web_url(self) -> str | None:
        if not is_deployed(self._key):
            return None
        from notebook_ext.web import deployed  # noqa: PLC0415  where one is asked for

        return deployed.url_of(self._key)

    @property
    def version(self) -> str:
        """The content hash of the code as it is now: what workers would run."""
        if is_deployed(self._key):
            return str(ask(self._key).join().spec.version)
        return str(self._package(running_input()).spec.version)

    def info(self) -> FunctionInfo:
        """Return the name, module, signature, version and options."""
        raw = self.get_raw_f()
        return FunctionInfo(
            self._name, self._module, str(inspect.signature(raw)), self.version, self._options
        )

    def __remote_reference__(self) -> FunctionKey:
        """Return what other functions carry of it."""
        return self._key

    def __reduce__(self) -> tuple[Any, ...]:
        table = NO_TABLE if is_deployed(self._key) else note(self)
        place = (self._key, self._name, self._module, self.is_generator)
        return referenced, (*place, table) if table else place

    def __repr__(self) -> str:
        if is_deployed(self._key):
            return f"<Function {self._key.partition('/')[2]}, deployed>"
        return f"<Function {self._module}.{self._name}>"


def _spelled(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def referenced(
    key: FunctionKey,
    name: str,
    module: str,
    is_generator: bool = False,  # noqa: FBT001, FBT002  pickled
    table: Digest = NO_TABLE,
) -> Function[Any, Any]:
    """Return the function with this key: the one that is defined here, or a reference to it."""
    return _known.get(key) or Function.reference(
        key, name, module, table=table or table_here(), is_generator=is_generator
    )


def body_of(raw: Any) -> Any:
    """Return what gives `raw` its name: of a `functools.partial`, the function in it."""
    while isinstance(raw, functools.partial):
        raw = raw.func
    return raw


_scope = ""
_scope_pid = 0


def scope() -> str:
    """Return what keeps the functions of this process apart from those of others."""
    global _scope, _scope_pid  # one a process, a new one after a fork
    if _scope_pid != os.getpid():
        _scope, _scope_pid = os.urandom(6).hex(), os.getpid()
    return _scope
