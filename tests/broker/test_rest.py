"""When the broker gives memory back: in a time that the test makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kernel_worker.broker import rest
from kernel_worker.broker.rest import REST_SECONDS, Rest
from kernel_worker.broker.watches import Timers
from kernel_worker.model import CallId

if TYPE_CHECKING:
    from kernel_worker.broker.loop import Broker

MIB = 1 << 20


class FakeBroker:
    """What `Rest` sees of a broker, and how large it is."""

    def __init__(self) -> None:
        self.time = 100.0
        self.timers = Timers()
        self.calls: dict[CallId, object] = {}
        self.size_bytes = 20 * MIB
        self.rests = 0

    def now(self) -> float:
        return self.time

    def pass_time(self) -> None:
        self.time += REST_SECONDS + 0.1
        self.timers.run(self.time)

    def give_back(self) -> None:
        self.rests += 1
        self.size_bytes = 22 * MIB


def test_memory_is_given_back_once_when_no_call_is_open_after_a_flood() -> None:
    broker = FakeBroker()
    resting = Rest(cast("Broker", broker), lambda: broker.size_bytes, broker.give_back)
    broker.calls[CallId("fc-1")] = object()
    resting.expect()
    resting.expect()
    broker.size_bytes = 60 * MIB
    broker.pass_time()
    assert broker.rests == 0, "a call is open"
    broker.calls.clear()
    broker.pass_time()
    assert broker.rests == 1
    assert broker.timers.next_deadline() is None, "nothing wakes a broker at rest"
    resting.expect()
    broker.pass_time()
    assert broker.rests == 1, "it has hardly grown"


def test_trimming_gives_memory_back() -> None:
    held = [bytes(1000) for _ in range(30_000)]
    before = rest.resident_bytes()
    del held
    rest.trim()
    assert rest.resident_bytes() < before - 10 * MIB
