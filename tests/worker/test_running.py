"""What runs is seen with its variables, whatever kind of function it is."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from kernel_worker.model import StreamLimits
from kernel_worker.wire import messages, payload
from tests.worker.harness import Broker, define

LOOK = """
the_loop = None
def look():
    import threading
    from kernel_worker.worker import running
    seen = []
    def see():
        for each in running.inputs(lambda: the_loop):
            seen.append((each.call, each.index, each.locals.get("mark"), repr(each)))
    thread = threading.Thread(target=see)
    thread.start()
    thread.join()
    return seen
"""
SOURCES = {
    "plain": """
        def f(mark):
            return look()
        """,
    "coroutine": """
        async def f(mark):
            import asyncio
            global the_loop
            the_loop = asyncio.get_running_loop()
            return await inner()
        async def inner():
            return await the_loop.run_in_executor(None, look)
        """,
    "partial": """
        import functools
        f = functools.partial(lambda mark, other: look(), other=1)
        """,
    "method": """
        class Kind:
            def f(self, mark):
                return look()
        f = Kind().f
        """,
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("item", [7, [7]], ids=["whole", "itemised"])
def test_an_input_is_seen_with_its_variables(broker: Broker, kind: str, item: Any) -> None:
    worker = broker.start_worker(define(LOOK + textwrap.dedent(SOURCES[kind])))
    lease = worker.lease([(item,)], call="fc-9")
    (seen,) = broker.outcomes(lease, 1).values()
    assert [each[:3] for each in seen] == [("fc-9", 0, item)]
    assert "(fc-9#0) in " in seen[0][3]


AT_ONCE = {
    "threads": """
        from threading import Barrier
        barrier = None
        def f(mark):
            global barrier
            barrier = barrier or Barrier(2)
            barrier.wait(20)
            seen = look()
            barrier.wait(20)
            return sorted(seen)
        """,
    "tasks": """
        both = []
        async def f(mark):
            import asyncio
            global the_loop
            the_loop = asyncio.get_running_loop()
            both.append(mark)
            while len(both) < 2:
                await asyncio.sleep(0.01)
            seen = await the_loop.run_in_executor(None, look)
            both.append(mark)
            while len(both) < 4:
                await asyncio.sleep(0.01)
            return sorted(seen)
        """,
}


@pytest.mark.parametrize("kind", AT_ONCE)
def test_inputs_that_run_at_once_are_all_seen(broker: Broker, kind: str) -> None:
    worker = broker.start_worker(define(LOOK + textwrap.dedent(AT_ONCE[kind])), max_inputs=2)
    leases = [worker.lease([(mark,)], call=f"fc-{mark}") for mark in (7, 8)]
    for lease in leases:
        seen = broker.outcomes(lease, 1)[0]
        assert [each[:3] for each in seen] == [("fc-7", 0, 7), ("fc-8", 0, 8)]


def test_inputs_of_a_batch_are_seen_as_one(broker: Broker) -> None:
    source = """
    def f(mark):
        return [look()] * len(mark)
    """
    worker = broker.start_worker(define(LOOK + textwrap.dedent(source)), max_batch_size=2)
    leases = [worker.lease([(mark,)], call=f"fc-{mark}", group=5, group_size=2) for mark in (7, 8)]
    (seen,) = broker.outcomes(leases[1], 1).values()
    assert [each[:3] for each in seen] == [("fc-7", 0, [7, 8])]


def test_a_generator_is_seen_where_it_is(broker: Broker) -> None:
    source = """
    def f(mark):
        yield from g(mark)
    def g(x):
        yield look()
    """
    worker = broker.start_worker(define(LOOK + textwrap.dedent(source)))
    worker.lease([(7,)], call="fc-9", streams=StreamLimits(10, 10**6))
    found = broker.wait(messages.Yielded)
    seen: Any = payload.BatchReader(found.frames)[0]
    assert [each[:3] for each in seen] == [("fc-9", 0, 7)]
