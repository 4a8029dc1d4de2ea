from __future__ import annotations

import pytest

from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.logs import shown
from kernel_worker.model import CallId, ClientId, WorkerId
from kernel_worker.wire import messages

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
