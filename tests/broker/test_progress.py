"""How often whoever waits is told how it stands: a fake broker, whose time the test makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.peers import Client, Peers
from kernel_worker.broker.progress import (
    FIRST_SECONDS,
    INTERVAL_SECONDS,
    REASON_SECONDS,
    ProgressReports,
)
from kernel_worker.broker.watches import Timers
from kernel_worker.core.views import Progress
from kernel_worker.model import CallId, ClientId
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.loop import Broker

CALL = CallId("fc-1")


class FakeBroker:
    """What `ProgressReports` sees of a broker; `running` is what its core says."""

    def __init__(self) -> None:
        self.time = 100.0
        self.timers = Timers()
        self.peers = Peers()
        self.peers.add_client(Client(ClientId("cl-1"), b"cl-1"))
        self.calls: dict[CallId, OpenCall] = {}
        self.sent: list[Any] = []
        self.running = 0
        self.waiting_for = ""
        self.scheduler = self

    def now(self) -> float:
        return self.time

    def call_progress(self, _call: CallId, _now: float) -> Progress:
        return Progress(self.running, 0, 1, self.waiting_for, ())

    def send(self, _: bytes, header: bytes) -> None:
        self.sent.append(messages.decode_at_client(header))

    def open(self, call: CallId = CALL, *, attached: bool = True) -> None:
        self.calls[call] = OpenCall(call, ClientId("cl-1"), attached, opened_at=self.time)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.timers.run(self.time)


def made() -> tuple[FakeBroker, ProgressReports]:
    broker = FakeBroker()
    return broker, ProgressReports(cast("Broker", broker))


def test_a_call_is_reported_when_it_takes_long_and_then_when_something_changed() -> None:
    broker, reports = made()
    broker.open()
    reports.expect()
    broker.pass_time(FIRST_SECONDS - 0.01)
    assert broker.sent == []
    broker.pass_time(0.02)
    assert broker.sent == [messages.CallProgress(CALL, 0, 0, 1)]
    broker.pass_time(10 * INTERVAL_SECONDS)
    assert len(broker.sent) == 1
    broker.running = 3
    broker.pass_time(10 * INTERVAL_SECONDS)
    assert broker.sent[1:] == [messages.CallProgress(CALL, 3, 0, 1)]


def test_nothing_is_looked_at_when_no_attached_call_is_open() -> None:
    broker, reports = made()
    broker.open(CallId("fc-spawned"), attached=False)
    reports.expect()
    broker.pass_time(1.0)
    assert broker.sent == []
    assert broker.timers.next_deadline() is None
    broker.open()
    reports.expect()
    broker.pass_time(1.0)
    assert [progress.call for progress in broker.sent] == [CALL]


def test_a_client_that_is_gone_hears_nothing() -> None:
    broker, reports = made()
    broker.open()
    reports.expect()
    broker.peers.clients.clear()
    broker.pass_time(1.0)
    assert broker.sent == []


def test_whoever_listens_to_a_spawned_call_is_told_once_why_it_waits() -> None:
    broker, reports = made()
    broker.open(attached=False)
    reports.expect_reason(CALL)
    broker.waiting_for = "no free CPU"
    broker.pass_time(REASON_SECONDS - 0.01)
    assert broker.sent == []
    broker.pass_time(0.02)
    assert broker.sent == [messages.CallProgress(CALL, 0, 0, 0, "no free CPU")]
    broker.pass_time(10)
    assert len(broker.sent) == 1
    assert broker.timers.next_deadline() is None
    reports.expect_reason(CALL)  # somebody attached
    broker.pass_time(FIRST_SECONDS)
    assert len(broker.sent) == 2
    broker.calls.clear()
    reports.expect_reason(CALL)
    assert broker.timers.next_deadline() is None


def test_a_spawned_call_that_runs_or_has_ended_needs_no_reason() -> None:
    broker, reports = made()
    broker.open(attached=False)
    broker.open(CallId("fc-2"), attached=False)
    reports.expect_reason(CALL)
    reports.expect_reason(CallId("fc-2"))
    broker.open(CallId("fc-3"))
    reports.expect()
    del broker.calls[CallId("fc-2")]
    for _ in range(40):
        broker.pass_time(INTERVAL_SECONDS)
    assert [progress.call for progress in broker.sent] == ["fc-3"]
