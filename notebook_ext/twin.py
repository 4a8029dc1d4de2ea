"""One body, two surfaces: `f.remote(x)` waits in this thread, `await f.remote.aio(x)` in this task.

A body starts an operation and returns the `Waiting` that it completes. What differs between the
surfaces is only how one waits: with a plain lock, which a signal interrupts, or with a future of
the running loop. Neither needs the other: no loop is pumped or nested, so the blocking surface
works in a notebook cell, inside whose thread a loop is running.

Guarantees: a waiting that is given up (a signal, a cancelled task) is told so by `abandon`, also
where that comes between its start and the wait; whoever else waits for it goes on. The operation
is started before `.aio(...)` returns, so that `[f.remote.aio(x) for x in xs]` runs all. What it
returns is a coroutine to asyncio: `create_task`, `TaskGroup` and `asyncio.run` take it.
Not guaranteed: anything about which thread completes a waiting; `decode` runs where one waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Coroutine
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from kernel_worker.context import running_input

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from kernel_worker.context import RunningInput

LOOK_SECONDS = 0.5
"""So often the main thread looks whether a signal came just before it slept.

One that comes while it sleeps wakes it. One that comes in the instructions before does not: its
handler waits for the next line of Python, and a stop button would do nothing until the call ends.
"""

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Waiting(Coroutine[Any, Any, T_co], Generic[T_co]):
    """An operation that was started; completed once, by any thread."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_driver",
        "_gate",
        "_offers",
        "_open",
        "_result",
        "abandoned",
        "announce",
        "done",
        "failed",
        "is_awaited",
        "settled_here",
    )

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._open = [True]
        self._result: Callable[[], T_co] | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._driver: Generator[Any, None, T_co] | None = None
        self._offers: list[Callable[[bool], object]] = []
        self.is_awaited = False
        """Whether it is a task that waits, which must not be kept from its loop."""
        self.done = False
        """Whether it was completed …"""
        self.failed = False
        """… and `result` will raise, as far as that is known before it is called."""
        self.abandoned: Callable[[], object] | None = None
        """Called, in the thread that waited, when that gives up."""
        self.settled_here: Callable[[], object] | None = None
        """Called, in the thread that waited, once it is done."""
        self.announce: Callable[[RunningInput, bool], object] | None = None
        """Called as a worker's input begins (True) and ends (False) to wait."""

    def complete(self, result: Callable[[], T_co], *, failed: bool = False) -> bool:
        """Let everybody who waits go on with what `result` returns or raises.

        Returns:
            False where it was completed before; then nothing changes.
        """
        try:
            self._open.pop()  # one of several threads gets it
        except IndexError:
            return False
        self._result = result
        self.failed = failed
        self.done = True
        self._open_gate()
        if self._callbacks:
            self._call_back()
        return True

    def offer(self, act: Callable[[bool], object]) -> bool:
        """Have the thread that waits, or is about to, call `act(True)` and then wait on.

        Where it turns out that a task waits, another thread calls `act(False)`.

        Returns:
            False where it is awaited in a loop, or nobody will wait any more.
        """
        if self.done or self.is_awaited:
            return False
        self._offers.append(act)
        self._open_gate()
        return True

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait in this thread; return whether the operation is done.

        Raises:
            KeyboardInterrupt: or whatever else a signal handler raises; it is abandoned then.
        """
        __tracebackhide__ = True
        if self.done:
            return True
        running = running_input() if self.announce is not None else None
        try:
            if running is None:
                return self._pass(timeout_seconds)
            return self._pass_as(running, timeout_seconds)
        except BaseException as interrupt:
            if self.done:
                self._open_gate()  # it came when we had just taken it: others wait too
            self.abandon()
            shortened(interrupt)
            raise

    def result(self) -> T_co:
        """Return what the operation gave or raise what it raised; only once it is done."""
        __tracebackhide__ = True
        assert self._result is not None  # noqa: S101  what `done` says
        return self._result()

    def join(self) -> T_co:
        """Wait in this thread and return the result."""
        __tracebackhide__ = True
        if not self.done:
            self.wait()
        if self.settled_here is not None:
            self.settled_here()
        return self.result()

    def abandon(self) -> None:
        """Say that nobody waits any more."""
        if self.abandoned is not None and not self.done:
            self.abandoned()

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` once this is done: at once, or in the thread that completes it."""
        self._callbacks.append(callback)
        if self.done:
            self._call_back()

    def then(self, change: Callable[[T_co], T]) -> Waiting[T]:
        """Return a waiting for what `change`, called where one waits, makes of the result."""
        changed: Waiting[T] = Waiting()
        changed.announce = self.announce
        changed.abandoned = self.abandon
        self.add_callback(
            lambda: changed.complete(lambda: change(self.result()), failed=self.failed)
        )
        return changed

    def dropping_result(self) -> Waiting[None]:
        """Return a waiting for the end of this, whatever it gives or raises."""
        ended: Waiting[None] = Waiting()
        self.add_callback(lambda: ended.complete(lambda: None))
        return ended

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait in the running task."""
        return self._settle().__await__()

    def send(self, value: Any, /) -> Any:
        """Go on waiting, as the coroutine of a task of its own."""
        __tracebackhide__ = True
        if self._driver is None:
            self._driver = self.__await__()
        return self._driver.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the task waits."""
        __tracebackhide__ = True
        if self._driver is None:  # the task was cancelled before its first step
            self.abandon()
            self._driver = self.__await__()
        return self._driver.throw(*error)

    def close(self) -> None:
        """End the task's wait."""
        if self._driver is not None:
            self._driver.close()

    async def settled(self) -> None:
        """Wait in the running task, without asking for the result."""
        __tracebackhide__ = True
        if self.done:
            return
        running = running_input() if self.announce is not None else None
        if running is not None and self.announce is not None:
            self.announce(running, True)
        try:
            await self._in_loop()
        except BaseException as interrupt:
            self.abandon()
            shortened(interrupt)
            raise
        finally:
            if running is not None and self.announce is not None:
                self.announce(running, False)

    async def _settle(self) -> T_co:
        __tracebackhide__ = True
        await self.settled()
        return self.result()

    async def _in_loop(self) -> None:
        import asyncio  # noqa: PLC0415  a script that never awaits does not need it

        from notebook_ext import wakeup  # noqa: PLC0415  as above

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def release() -> None:
            if not future.done():
                future.set_result(None)

        def release_soon() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(release)

        self.add_callback(release_soon)
        self.is_awaited = True
        while self._offers:
            threading.Thread(target=self._offers.pop(0), args=(False,), daemon=True).start()
        with wakeup.by_signals(loop):
            await future

    def _pass(self, timeout_seconds: float | None) -> bool:
        __tracebackhide__ = True
        left = threading.TIMEOUT_MAX if timeout_seconds is None else timeout_seconds
        is_main = threading.get_ident() == threading.main_thread().ident
        nap = LOOK_SECONDS if is_main else threading.TIMEOUT_MAX
        until = time.monotonic() + left
        while not (self._gate.acquire(timeout=max(0.0, min(left, nap))) and self._is_done()):
            left = until - time.monotonic()
            if left <= 0:
                return False
        self._open_gate()
        return True

    def _open_gate(self) -> None:
        """Let the next one pass, once this is done; whoever else does the same does no harm."""
        try:  # noqa: SIM105  on the way of every call
            self._gate.release()
        except RuntimeError:
            pass  # it stands open

    def _is_done(self) -> bool:
        """Say whether the gate was opened for good; otherwise do what was offered."""
        while not self.done and self._offers:
            self._offers.pop(0)(True)
        return self.done

    def _pass_as(self, running: RunningInput, timeout_seconds: float | None) -> bool:
        """Wait as an input of a worker, whose slot is free meanwhile."""
        __tracebackhide__ = True
        assert self.announce is not None  # noqa: S101  asked before
        halts = has_running_loop()
        _thread.halts = halts
        self.announce(running, True)
        try:
            return self._pass(timeout_seconds)
        finally:
            _thread.halts = halts
            self.announce(running, False)
            _thread.halts = False

    def _call_back(self) -> None:
        """Call what waits to be called, each exactly once, whoever else does the same now."""
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread was quicker
                return
            callback()


class _Thread(threading.local):
    halts = False
    blocks = False


_thread = _Thread()


def blocks_thread() -> bool:
    """Say whether who does the operation that begins here will wait for it in this thread."""
    blocks, _thread.blocks = _thread.blocks, False  # what it does meanwhile is not meant
    return blocks


def halts_loop() -> bool:
    """Say whether the wait that this thread is announcing keeps an event loop from running."""
    return _thread.halts


def has_running_loop() -> bool:
    """Say whether an event loop runs in this thread."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001  the one that does not raise


def shortened(interrupt: BaseException) -> None:
    """Let IPython show an interrupt of what we do in one line; other errors stay as they are.

    It always shows the last frame, hidden or not, and that would be one of ours.
    """
    name = type(interrupt).__name__
    if name in ("KeyboardInterrupt", "CancelledError"):
        interrupt._render_traceback_ = lambda: [name]  # type: ignore[attr-defined]


def _surface_of(body: Any) -> tuple[Any, ...]:
    """Say how to find the operation again: by the name that its object has for it."""
    return getattr, (body.__self__, body.__name__)


def _shown(body: Any) -> str:
    """Return what a surface shows of itself: the operation, and whose it is."""
    return f"<{body.__name__} of {body.__self__!r}, also as .aio>"


class Ready(Waiting[T_co]):
    """A value that is here, on its way through `BoundTwin.__call__`, which takes it out.

    It has nothing else of a `Waiting`, which takes 3 µs to make: a warm call is worth it.
    """

    __slots__ = ("value",)

    def __init__(self, value: T_co) -> None:
        self.value = value


def done(value: T) -> Waiting[T]:
    """Return a waiting that needs no waiting."""
    waiting: Waiting[T] = Waiting()
    waiting.complete(lambda: value)
    return waiting


def in_thread(act: Callable[[], T]) -> Waiting[T]:
    """Do `act` in a thread of its own; return a waiting for what it returns or raises."""
    waiting: Waiting[T] = Waiting()

    def work() -> None:
        try:
            found = act()
        except BaseException as error:  # noqa: BLE001  raised where one waits
            failure = error

            def failed() -> T:
                raise failure

            waiting.complete(failed, failed=True)
        else:
            waiting.complete(lambda: found)

    threading.Thread(target=work, name="notebook-ext work", daemon=True).start()
    return waiting


class BoundTwin(Generic[P, T]):
    """One operation of one object, with its two surfaces."""

    __slots__ = ("_body",)

    def __init__(self, body: Callable[P, Waiting[T]]) -> None:
        self._body = body

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it and wait for the result."""
        __tracebackhide__ = True
        blocks, _thread.blocks = _thread.blocks, True
        try:
            waiting = self._body(*args, **kwargs)
        except BaseException as error:
            shortened(error)  # what was interrupted is ours
            raise
        finally:
            _thread.blocks = blocks
        if isinstance(waiting, Ready):
            value: T = waiting.value
            return value
        try:
            return waiting.join()
        except BaseException:
            waiting.abandon()  # the interrupt may have come before the wait began
            raise

    def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Do it; the result is awaited."""
        __tracebackhide__ = True
        return self._body(*args, **kwargs)

    def start(self, /, *args: P.args, **kwargs: P.kwargs) -> Waiting[T]:
        """Do it; whoever wants the result waits for what this returns."""
        __tracebackhide__ = True
        return self._body(*args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._body.__doc__

    @property
    def __wrapped__(self) -> Callable[P, Waiting[T]]:
        """The body: where `help` and signatures look."""
        return self._body

    def __repr__(self) -> str:
        return _shown(self._body)

    def __reduce__(self) -> tuple[Any, ...]:
        return _surface_of(self._body)


class Twin(Generic[S, P, T]):
    """What `@twin` makes of a method: gives `BoundTwin`s."""

    def __init__(self, body: Callable[Concatenate[S, P], Waiting[T]]) -> None:
        self._body = body
        self.__doc__ = body.__doc__

    @overload
    def __get__(self, instance: None, owner: type[S]) -> Twin[S, P, T]: ...
    @overload
    def __get__(self, instance: S, owner: type[S] | None = None) -> BoundTwin[P, T]: ...
    def __get__(
        self, instance: S | None, owner: type[S] | None = None
    ) -> BoundTwin[P, T] | Twin[S, P, T]:
        if instance is None:
            return self
        return BoundTwin(self._body.__get__(instance, owner))


class ClassTwin(Generic[S, P, T]):
    """What `class_twin` makes of a function of a class: gives `BoundTwin`s."""

    def __init__(self, body: Callable[Concatenate[type[S], P], Waiting[T]]) -> None:
        self._body = body
        self.__doc__ = body.__doc__

    def __set_name__(self, owner: type[S], name: str) -> None:
        self._body.__name__, self._body.__qualname__ = name, f"{owner.__qualname__}.{name}"

    def __get__(self, instance: object, owner: type[S]) -> BoundTwin[P, T]:
        return BoundTwin(MethodType(self._body, owner))


def class_twin(body: Callable[Concatenate[type[S], P], Waiting[T]]) -> ClassTwin[S, P, T]:
    """Make the two surfaces of what a class itself does: `body` takes the class first."""
    return ClassTwin(body)


def twin(body: Callable[Concatenate[S, P], Waiting[T]]) -> Twin[S, P, T]:
    """Make the two surfaces of a method that starts an operation and returns its `Waiting`."""
    return Twin(body)


class BoundStream(Generic[P, T]):
    """One operation that returns something to iterate with `for` and `async for` alike."""

    __slots__ = ("_body",)

    def __init__(self, body: Callable[P, T]) -> None:
        self._body = body

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what to iterate."""
        __tracebackhide__ = True
        try:
            return self._body(*args, **kwargs)
        except BaseException as error:
            shortened(error)  # as in `BoundTwin`
            raise

    def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what to iterate, with `async for`."""
        __tracebackhide__ = True
        return self._body(*args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._body.__doc__

    @property
    def __wrapped__(self) -> Callable[P, T]:
        """The body: where `help` and signatures look."""
        return self._body

    def __repr__(self) -> str:
        return _shown(self._body)

    def __reduce__(self) -> tuple[Any, ...]:
        return _surface_of(self._body)


class Stream(Generic[S, P, T]):
    """What `@stream` makes of a method: gives `BoundStream`s."""

    def __init__(self, body: Callable[Concatenate[S, P], T]) -> None:
        self._body = body
        self.__doc__ = body.__doc__

    @overload
    def __get__(self, instance: None, owner: type[S]) -> Stream[S, P, T]: ...
    @overload
    def __get__(self, instance: S, owner: type[S] | None = None) -> BoundStream[P, T]: ...
    def __get__(
        self, instance: S | None, owner: type[S] | None = None
    ) -> BoundStream[P, T] | Stream[S, P, T]:
        if instance is None:
            return self
        return BoundStream(self._body.__get__(instance, owner))


def stream(body: Callable[Concatenate[S, P], T]) -> Stream[S, P, T]:
    """Make the two surfaces of a method that returns something to iterate either way."""
    return Stream(body)
