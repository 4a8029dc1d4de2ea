"""What calls write: what clients get of it, and what the journal does."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from kernel_worker.broker import logs as room
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.logs import Logs, shown
from kernel_worker.broker.watches import Timers
from kernel_worker.model import CallId, ClientId, WorkerId
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from kernel_worker.broker.commit import Commit

MESSAGE = messages.Output(CallId("fc-1"), 3, "stdout", WorkerId("ta-1"))


def passed(call: OpenCall, text: bytes) -> tuple[bytes, int]:
    """Return the text and the count that a client gets."""
    header, frames = shown(call, MESSAGE, messages.encode(MESSAGE), [memoryview(text)])
    message = messages.decode_at_client(header)
    assert isinstance(message, messages.Output)
    assert (message.call, message.index, message.stream) == ("fc-1", 3, "stdout")
    return bytes(frames[0]), message.withheld


@pytest.fixture
def call() -> OpenCall:
    return OpenCall(CallId("fc-1"), ClientId("cl-1"), attached=True, opened_at=0.0)


def test_what_is_within_the_limits_is_passed_on(call: OpenCall) -> None:
    text = b"x\n" * messages.SHOWN_LINES
    assert passed(call, text) == (text, 0)
    assert passed(call, b"one more\n") == (b"one more\n", 0)  # the client cuts, and says so


def test_lines_beyond_the_limit_are_counted(call: OpenCall) -> None:
    passed(call, b"x\n" * (messages.SHOWN_LINES + 1))
    assert passed(call, b"1\n2\n3") == (b"", 2)
    assert passed(call, b"\rno end") == (b"", 1)


def test_bytes_are_limited_too(call: OpenCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "SHOWN_BYTES", 10)
    assert passed(call, b"x" * 11) == (b"x" * 11, 0)
    assert passed(call, b"x") == (b"", 1)


class Writes:
    """A commit that writes down what it is given; and the logs that give it."""

    def __init__(self) -> None:
        self.bodies: list[tuple[CallId, list[messages.LogEntry]]] = []
        self.time = 100.0
        self.timers = Timers()
        self.logs = Logs(cast("Commit", self), self.timers, lambda: self.time)

    def wrote(self, call: CallId, body: bytes) -> int:
        self.bodies.append((call, msgspec.msgpack.decode(body, type=list[messages.LogEntry])))
        return len(self.bodies)

    def keep(self, call: OpenCall, text: bytes) -> None:
        self.logs.keep(call, MESSAGE, memoryview(text))

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.timers.run(self.time)

    @property
    def texts(self) -> list[bytes]:
        return [entry.data for _, entries in self.bodies for entry in entries]


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def spawned() -> OpenCall:
    return OpenCall(CallId("fc-2"), ClientId("cl-1"), attached=False, opened_at=0.0)


def test_what_spawned_calls_write_goes_out_in_batches(writes: Writes, spawned: OpenCall) -> None:
    other = OpenCall(CallId("fc-3"), ClientId("cl-1"), attached=False, opened_at=0.0)
    assert writes.timers.next_deadline() is None
    writes.keep(spawned, b"a")
    writes.wait(room.FLUSH_SECONDS / 2)
    writes.keep(spawned, b"b")
    writes.keep(other, b"c")
    assert not writes.bodies
    writes.wait(room.FLUSH_SECONDS)
    entry = messages.LogEntry(3, "stdout", 100.0, b"a")
    assert [call for call, _ in writes.bodies] == ["fc-2", "fc-3"]
    assert writes.bodies[0][1][0] == entry
    assert writes.texts == [b"a", b"b", b"c"]
    assert writes.timers.next_deadline() is None


def test_much_goes_out_at_once(
    writes: Writes, spawned: OpenCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FLUSH_BYTES", 10)
    writes.keep(spawned, b"x" * 11)
    assert writes.texts == [b"x" * 11]
    assert writes.timers.next_deadline() is None


def test_a_log_is_full_once(
    writes: Writes, spawned: OpenCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "LOG_BYTES", 10)
    for text in (b"x" * 11, b"more", b"and more"):
        writes.keep(spawned, text)
    writes.logs.flush()
    assert writes.texts[0] == b"x" * 11
    assert writes.texts[1].startswith(b"The log ends here")
    assert len(writes.texts) == 2
    assert writes.bodies[0][1][1].stream == "notice"


def test_a_slow_disk_leaves_gaps_that_are_named(
    writes: Writes, spawned: OpenCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "PENDING_BYTES", 10)
    writes.keep(spawned, b"first")
    writes.logs.flush()
    writes.keep(spawned, b"lost")
    writes.logs.written(0)
    writes.keep(spawned, b"lost too")
    writes.logs.written(1)
    writes.keep(spawned, b"next")
    writes.keep(spawned, b"last")
    writes.logs.flush()
    first, notice, *rest = writes.texts
    assert (first, rest) == (b"first", [b"next", b"last"])
    assert notice.startswith(b"Some output is missing")


def test_of_an_attached_call_the_end_is_remembered(
    writes: Writes, call: OpenCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TAIL_BYTES", 5)
    for text in (b"1234", b"5", b"6", b"larger than all"):
        writes.keep(call, text)
        assert call.tail[-1].data == text
    assert [entry.data for entry in call.tail] == [b"larger than all"]
    writes.logs.flush()
    assert not writes.bodies
