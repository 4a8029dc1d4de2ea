from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading

import pytest

from notebook_ext import wakeup


def test_a_signal_wakes_a_sleeping_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        before = signal.signal(signal.SIGALRM, lambda *_: loop.call_soon(future.set_result, 1))
        try:
            with wakeup.by_signals(loop):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                assert await asyncio.wait_for(future, 60) == 1
        finally:
            signal.signal(signal.SIGALRM, before)

    asyncio.run(main())
    gc.collect()
    assert not list(wakeup._pipes)


def test_nested_waits_and_other_threads_leave_it_alone() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with wakeup.by_signals(loop), wakeup.by_signals(loop):
            ours = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(ours)
            assert ours == wakeup._pipe(loop)[1]
        assert signal.set_wakeup_fd(-1) == -1

    asyncio.run(main())
    thread = threading.Thread(target=asyncio.run, args=(main_elsewhere(),))
    thread.start()
    thread.join()


async def main_elsewhere() -> None:
    with wakeup.by_signals(asyncio.get_running_loop()):
        pass


def test_a_descriptor_of_somebody_else_stays() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)

    async def main() -> None:
        signal.set_wakeup_fd(write)
        with wakeup.by_signals(asyncio.get_running_loop()):
            pass
        assert signal.set_wakeup_fd(-1) == write

    try:
        asyncio.run(main())
    finally:
        os.close(read)
        os.close(write)


@pytest.fixture(autouse=True)
def as_before() -> None:
    signal.set_wakeup_fd(-1)
