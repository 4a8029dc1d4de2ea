"""`Function`: a function that runs here or on workers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError
from kernel_worker.model import (
    CallContext,
    Digest,
    FunctionKey,
    FunctionSpec,
    PoolSettings,
    digest_of,
    is_deployed,
)
from kernel_worker.wire import frames as wire_frames
from kernel_worker.wire import messages, payload
from notebook_ext import marks, process
from notebook_ext import options as options_
from notebook_ext.arguments import copied, encoded, shared_object
from notebook_ext.autoscaler import Autoscaler, FunctionInfo, FunctionStats
from notebook_ext.call import FunctionCall
from notebook_ext.companions import Companions, gathering, note, table_here
from notebook_ext.generators import AttachedRun, RemoteGenerator, streams_items
from notebook_ext.looked_up import FromName, Lookup, ask
from notebook_ext.maps import Map
from notebook_ext.package import (
    Surroundings,
    Version,
    arrived_package,
    deployed_package,
    packed,
    pool_id,
)
from notebook_ext.receivers import Acceptance, Outcomes, SingleAnswer
from notebook_ext.submission import Package, Submission
from notebook_ext.twin import Waiting, done, stream, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kernel_worker.context import RunningInput
    from kernel_worker.wire.frames import Frame
    from notebook_ext.app import App
    from notebook_ext.capture import Captured, Capturer
    from notebook_ext.options import Options
    from notebook_ext.session import Session

P = ParamSpec("P")
R = TypeVar("R")


_NO_TABLE = Digest("")
_known: weakref.WeakValueDictionary[FunctionKey, Function[Any, Any]] = weakref.WeakValueDictionary()


class Function(Generic[P, R]):
    """A function that runs here when it is called, and on workers through `remote`, `map`, ….

    `App.function` makes it. It is read when it is called: its code, closure and the globals that it
    uses, as they are then.
    """

    def __init__(
        self, raw: Callable[P, Any], app: App, options: Options, variant: str = ""
    ) -> None:
        """Wrap `raw`; see `App.function` and, for `variant`, `with_options`."""
        self._raw: Callable[P, Any] | None = raw
        self._app: App | None = app
        self._options = options
        body = body_of(raw)
        self._name = options.name or body.__qualname__
        self._module = getattr(body, "__module__", None) or "builtins"  # none in a bare `exec`
        self._key = FunctionKey(f"{scope()}/{app.key}/{self._name}{variant}")
        self.is_generator = streams_items(raw, options, self._name)
        """Whether it gives items (`remote_gen`) instead of a value (`remote`)."""
        self._lock = threading.Lock()
        self._capturer: Capturer | None = None
        self._captured: Captured | None = None
        self._version: Version | None = None
        self._packed: tuple[tuple[Version, ...], Package] | None = None
        self._packed_as_argument: tuple[tuple[Version, ...], Package] | None = None
        self._table = _NO_TABLE
        self._surroundings: Surroundings | None = None
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
        table: Digest = _NO_TABLE,
        is_generator: bool = False,
    ) -> Function[Any, Any]:
        """Return a function that is known here by its key alone.

        `table` is where it is found that came as an argument.
        """
        function: Function[Any, Any] = object.__new__(cls)
        function._raw = None
        function._app = None
        function._name = name
        function._module = module
        function._key = key
        function._options = options_.Options()
        function.is_generator = is_generator
        function._table = table
        return function

    from_name: ClassVar[FromName] = FromName()
    """See `notebook_ext.looked_up.FromName`."""
    lookup: ClassVar[Lookup] = Lookup()
    """See `notebook_ext.looked_up.Lookup`."""

    # ---- calls ----------------------------------------------------------------------------------

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run here, as the plain function would; the same as `local`."""
        __tracebackhide__ = True
        return cast("R", self.get_raw_f()(*args, **kwargs))

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run here, as the plain function would."""
        __tracebackhide__ = True
        return cast("R", self.get_raw_f()(*args, **kwargs))

    @twin
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Waiting[R]:
        """Run on a worker, wait, and return the value or raise the original exception.

        Raises:
            SerializationError: an argument, or something that the function captured, cannot
                travel; nothing was sent.
        """
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("remote")
        session = process.current()
        running = running_input()
        package = self._package(running)
        companions: Companions = {}
        frames = gathering(companions, encoded, args, kwargs)
        call = session.new_call()
        answer = SingleAnswer(session.output(self._name), self._name)
        waiting = answer.waiting
        waiting.abandoned = partial(session.cancel, call)
        parent = None
        if running is not None:
            parent = running.as_parent()
            waiting.announce = partial(_announce, session, call)
        session.submit(
            Submission(
                call,
                package,
                answer,
                context=self._context(),
                parent=parent,
                companions=companions,
            ),
            1,
            frames,
        )
        return waiting

    @stream
    def remote_gen(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteGenerator[Any]:
        """Run a generator on a worker and yield its items as they are made.

        It starts when it is first iterated, with `for` or `async for`. It is at most 64 items or
        16 MiB ahead of the loop; leaving the loop closes it.

        Raises:
            InvalidError: the function is no generator.
            SerializationError: as `remote`.
        """
        __tracebackhide__ = True
        if is_deployed(self._key) and not self.is_generator:
            self.is_generator = ask(self._key).join().is_generator
        if not self.is_generator:
            raise InvalidError(
                f"{self._name} is no generator: call {self._name}.remote(...), or write it with "
                "`yield` (or is_generator=True, where it returns an iterator)."
            )
        companions: Companions = {}
        frames = copied(gathering(companions, encoded, args, kwargs))
        begin = partial(self._streamed, frames, companions)
        return RemoteGenerator(f"{self._name}.remote_gen", begin)

    @twin
    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> Waiting[FunctionCall[R]]:
        """Start on a worker and return a `FunctionCall`, which is durable from then on.

        Raises:
            SerializationError: as `remote`.
        """
        __tracebackhide__ = True
        companions: Companions = {}
        frames = copied(gathering(companions, encoded, args, kwargs))
        return self._spawned(1, frames, {}, companions)

    @twin
    def spawn_map(
        self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] | None = None
    ) -> Waiting[FunctionCall[R]]:
        """Start one durable call of many inputs: the iterables zipped, to the shortest."""
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("spawn_map")
        if not input_iterators:
            raise InvalidError(f"{self._name}.spawn_map needs at least one iterable.")
        inputs = list(zip(*input_iterators, strict=False))
        companions: Companions = {}
        encode = payload.encode_batch
        batch = gathering(companions, encode, inputs, wire_frames.FORM_ARGS) if inputs else []
        return self._spawned(len(inputs), copied(batch), kwargs or {}, companions)

    @stream
    def map(
        self,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = True,
    ) -> Map[R]:
        """Run on workers for each item of the iterables zipped, and yield the results.

        It starts when it is first iterated, with `for` or `async for`, and can be iterated once.

        Args:
            input_iterators: iterables, zipped to the shortest; they may be infinite, blocking or
                async.
            kwargs: keyword arguments that all inputs share; sent once.
            order_outputs: yield in the order of the inputs, or as they are done.
            return_exceptions: yield an exception in the place of its result instead of raising it.
            wrap_returned_exceptions: wrap these in `UserCodeException`.

        Raises:
            InvalidError: there are no iterables, or one of them is none.
        """
        if self.is_generator:
            raise self._gives_items("map")
        return Map(
            self,
            input_iterators,
            shared=kwargs or {},
            order_outputs=order_outputs,
            return_exceptions=return_exceptions,
            wrap_returned_exceptions=wrap_returned_exceptions,
        )

    @stream
    def starmap(
        self,
        input_iterator: Any,
        *,
        kwargs: Mapping[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool = True,
    ) -> Map[R]:
        """Do as `map` with one iterable whose items are tuples of arguments."""
        if self.is_generator:
            raise self._gives_items("starmap")
        return Map(
            self,
            (input_iterator,),
            spread=True,
            shared=kwargs or {},
            order_outputs=order_outputs,
            return_exceptions=return_exceptions,
            wrap_returned_exceptions=wrap_returned_exceptions,
        )

    @twin
    def for_each(
        self,
        *input_iterators: Any,
        kwargs: Mapping[str, Any] | None = None,
        ignore_exceptions: bool = False,
    ) -> Waiting[None]:
        """Run on workers for each item of the iterables zipped, and wait; results are not kept.

        Args:
            input_iterators: as for `map`.
            kwargs: as for `map`.
            ignore_exceptions: go on where an input fails, and raise nothing.
        """
        __tracebackhide__ = True
        if self.is_generator:
            raise self._gives_items("for_each")
        run: Map[R] = Map(self, input_iterators, shared=kwargs or {}, title="for_each")
        return run.drained(ignore_exceptions=ignore_exceptions)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Refuse to be a method: that would lose `self`."""
        if instance is None:
            return self
        raise InvalidError(
            f"{self._name} is a method, and @app.function is for plain functions: decorate it with "
            "@nb.method(), and its class with @app.cls()."
        )

    # ---- the pool -------------------------------------------------------------------------------

    @twin
    def keep_warm(self, warm_pool_size: int) -> Waiting[PoolSettings]:
        """Keep at least so many workers warm; the same as `update_autoscaler(min_containers=)`."""
        return self._configured({"min_containers": warm_pool_size})

    @twin
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> Waiting[PoolSettings]:
        """Change what is given of how many workers there are, at once.

        Args:
            min_containers: the warm floor.
            max_containers: the ceiling.
            buffer_containers: extra idle workers while the function is active.
            scaledown_window: seconds for which a worker above the floor stays idle.

        Returns:
            The settings in force.
        """
        given = {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "buffer_containers": buffer_containers,
            "scaledown_window": scaledown_window,
        }
        return self._configured({name: v for name, v in given.items() if v is not None})

    @property
    def autoscaler(self) -> Autoscaler:
        """The same by other names: `.update(...)` and `.settings()`."""
        return Autoscaler(self)

    @twin
    def get_current_stats(self) -> Waiting[FunctionStats]:
        """Return how many inputs wait and how many workers there are."""
        return self.pool_stats().then(FunctionStats.of)

    def with_options(self, **given: Any) -> Function[P, R]:
        """Return a variant of this function with a pool of its own; later values win.

        Raises:
            InvalidError: as `App.function`.
        """
        self._check_own("with_options", given)
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

    # ---- what it is -----------------------------------------------------------------------------

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

    @property
    def key(self) -> FunctionKey:
        """What a redefinition keeps."""
        return self._key

    @property
    def name(self) -> str:
        """The name that messages and displays use."""
        return self._name

    @property
    def has_code(self) -> bool:
        """Whether it is defined here, rather than known by key."""
        return self._app is not None

    def __remote_reference__(self) -> FunctionKey:
        """Return what other functions carry of it."""
        return self._key

    def __reduce__(self) -> tuple[Any, ...]:
        table = _NO_TABLE if is_deployed(self._key) else note(self)
        place = (self._key, self._name, self._module, self.is_generator)
        return referenced, (*place, table) if table else place

    def __repr__(self) -> str:
        if is_deployed(self._key):
            return f"<Function {self._key.partition('/')[2]}, deployed>"
        return f"<Function {self._module}.{self._name}>"

    def read(self) -> Version:
        """Return the function as it reads now: the same object as last time if nothing changed."""
        with self._lock:
            if self._capturer is None:
                from notebook_ext.capture import Capturer  # noqa: PLC0415  cloudpickle: 20 ms

                self._capturer = Capturer(cast("Any", self._raw))
            captured = self._capturer.read()
            if captured is not self._captured or self._version is None:
                self._captured = captured
                self._version = self._made(captured)
            return self._version

    # ---- behind them ----------------------------------------------------------------------------

    def pool_stats(self) -> Waiting[messages.PoolStats]:
        """Ask how the pool stands; for `get_current_stats` and the autoscaler."""
        package = self._package(running_input())
        pool = package.spec.pool
        return process.current().ask("pool_stats", pool, messages.PoolStats, package)

    def as_argument(self) -> Package:
        """Return what calls of it need where it arrives as an argument; it has a table."""
        running = running_input()
        if not self.has_code:
            return arrived_package(self._key, running, self._table)
        self._packed_as_argument = packed(self, self._packed_as_argument, with_table=True)
        return self._packed_as_argument[1]

    def submission(self, session: Session, receiver: Any, shared: Mapping[str, Any]) -> Submission:
        """Return a call of this function, as made here and now, without inputs; for maps."""
        running = running_input()
        package = self._package(running)
        companions: Companions = {}
        digest, objects = gathering(companions, shared_object, shared)
        return Submission(
            session.new_call(),
            package,
            receiver,
            shared=digest,
            context=self._context(),
            parent=running.as_parent() if running is not None else None,
            objects=objects,
            companions=companions,
        )

    def _package(self, running: RunningInput | None) -> Package:
        if not self.has_code:
            if is_deployed(self._key):
                return deployed_package(self._key, self._name)
            return arrived_package(self._key, running, self._table)
        self._packed = packed(self, self._packed)
        return self._packed[1]

    def _context(self) -> CallContext:
        surroundings = self._surroundings if self.has_code else None
        if surroundings is None:
            return CallContext(os.getcwd())  # noqa: PTH109  as in `Surroundings`
        return surroundings.call_context()

    def _made(self, captured: Captured) -> Version:
        """Return the version that goes with what was captured."""
        around = self._surroundings
        encoded = captured.objects[captured.environment]
        if around is None or around.source != captured.environment:
            around = Surroundings(captured.environment, encoded, self._options.variables)
            self._surroundings = around
        options = self._options
        spec = FunctionSpec(
            pool=pool_id(
                self._key,
                captured.version,
                around.digest,
                captured.imports,
                options.changes_pool(),
            ),
            key=self._key,
            name=self._name,
            module=self._module,
            version=captured.version,
            code=captured.code,
            environment=around.digest,
            imports=captured.imports,
            resources=options.resources,
            settings=options.settings,
            retries=options.retries,
            timeout_seconds=options.timeout_seconds,
            startup_timeout_seconds=options.startup_timeout_seconds or options.timeout_seconds,
            rerun_on_crash=options.rerun_on_crash,
            single_use=options.single_use,
            nested_loops=options.nested_loops,
            max_inputs=options.max_inputs,
            target_inputs=options.target_inputs,
            max_batch_size=options.max_batch_size,
            batch_wait_seconds=options.batch_wait_seconds,
        )
        objects = {**captured.objects, **captured.stored, around.digest: around.encoded}
        needed = tuple(captured.stored)
        return Version(spec, captured.snapshot, objects, captured.references, needed)

    def _spawned(
        self,
        count: int,
        frames: Sequence[Frame],
        shared: Mapping[str, Any],
        companions: Companions,
    ) -> Waiting[FunctionCall[R]]:
        session = process.current()
        said = self.submission(session, None, shared)
        output = session.output(self._name, said.call)
        call: FunctionCall[R] = FunctionCall(said.call, self._name, count, self.is_generator)
        acceptance = Acceptance(output, call)
        said.companions.update(companions)
        said.receiver = acceptance
        said.attached = False
        said.streams = self.is_generator
        session.submit(said, count, frames)
        call.follow(session, Outcomes(output, self._name, count))
        waiting: Waiting[FunctionCall[R]] = acceptance.waiting
        return waiting

    def _streamed(self, frames: Sequence[Frame], companions: Companions) -> AttachedRun:
        session = process.current()
        said = self.submission(session, None, {})
        said.companions.update(companions)
        said.streams = True
        return AttachedRun(session, said, self._name, frames)

    def _gives_items(self, asked: str) -> InvalidError:
        name = self._name
        spawned = " (or .spawn(...).get_gen(), to keep what it gives)"
        return InvalidError(
            f"{name} is a generator: {name}.{asked} has no value to give back. Call "
            f"{name}.remote_gen(...) and iterate{spawned}."
        )

    def _configured(self, given: dict[str, Any]) -> Waiting[PoolSettings]:
        settings = options_.check_settings(given, self._options.settings)
        if not self.has_code and not given:
            return self.pool_stats().then(lambda stats: stats.settings)
        if not given:
            return done(settings)
        if self.has_code:
            self._take_settings(settings)
        package = self._package(running_input())
        changes = dict(given)
        if "scaledown_window" in changes:
            changes["scaledown_window_seconds"] = float(changes.pop("scaledown_window"))
        return process.current().configure(package.spec.pool, package, changes)

    def _take_settings(self, settings: PoolSettings) -> None:
        with self._lock:
            self._options = dataclasses.replace(self._options, settings=settings)
            self._version = None  # the next versions have them too


def _spelled(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def referenced(
    key: FunctionKey,
    name: str,
    module: str,
    is_generator: bool = False,  # noqa: FBT001, FBT002  pickled
    table: Digest = _NO_TABLE,
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


def _announce(session: Session, call: Any, running: RunningInput, begins: bool) -> None:  # noqa: FBT001  a callback
    session.announce(running, begins, (call,))
