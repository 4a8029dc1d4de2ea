"""Run `async` functions: one event loop per worker, on its main thread, kept between inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Coroutine

    from kernel_worker.worker.interrupts import Interrupts


class Coroutines:
    """The loop, made when the first coroutine comes."""

    def __init__(self, interrupts: Interrupts, *, nested: bool) -> None:
        """Let `interrupts` cancel tasks; `nested` lets code in the loop run loops of its own."""
        self._interrupts = interrupts
        self._nested = nested
        self._loop: AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what `coroutine` returns, or raise what it raises."""
        loop = self.loop()
        task = loop.create_task(coroutine)

        def cancel() -> None:
            loop.call_soon_threadsafe(task.cancel)

        self._interrupts.cancel_task = cancel
        try:
            return loop.run_until_complete(task)
        finally:
            self._interrupts.cancel_task = None

    @property
    def known_loop(self) -> AbstractEventLoop | None:
        """The loop, if there is one."""
        return self._loop

    def loop(self) -> AbstractEventLoop:
        """Return the loop, which is this thread's."""
        return self._loop or self._make_loop()

    def _make_loop(self) -> AbstractEventLoop:
        import asyncio  # noqa: PLC0415  30 ms that most workers never need

        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        if self._nested:
            import nest_asyncio2  # noqa: PLC0415  only where it was asked for

            nest_asyncio2.apply(self._loop)
        return self._loop
