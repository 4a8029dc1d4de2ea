"""The door: who may say what, with which frames."""

from __future__ import annotations

import os

import msgspec
import pytest

from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.objects import ObjectStore
from kernel_worker.broker.peers import Client, Host, Peers, Worker
from kernel_worker.broker.translate import Refusal, Repetition, Translator, in_parts
from kernel_worker.broker.watches import ProcessWatch, Watches
from kernel_worker.core import effects, events
from kernel_worker.core.lending import MOST_AHEAD
from kernel_worker.errors import ProtocolError
from kernel_worker.model import (
    CallContext,
    CallId,
    ClientId,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostId,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    WorkerId,
)
from kernel_worker.wire import frames, messages, payload

CALL, POOL, LEASE = CallId("fc-1"), PoolId("po-1"), LeaseId(1)
WORKER = WorkerId("ta-1")


def inputs(count: int) -> list[bytes]:
    return [bytes(part) for part in payload.encode_batch([(1,)] * count, frames.FORM_ARGS)]


def columns(count: int) -> list[bytes]:
    found = payload.encode_columns([range(count)])
    assert found is not None
    return [bytes(part) for part in found]


def values(count: int) -> list[bytes]:
    return [bytes(part) for part in payload.encode_batch([1] * count, frames.FORM_VALUE)]


class Door:
    """A translator with a client, a host and a worker."""

    def __init__(self) -> None:
        self.peers = Peers()
        self.client = Client(ClientId("cl-1"), b"cl-1")
        self.host = Host(HostId("ho-1"), b"ho-1", HostResources(1, 1))
        self.peers.add_client(self.client)
        self.peers.add_host(self.host)
        self.peers.expect_worker(WORKER, self.host.id, POOL)
        self.worker: Worker = self.peers.workers[WORKER]
        self.calls: dict[CallId, OpenCall] = {}
        self.ended: dict[CallId, bool] = {}
        self.translator = Translator(self.peers, ObjectStore(), self.calls, self.ended, lambda: 1.0)

    def submit(self, count: int = 2, *, attached: bool = True, **fields: object) -> object:
        message = messages.Submit(CALL, POOL, attached, count, closed=False, **fields)  # type: ignore[arg-type]
        return self.translator.from_client(self.client, message, inputs(count) if count else [])


@pytest.fixture
def door() -> Door:
    return Door()


def test_no_message_brings_more_inputs_than_the_broker_keeps(door: Door) -> None:
    """A few bytes can say that they are any number: a range is columns."""
    most = messages.MOST_INPUTS
    message = messages.Submit(CALL, POOL, attached=False, count=most + 1, closed=True)
    with pytest.raises(ProtocolError, match=f"{most + 1} of them"):
        door.translator.from_client(door.client, message, columns(most + 1))
    message = msgspec.structs.replace(message, count=most, closed=False)
    event = door.translator.from_client(door.client, message, columns(most))
    assert isinstance(event, events.CallSubmitted)
    more = messages.AddInputs(CALL, most, most + 1)
    with pytest.raises(ProtocolError, match=f"{most + 1} of them"):
        door.translator.from_client(door.client, more, columns(most + 1))


def test_a_submission_opens_a_call_with_its_batch(door: Door) -> None:
    event = door.submit()
    assert isinstance(event, events.CallSubmitted)
    assert (event.client, event.count, event.indivisible) == ("cl-1", 2, True)
    assert door.calls[CALL].batches.cut(0, 2)[0] == 0


def test_a_call_that_is_open_is_not_submitted_to_the_core_again(door: Door) -> None:
    """The core may be through with it while its end is on the way to the disk."""
    door.submit(attached=False)
    assert door.submit(attached=False) == Repetition(effects.AcceptCall(door.client.id, CALL))


def test_an_attached_call_that_is_open_needs_no_second_answer(door: Door) -> None:
    door.submit()
    assert door.submit() is None
    assert len(door.calls[CALL].batches) == 1


def test_inputs_are_added_once(door: Door) -> None:
    door.submit(0)
    message = messages.AddInputs(CALL, 0, 2)
    added = door.translator.from_client(door.client, message, inputs(2))
    assert added == events.InputsAdded(CALL, 0, 2, indivisible=True)
    assert door.translator.from_client(door.client, message, inputs(2)) is None
    late = messages.AddInputs(CallId("fc-over"), 0, 2)
    assert door.translator.from_client(door.client, late, inputs(2)) is None


def test_inputs_come_without_gaps(door: Door) -> None:
    """A position costs memory: what nobody has sent must not be reserved."""
    door.submit(2)
    with pytest.raises(ProtocolError, match="has 2 inputs, and gets more from 3 on"):
        door.translator.from_client(door.client, messages.AddInputs(CALL, 3, 2), inputs(2))
    with pytest.raises(ProtocolError, match="has 2 inputs, and is closed with 9000"):
        door.translator.from_client(door.client, messages.CloseInputs(CALL, 9000), [])
    closed = door.translator.from_client(door.client, messages.CloseInputs(CALL, 2), [])
    assert closed == events.InputsClosed(CALL, 2)
    late = messages.CloseInputs(CallId("fc-over"), 2)
    assert door.translator.from_client(door.client, late, []) is None


def test_an_ended_call_is_accepted_again(door: Door) -> None:
    door.ended[CALL] = False
    assert door.submit() == Refusal(messages.Accepted(CALL))
    assert door.calls == {}


def test_a_call_that_names_what_is_not_here(door: Door) -> None:
    refusal = door.submit(shared=Digest("f" * 32))
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.message, messages.Rejected)
    assert door.calls == {}


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (messages.Submit(CALL, POOL, attached=True, count=3, closed=True), inputs(2)),
        (messages.Submit(CALL, POOL, attached=True, count=2, closed=True), values(2)),
        (messages.Submit(CALL, POOL, attached=True, count=0, closed=True), [b"x"]),
        (messages.Submit(CALL, POOL, attached=True, count=-1, closed=True), []),
        (messages.AddInputs(CALL, -1, 2), inputs(2)),
        (messages.Done(LEASE, 0, 1, 0.1), values(1)),
        (messages.WorkerExited(WORKER, "x"), []),
        (
            messages.Define(
                FunctionSpec(
                    POOL, FunctionKey("k"), "f", "m", Digest("v"), Digest("c"), Digest("e")
                )
            ),
            [],
        ),
    ],
)
def test_what_a_client_may_not_say(
    door: Door, message: messages.ToBroker, parts: list[bytes]
) -> None:
    with pytest.raises(ProtocolError):
        door.translator.from_client(door.client, message, parts)
    assert door.calls == {}


def test_calls_of_others_are_not_to_be_touched(door: Door) -> None:
    door.submit(0)
    other = Client(ClientId("cl-2"), b"cl-2")
    for message in (messages.CloseInputs(CALL, 0), messages.AddInputs(CALL, 0, 1)):
        with pytest.raises(ProtocolError, match="another client"):
            door.translator.from_client(other, message, inputs(1))
    with pytest.raises(ProtocolError, match="another client"):
        door.translator.from_client(other, messages.PauseCall(CALL), [])
    cancel = door.translator.from_client(other, messages.CancelCall(CALL), [])
    assert cancel == events.CallCancelled(CALL, terminate=False, client=other.id)


def test_the_cancellation_of_a_call_that_is_over_is_confirmed(door: Door) -> None:
    cancel = door.translator.from_client(door.client, messages.CancelCall(CALL), [])
    assert cancel == Refusal(messages.CancelConfirmed(CALL))


def test_a_call_is_paused_and_goes_on(door: Door) -> None:
    early = door.translator.from_client(door.client, messages.PauseCall(CALL), [])
    assert early is None, "nobody knows it"
    door.submit(0)
    pause = door.translator.from_client(door.client, messages.PauseCall(CALL), [])
    assert pause == events.CallPaused(CALL)
    go_on = door.translator.from_client(door.client, messages.PauseCall(CALL, paused=False), [])
    assert go_on == events.CallUnpaused(CALL)


def test_who_waits_must_be_a_worker_of_ours(door: Door) -> None:
    parent = ParentInput(CALL, 0, 1, WORKER, LEASE)
    blocked = messages.Blocked(parent, (CALL,))
    assert door.translator.from_client(door.client, blocked, []) == events.WorkerBlocked(
        parent, (CALL,)
    )
    halting = messages.Blocked(parent, (CALL,), halts=True)
    assert door.translator.from_client(door.client, halting, []) == events.WorkerBlocked(
        parent, (CALL,), halts=True
    )
    stranger = messages.Resumed(ParentInput(CALL, 0, 1, WorkerId("ta-x"), LEASE))
    assert door.translator.from_client(door.client, stranger, []) is None


def test_what_a_worker_says_carries_its_own_id(door: Door) -> None:
    done = door.translator.from_worker(door.worker, messages.Done(LEASE, 0, 2, 0.5), values(2))
    assert done == events.RangeSucceeded(WORKER, LEASE, 0, 2, 0.5)
    ended = messages.InputEnded(LEASE, 1, Outcome.FAILED, 0.5)
    assert door.translator.from_worker(door.worker, ended, [b"e"]) == events.InputEnded(
        WORKER, LEASE, 1, Outcome.FAILED, 0.5
    )
    running_on = messages.InputEnded(LEASE, 1, Outcome.CANCELLED, 0.5, lingers=True)
    assert door.translator.from_worker(door.worker, running_on, []) == events.InputEnded(
        WORKER, LEASE, 1, Outcome.CANCELLED, 0.5, lingers=True
    )
    left = door.translator.from_worker(door.worker, messages.InputLeft(LEASE), [])
    assert left == events.InputLeft(WORKER, LEASE)
    for message, parts in (
        (ended, []),
        (ended, [b"a", b"b"]),
        (messages.Done(LEASE, 0, 3, 0.5), values(2)),
        (messages.Done(LEASE, 0, 2, 0.5), inputs(2)),
        (messages.CancelCall(CALL), []),
    ):
        with pytest.raises(ProtocolError):
            door.translator.from_worker(door.worker, message, parts)


def test_a_host_speaks_for_its_own_workers_only(door: Door) -> None:
    started = messages.WorkerStarted(WORKER, 5, "forked")
    assert door.translator.from_host(door.host, started, []) == events.WorkerStarted(
        WORKER, 5, "forked"
    )
    delayed = messages.StartDelayed(WORKER)
    assert door.translator.from_host(door.host, delayed, [b""]) == events.WorkerDelayed(WORKER)
    other = Host(HostId("ho-2"), b"ho-2", HostResources(1, 1))
    assert door.translator.from_host(other, started, []) is None
    with pytest.raises(ProtocolError, match="Submit"):
        door.translator.from_host(
            other, messages.Submit(CALL, POOL, attached=True, count=0, closed=True), []
        )


def test_a_death_names_all_that_ran(door: Door) -> None:
    gone = messages.WorkerExited(WORKER, "x", LEASE, 0, started=(LeaseId(2), LeaseId(3)))
    assert door.translator.from_host(door.host, gone, []) == events.WorkerExited(
        WORKER, "x", LEASE, 0, started=(LeaseId(2), LeaseId(3))
    )


def _parts(*counts: int, **fields: object) -> messages.Submit:
    total = sum(counts)
    said = messages.Submit(CALL, POOL, attached=False, count=total, closed=True, parts=counts)
    return msgspec.structs.replace(said, **fields)


def test_a_call_in_parts_stands_for_the_messages_that_would_bring_them(door: Door) -> None:
    first, second, third = inputs(2), inputs(3), inputs(1)
    message = _parts(2, 3, 1)
    assert in_parts(message, [*first, *second, *third]) == [
        (msgspec.structs.replace(message, count=2, closed=False, parts=()), first),
        (messages.AddInputs(CALL, 2, 3), second),
        (messages.AddInputs(CALL, 5, 1), third),
        (messages.CloseInputs(CALL, 6), ()),
    ]
    for said, its_frames in in_parts(message, [*first, *second, *third]):
        door.translator.from_client(door.client, said, its_frames)
    assert door.calls[CALL].batches.cut(2, 5) == (2, second)


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        (_parts(2, 2), inputs(2)),
        (_parts(2, 2), inputs(2) + inputs(3)),
        (_parts(2, 2), inputs(2) + values(2)),
        (_parts(2, 2), inputs(2) + inputs(2) + inputs(2)),
        (_parts(2, 2, count=5), inputs(2) + inputs(2)),
        (_parts(2, 2, closed=False), inputs(2) + inputs(2)),
        (_parts(2, 0), inputs(2)),
        (_parts(4, -1), inputs(2) + inputs(1)),
        (_parts(messages.MOST_INPUTS, 1), [*columns(messages.MOST_INPUTS), *columns(1)]),
    ],
)
def test_parts_that_are_none_are_refused_before_anything_is_taken_in(
    message: messages.Submit, frames: list[bytes]
) -> None:
    with pytest.raises(ProtocolError):
        in_parts(message, frames)


def test_only_an_attached_call_of_one_input_has_a_line_and_only_on_this_machine(
    door: Door,
) -> None:
    for fields in ({"attached": False}, {"count": 2}):
        said = {"attached": True, "count": 1, **fields}
        message = messages.Submit(CALL, POOL, closed=True, line="name", **said)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError, match="would have a line"):
            door.translator.from_client(door.client, message, inputs(message.count))
    message = messages.Submit(
        CALL, POOL, attached=True, count=1, closed=True, line="name", deaths=9
    )
    event = door.translator.from_client(door.client, message, inputs(1))
    assert isinstance(event, events.CallSubmitted)
    assert (event.lends, event.deaths) == (False, 2)
    watches = Watches()
    door.client.watch = ProcessWatch(watches, os.getpid(), lambda: None)
    door.calls.clear()
    event = door.translator.from_client(door.client, message, inputs(1))
    door.client.watch.close()
    watches.close()
    assert isinstance(event, events.CallSubmitted)
    assert event.lends
    assert door.calls[CALL].line == "name"


@pytest.mark.parametrize(("said", "counted"), [(-(2**63), 0), (-1, 0), (1, 1), (2**64 - 1, 2)])
def test_so_many_workers_have_died_as_can_have(door: Door, said: int, counted: int) -> None:
    event = door.submit(deaths=said)
    assert isinstance(event, events.CallSubmitted)
    assert event.deaths == counted


def test_how_far_a_line_has_come_is_believed_step_by_step(door: Door) -> None:
    def reached(index: int, call: CallId = CALL) -> object:
        said = messages.LineReached(LEASE, call, index, 0.5, runs=True)
        return door.translator.from_worker(door.worker, said, [])

    message = messages.Submit(CALL, POOL, attached=True, count=1, closed=True, line="name")
    door.translator.from_client(door.client, message, inputs(1))
    assert reached(MOST_AHEAD) == events.LineReached(WORKER, LEASE, MOST_AHEAD, 0.5, runs=True)
    assert reached(2 * MOST_AHEAD)
    for index in (3 * MOST_AHEAD + 1, -1):
        with pytest.raises(ProtocolError, match="the line of fc-1 is at"):
            reached(index)
    assert reached(1, CallId("fc-gone")) is None
    door.calls.clear()
    door.submit()
    with pytest.raises(ProtocolError, match="the line of fc-1"):
        reached(1)


def test_a_line_for_items_is_for_a_client_of_this_machine(door: Door) -> None:
    message = messages.Submit(
        CALL, POOL, attached=True, count=1, closed=True, line="name", streams=True
    )
    door.translator.from_client(door.client, message, inputs(1))
    assert door.calls[CALL].line == ""
    watches = Watches()
    door.client.watch = ProcessWatch(watches, os.getpid(), lambda: None)
    door.calls.clear()
    event = door.translator.from_client(door.client, message, inputs(1))
    door.client.watch.close()
    watches.close()
    assert isinstance(event, events.CallSubmitted)
    assert (event.streams, event.lends) == (True, False)
    assert door.calls[CALL].line == "name"


def test_items_are_here_or_went_by_a_line(door: Door) -> None:
    def yielded(call: str, *frames: bytes) -> object:
        said = messages.Yielded(LEASE, 0, 1, 2, CallId(call))
        return door.translator.from_worker(door.worker, said, frames)

    message = messages.Submit(CALL, POOL, attached=True, count=1, closed=True, line="name")
    door.translator.from_client(door.client, message, inputs(1))
    assert yielded(CALL) == events.ItemsYielded(WORKER, LEASE, 0, 1, 2, CALL)
    assert yielded("fc-gone") == events.ItemsYielded(WORKER, LEASE, 0, 1, 2, CallId("fc-gone"))
    with pytest.raises(ProtocolError, match="are here"):
        yielded(CALL, *values(2))
    with pytest.raises(ProtocolError):
        yielded("")
    door.calls.clear()
    door.submit()
    with pytest.raises(ProtocolError, match="it has none"):
        yielded(CALL)


def test_only_an_attached_call_of_this_machine_has_buffers_in_a_store(door: Door) -> None:
    front = frames.itemised_header(frames.FORM_ARGS, [0, 1], [0, 1], stored=True)
    batch = [front, b"a", frames.reference(frames.Place("b-1-aa", 0, 1 << 20))]
    there = CallContext("/here", store="/dev/shm/store")

    def submit(batch: list[bytes], context: CallContext, *, attached: bool) -> object:
        door.calls.clear()
        message = messages.Submit(
            CALL, POOL, attached=attached, count=1, closed=False, context=context
        )
        event = door.translator.from_client(door.client, message, batch)
        assert isinstance(event, events.CallSubmitted)
        return event.context.store

    more = messages.AddInputs(CALL, 1, 1)
    assert submit(inputs(1), there, attached=True) == "", "from elsewhere"
    with pytest.raises(ProtocolError, match="buffers in a store"):
        door.translator.from_client(door.client, more, batch)
    with pytest.raises(ProtocolError, match="buffers in a store"):
        submit(batch, there, attached=True)
    watches = Watches()
    door.client.watch = ProcessWatch(watches, os.getpid(), lambda: None)
    try:
        assert submit(batch, there, attached=True) == there.store
        assert door.translator.from_client(door.client, more, batch) is not None
        assert submit(inputs(1), there, attached=False) == "", "it outlives the store"
        with pytest.raises(ProtocolError, match="buffers in a store"):
            submit(batch, there, attached=False)
        with pytest.raises(ProtocolError, match="buffers in a store"):
            submit(batch, CallContext(), attached=True)
    finally:
        door.client.watch.close()
        watches.close()
