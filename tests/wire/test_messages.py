"""Headers are encoded and decoded, each for the peers that it is meant for."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import rich

from kernel_worker.errors import ProtocolError
from kernel_worker.model import CallId, LeaseId, WorkerId
from kernel_worker.wire import messages

Decode = Callable[[bytes], messages.Message]

AT: dict[str, tuple[Decode, messages.Message, messages.Message]] = {
    "broker": (
        messages.decode_at_broker,
        messages.CancelCall(CallId("fc-1"), terminate=True),
        messages.Welcome("b-1", "boot"),
    ),
    "client": (
        messages.decode_at_client,
        messages.Refused("too old"),
        messages.StopWorker(WorkerId("ta-1")),
    ),
    "host": (
        messages.decode_at_host,
        messages.TakeBack(WorkerId("ta-1"), LeaseId(3)),
        messages.CancelCall(CallId("fc-1")),
    ),
    "worker": (
        messages.decode_at_worker,
        messages.Bye(),
        messages.TakeBack(WorkerId("ta-1"), LeaseId(3)),
    ),
}


@pytest.mark.parametrize("peer", AT)
def test_a_message_arrives_as_it_was_sent(peer: str) -> None:
    decode, sent, _ = AT[peer]
    assert decode(messages.encode(sent)) == sent


@pytest.mark.parametrize("peer", AT)
def test_what_is_no_message_for_a_peer_is_an_error_of_the_protocol(peer: str) -> None:
    decode, _, for_others = AT[peer]
    for frame in (b"", b"\xc1", b"\x93\xa5hello\xa1\xff", messages.encode(for_others)):
        with pytest.raises(ProtocolError, match=rf"not a message of ours \({len(frame)} bytes\)"):
            decode(frame)


def call(**counts: int) -> messages.CallInfo:
    return messages.CallInfo(
        call=CallId("fc-1"),
        name="f",
        attached=True,
        closed=bool(counts.get("closed", 1)),
        total=2,
        pending=counts.get("pending", 0),
        running=counts.get("running", 0),
        succeeded=counts.get("succeeded", 0),
        failed=counts.get("failed", 0),
        cancelled=counts.get("cancelled", 0),
        expired=bool(counts.get("expired", 0)),
    )


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"pending": 2}, "pending"),
        ({"closed": 0}, "pending"),
        ({"pending": 1, "running": 1}, "running"),
        ({"pending": 1, "succeeded": 1}, "running"),
        ({"closed": 0, "failed": 1}, "running"),
        ({"succeeded": 2}, "succeeded"),
        ({"succeeded": 1, "cancelled": 1}, "cancelled"),
        ({"cancelled": 1, "failed": 1}, "failed"),
        ({"succeeded": 1, "expired": 1}, "expired"),
    ],
)
def test_a_call_stands_in_one_word(counts: dict[str, int], status: str) -> None:
    assert call(**counts).status == status


def test_the_secret_of_a_bulk_connection_is_shown_nowhere() -> None:
    way = messages.BulkWay(4711, b"session", b"the secret")
    welcome = messages.Welcome("b-1", "boot", bulk=way)
    shown = io.StringIO()
    rich.print(welcome, file=shown)
    for text in (repr(way), repr(welcome), shown.getvalue()):
        assert "4711" in text
        assert "secret" not in text
