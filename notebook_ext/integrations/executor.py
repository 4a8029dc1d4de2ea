"""`nb.Executor`: a `concurrent.futures.Executor` whose workers are kernel workers.

Theory. As many calls are under way as there are workers, and one ahead for each: a call is under
way from `submit` on where there is room. What waits beyond that waits here, where it can still be
cancelled. A thread submits, and completes the futures, so that their callbacks hold up no other
call. It lives while there is something to do, and Python
waits for it before it exits, as for the standard pools. An executor that nobody holds any more lets
its workers go, as one that is shut down.

Guarantees: those of remote functions. A worker that dies costs its own inputs a repetition, not the
executor; what a function raises is the original exception; prints appear in the cell that
submitted. What our own errors say is also said in the words of the standard executors, by which
libraries catch it: `DeadWorkerError` and `UnpicklableError`.
Not guaranteed: that a future can be cancelled once its call is under way (`running()`).
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import itertools
import logging
import os
import pickle
import queue
import re
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from kernel_worker.context import running_input
from kernel_worker.errors import Error, InternalFailure, InvalidError, SerializationError
from kernel_worker.wire import byvalue
from notebook_ext import dropping, process
from notebook_ext.app import App

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from notebook_ext.function import Function
    from notebook_ext.twin import Waiting

P = ParamSpec("P")
T = TypeVar("T")

KEPT_SECONDS = 24 * 3600
"""How long an idle worker of an executor that is in use lives: its initializer has run."""
_numbers = itertools.count(1)
_log = logging.getLogger("concurrent.futures")


class BrokenExecutor(concurrent.futures.BrokenExecutor):
    """The initializer of an executor has failed in a worker: nothing can run in it."""


class DeadWorkerError(BrokenExecutor, InternalFailure):
    """Workers died under a call. It alone has failed: the executor goes on with others."""


class UnpicklableError(SerializationError, pickle.PicklingError):
    """A function, an argument or a result cannot be pickled; the message has the path to it."""


class InitializerError(Exception):
    """Raised in a worker for what its executor's initializer raised, which is the cause."""


class _Work(NamedTuple):
    future: Future[Any]
    context: contextvars.Context
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Executor(concurrent.futures.Executor):
    """Runs functions on kernel workers behind the standard library's interface."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,  # noqa: ARG002  that of ProcessPoolExecutor
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        *,
        kept_seconds: float = KEPT_SECONDS,
        **options: Any,
    ) -> None:
        """Make an executor; workers start with the first calls.

        Args:
            max_workers: the most workers at once; as many as this machine has CPUs by default.
            mp_context: taken and not used, so that this can stand for a ProcessPoolExecutor.
            initializer: called once in each worker, before its first call.
            initargs: the initializer's arguments.
            kept_seconds: how long an idle worker lives while the executor is in use.
            options: those of `app.function` but for the ones that count containers: `gpu`,
                `timeout`, `retries`, ….

        Raises:
            InvalidError: an option that `app.function` refuses.
            TypeError, ValueError: as the standard executors raise them.
        """
        if max_workers is None:
            max_workers = os.cpu_count() or 1
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        for name in ("max_containers", "min_containers", "scaledown_window", "name"):
            if name in options:
                raise InvalidError(f"Executor({name}=...): use max_workers, the rest is its own.")
        options.setdefault("cpu", min(1.0, (os.cpu_count() or 1) / max_workers))
        number = f"{os.getpid()}-{next(_numbers)}"
        app = App("executors")
        self._function = app.function(
            name=f"executor-{number}",
            max_containers=max_workers,
            scaledown_window=kept_seconds,
            **options,
        )(partial(_called, number, _KeyOfManagers(), initializer, tuple(initargs)))
        self._function.says_why_it_waits = False  # for its own other calls
        self._max_workers = max_workers  # dask and others look at that of any executor
        self._limit = 2 * max_workers
        self._lock = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._starting: deque[_Work] = deque()
        self._under_way: dict[Future[Any], Waiting[Any]] = {}
        self._taken = 0  # of these two together, and of what is on its way from one to the other
        self._abandoned: set[Future[Any]] = set()  # before they had started
        self._inbox: queue.SimpleQueue[tuple[_Work, Waiting[Any]] | None]
        self._inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_shut_down = False
        self._broken = ""
        dropping.when_dropped(self, partial(_let_go, self._function))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule `fn(*args, **kwargs)` and return its future.

        Raises:
            BrokenExecutor: the initializer has failed.
            RuntimeError: the executor was shut down, or Python is about to exit.
        """
        with self._lock:
            if self._broken:
                raise BrokenExecutor(self._broken)
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _is_exiting():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            future: Future[T] = Future()
            work = _Work(future, contextvars.copy_context(), fn, args, kwargs)
            if self._taken < self._limit and not self._waiting:
                self._take(work, self._starting)
            else:
                self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="notebook-ext-executor")
                self._thread.start()
            else:
                self._inbox.put(None)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return the results of `fn` for the iterables zipped, in their order.

        Args:
            fn: sent once, as it is now.
            iterables: read at once, or as `buffersize` says.
            timeout: seconds from now after which `TimeoutError` is raised where a result is due.
            chunksize: how many inputs a call runs.
            buffersize: how many calls may be ahead of the results that were taken.

        Raises:
            ValueError: `chunksize` or `buffersize` is less than 1.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        chunks = _chunked(zip(*iterables, strict=False), chunksize)
        sent = byvalue.dumps(fn)

        def submit(chunk: list[tuple[Any, ...]]) -> Future[list[T]]:
            return self.submit(_mapped, sent, chunk)

        futures = deque(submit(chunk) for chunk in itertools.islice(chunks, buffersize))
        return _taken(futures, chunks, submit, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  the standard library's
        """Take no more work, and let the workers go once all of it is done.

        Args:
            wait: return when every future is done.
            cancel_futures: cancel what has not been sent to a worker.
        """
        with self._lock:
            self._is_shut_down = True
            thread = self._thread
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            if thread is None:
                _let_go(self._function)
            else:
                self._inbox.put(None)
        for work in dropped:
            if work.future.cancel():
                work.future.set_running_or_notify_cancel()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def abandon(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel futures, those that run too: these end with a `CallCancelledError`."""
        for future in futures:
            if future.cancel() or future.done():
                continue
            with self._lock:
                waiting = self._under_way.get(future)
                if waiting is None:
                    self._abandoned.add(future)
            if waiting is not None:
                waiting.abandon()

    # ---- its thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            self._fill()
            with self._lock:
                if not self._taken and not self._waiting:
                    self._thread = None
                    if self._is_shut_down:
                        _let_go(self._function)
                    return
            done = self._inbox.get()
            if done is not None:
                work, waiting = done
                with self._lock:
                    self._under_way.pop(work.future, None)
                    self._abandoned.discard(work.future)
                    self._taken -= 1
                _announce(work.context, waiting, begins=False)
                self._fill()  # before the callbacks of this one
                self._complete(work.future, waiting)
                del work, waiting
                del done

    def _take(self, work: _Work, into: deque[_Work]) -> None:
        """Have a call be under way, unless its future was cancelled."""
        if work.future.set_running_or_notify_cancel():
            self._taken += 1
            into.append(work)

    def _fill(self) -> None:
        while True:
            with self._lock:
                while self._waiting and self._taken < self._limit:
                    self._take(self._waiting.popleft(), self._starting)
                if not self._starting:
                    return
                work = self._starting.popleft()
            self._start(work)
            del work

    def _start(self, work: _Work) -> None:
        future = work.future
        start = self._function.remote.start
        try:
            waiting = work.context.run(start, work.function, work.args, work.kwargs)
        except BaseException as error:  # noqa: BLE001  it is the future's outcome
            with self._lock:
                self._abandoned.discard(future)
                self._taken -= 1
            future.set_exception(_in_standard_words(error))
            return
        _announce(work.context, waiting, begins=True)
        with self._lock:
            self._under_way[future] = waiting
            is_abandoned = future in self._abandoned
        waiting.add_callback(partial(self._inbox.put, (work, waiting)))
        if is_abandoned:
            waiting.abandon()

    def _complete(self, future: Future[Any], waiting: Waiting[Any]) -> None:
        try:
            value = waiting.result()
        except InitializerError as error:
            self._break(error)
            future.set_exception(BrokenExecutor(self._broken))
        except BaseException as error:  # noqa: BLE001  it is the future's outcome
            future.set_exception(_in_standard_words(error))
        else:
            future.set_result(value)

    def _break(self, error: InitializerError) -> None:
        with self._lock:
            if self._broken:
                return
            self._broken = f"the initializer has failed: {error}"
            dropped = list(self._waiting)
            self._waiting.clear()
        _log.critical("Exception in initializer:", exc_info=error)
        for work in dropped:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(BrokenExecutor(self._broken))


def _let_go(function: Function[..., Any]) -> None:
    """Have the idle workers of an executor end; nobody waits, and no session is made for that."""
    if process.connected() is not None:
        function.update_autoscaler.start(scaledown_window=2)


def _announce(context: contextvars.Context, waiting: Waiting[Any], *, begins: bool) -> None:
    """Have an input that submits give its place up as long as its call is under way.

    However it waits, by `wait` or `as_completed` for example, or in a loop of joblib: where all
    places are those of inputs that submit, none would ever end.
    """
    if waiting.announce is not None:
        running = context.run(running_input)
        if running is not None:
            waiting.announce(running, begins)


def _is_exiting() -> bool:
    """Say whether this is called at Python's exit, when nobody waits for threads any more."""
    main = threading.main_thread()
    return not main.is_alive() and threading.current_thread() is main


STANDARD: dict[type[BaseException], type[Error]] = {
    InternalFailure: DeadWorkerError,
    SerializationError: UnpicklableError,
}
_PATHS = {"args[0]": "fn", "args[1]": "args", "args[2]": "kwargs"}
"""What the arguments of `_called` are to whoever submitted."""


def _in_standard_words(error: BaseException) -> BaseException:
    """Return an error of ours as one that is of a standard kind too; others as they are."""
    kind = STANDARD.get(type(error))
    if kind is None:
        return error
    text = re.sub(r"^args\[[012]\]", lambda found: _PATHS[found[0]], str(error))
    said = kind(text).with_traceback(error.__traceback__)
    said.__cause__ = error.__cause__
    for note in getattr(error, "__notes__", ()):
        said.add_note(note)
    return said


def _taken(
    futures: deque[Future[list[T]]],
    chunks: Iterator[list[tuple[Any, ...]]],
    submit: Callable[[list[tuple[Any, ...]]], Future[list[T]]],
    end: float | None,
) -> Iterator[T]:
    """Yield results in order; what is left at the end, or where it is left, is cancelled."""
    try:
        while futures:
            future = futures.popleft()
            try:
                values = future.result(None if end is None else end - time.monotonic())
            finally:
                future.cancel()
            futures.extend(submit(chunk) for chunk in itertools.islice(chunks, 1))
            del future
            values.reverse()
            while values:
                yield values.pop()  # and hold it no longer
    finally:
        for future in futures:
            future.cancel()


def _chunked(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


# ---- in workers -----------------------------------------------------------------------------

_assigned: dict[str, dict[str, Any]] = {}
"""By executor, the globals that its initializer has set here."""
_initializing = threading.Lock()


def _called(  # noqa: PLR0917  a call is this
    number: str,
    _: object,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if initializer is not None:
        with _initializing:
            if number not in _assigned:
                _assigned[number] = _initialize(initializer, initargs)
        _introduce(_loaded(args[0]) if function is _mapped else function, _assigned[number])
    return function(*args, **kwargs)


class _KeyOfManagers:
    """What lets a worker use the objects of `multiprocessing`'s managers, as children may.

    It is accepted as it is unpickled: with the function, before any argument is.
    """

    def __init__(self) -> None:
        loaded = sys.modules.get("multiprocessing.process")
        self._key = b"" if loaded is None else bytes(loaded.current_process().authkey)

    def __reduce__(self) -> tuple[Callable[[bytes], None], tuple[bytes]]:
        return _accept_key, (self._key,)


def _accept_key(key: bytes) -> None:
    if key:
        import multiprocessing.process  # noqa: PLC0415  who submits has imported it

        multiprocessing.process.current_process().authkey = key


def _initialize(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> dict[str, Any]:
    """Call it; return the globals that it has set."""
    names = getattr(initializer, "__globals__", {})
    before = dict(names)
    try:
        initializer(*initargs)
    except BaseException as error:
        raise InitializerError(f"{type(error).__name__}: {error}") from error
    missing = object()
    return {name: value for name, value in names.items() if before.get(name, missing) is not value}


def _introduce(function: Callable[..., Any], assigned: dict[str, Any]) -> None:
    """Let a function that travelled by value see what the initializer has set beside it.

    Each has globals of its own here; those of modules are shared anyway.
    """
    names = getattr(function, "__globals__", None)
    if names is not None and "__spec__" not in names:
        names.update(assigned)


def _mapped(function: bytes, chunk: list[tuple[Any, ...]]) -> list[Any]:
    run = _loaded(function)
    return [run(*each) for each in chunk]


@functools.lru_cache(maxsize=16)
def _loaded(function: bytes) -> Callable[..., Any]:
    found: Callable[..., Any] = pickle.loads(function)
    return found
