"""What a worker with a memory limit may allocate, and what its errors say."""

from __future__ import annotations

import pytest

from kernel_worker.model import Resources
from tests.worker.harness import Broker, define

GREEDY = """
def f(size):
    return len(bytearray(size))
"""
LIMITED = Resources(memory_mib=64, memory_limit_mib=256)


def test_an_allocation_far_beyond_the_limit_raises_where_it_stands(broker: Broker) -> None:
    worker = broker.start_worker(define(GREEDY), resources=LIMITED)
    with pytest.raises(MemoryError) as caught:
        worker.call(50_000_000_000)
    assert "f may use 256 MiB" in "".join(caught.value.__notes__)
    assert worker.call(1_000_000) == 1_000_000


def test_other_errors_and_workers_without_a_limit_get_no_note(broker: Broker) -> None:
    source = "def f(): raise MemoryError('mine')"
    with pytest.raises(MemoryError) as caught:
        broker.start_worker(define(source)).call()
    assert not hasattr(caught.value, "__notes__")


def test_what_grows_beyond_the_limit_is_stopped_and_says_what_it_used(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            held = []
            while True:
                held.append(bytearray(b"x" * 10_000_000))
                time.sleep(0.001)
        """),
        resources=LIMITED,
    )
    lease = worker.lease([()])
    exited = worker.exited()
    assert (exited.lease, exited.position) == (lease, 0)
    assert 256 < exited.over_memory_mib < 2_000
    assert "limit of 256 MiB" in exited.cause
