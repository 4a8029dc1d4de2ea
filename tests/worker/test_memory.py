"""What a worker with a memory limit may allocate, and what its errors say."""

from __future__ import annotations

import os

import pytest

from kernel_worker import gpus
from kernel_worker.model import Digest, FunctionKey, FunctionSpec, PoolId, Resources
from kernel_worker.worker import memory
from tests import driver
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


class OutOfMemoryError(RuntimeError):
    """As PyTorch and CuPy name it."""


def spec(devices: int) -> FunctionSpec:
    """Return what a worker knows of a function that has so many devices."""
    key, none = FunctionKey("test/app/f"), Digest("")
    needs = Resources(gpu=devices)
    return FunctionSpec(PoolId("po"), key, "f", "m", none, none, none, resources=needs)


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("no"), RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")]
)
def test_where_a_device_is_full_the_error_says_how_full(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    driver.install(monkeypatch, {os.getpid(): 2 * driver.GIB})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    memory.explain(error, spec(2))
    (note,) = error.__notes__
    assert note.splitlines() == [
        "GPU 0: 3,072 of 143,360 MiB in use, 2,048 of them by this worker.",
        "GPU 1: 3,072 of 143,360 MiB in use.",
    ]


def test_a_device_of_which_nothing_is_known_and_another_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "_LIBRARY", "libnotebook-ext-none.so")
    full, other = OutOfMemoryError(), RuntimeError("another")
    memory.explain(full, spec(1))
    memory.explain(other, spec(1))
    assert full.__notes__ == ["How full the devices are is not known."]
    assert not hasattr(other, "__notes__")
