from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from kernel_worker.model import (
    CallId,
    Digest,
    FunctionKey,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    WorkerId,
)
from kernel_worker.shelf import Shelf, Take
from kernel_worker.wire import messages, payload
from notebook_ext import told
from notebook_ext.conversation import Conversation, encode_body
from notebook_ext.shelving import Request
from notebook_ext.submission import Ended, Package
from tests.notebook_ext.talk import (
    Heard,
    inputs,
    opened,
    package,
    said,
    submission,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame

CALL = CallId("fc-1")
PARENT = ParentInput(CallId("fc-0"), 0, 1, WorkerId("ta-1"), LeaseId(3))


def names(heard: list[messages.ToBroker]) -> list[str]:
    return [type(message).__name__ for message in heard]


def test_a_call_says_objects_and_version_once() -> None:
    talk = opened()
    heard = Heard()
    one = package(snap=b"x")
    talk.submit(submission("fc-1", heard, package=one), 1, inputs(1), closed=True)
    talk.submit(submission("fc-2", heard, package=one), 1, inputs(1), closed=True)
    assert talk.has_words
    found = said(talk)
    assert not talk.has_words
    assert names(found) == ["StoreObject", "StoreObject", "Define", "Submit", "Submit"]
    last = found[-1]
    assert isinstance(last, messages.Submit)
    assert (last.call, last.count, last.closed, last.attached) == ("fc-2", 1, True, True)


def test_what_goes_beside_a_message_can_be_sealed() -> None:
    talk = opened()
    asked = []

    def sealed(message: messages.ToBroker, frames: Sequence[Frame]) -> list[Frame]:
        asked.append(type(message).__name__)
        return [b"sealed " + bytes(frame) for frame in frames]

    talk.seal = sealed
    talk.submit(submission("fc-1", Heard(), package=package(snap=b"x")), 1, [b"in"], closed=True)
    assert asked == ["StoreObject", "StoreObject", "Submit"], "what has nothing beside it is not"
    assert [frames[1:] for frames in talk.take()][-1] == [b"sealed in"]


def test_results_and_ends_reach_the_receiver_once() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 2, inputs(1, 2), closed=False)
    talk.add(CALL, 2, inputs(3, 4))
    talk.close(CALL)
    talk.close(CALL)
    assert names(said(talk))[-2:] == ["AddInputs", "CloseInputs"]
    talk.receive(messages.Results(CALL, 1, 2, 0), values("a", "b", "c"))
    talk.receive(messages.Results(CALL, 0, 2, 0), values("a", "b"))
    talk.receive(messages.Failure(CALL, 3, 1, Outcome.FAILED, 1, "no"), [b"frame"])
    assert heard.results == {1: "b", 2: "c", 0: "a"}
    (end,) = heard.ends
    assert (end.index, end.outcome, end.exception, end.position) == (3, Outcome.FAILED, b"frame", 1)
    assert payload.BatchReader(end.inputs)[end.position] == (4,)
    assert talk.is_idle
    talk.receive(messages.Results(CALL, 0, 1, 0), values("late"))
    assert talk.dropped_messages == 1


def test_what_was_never_given_is_dropped() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=False)
    talk.receive(messages.Results(CALL, 0, 5, 0), values(1, 2, 3, 4, 5))
    talk.receive(messages.Results(CALL, 5, 1, 5), values(1))
    talk.receive(messages.Welcome("x", "m"), [])
    talk.receive(messages.Reply(9), [])
    talk.receive(messages.Accepted(CallId("fc-9")), [])
    talk.receive(messages.CallProgress(CallId("fc-9"), 0, 0, 0), [])
    assert heard.results == {}
    assert talk.dropped_messages == 6


def test_an_empty_call_is_over_at_once() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard()), 0, [], closed=True)
    assert talk.is_idle


def test_offline_nothing_is_said_until_there_is_a_broker() -> None:
    talk = opened()
    talk.lost()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=False)
    talk.add(CALL, 1, inputs(2))
    talk.close(CALL)
    talk.tell(messages.Blocked(PARENT, (CALL,)))
    assert said(talk) == []
    talk.connected("two")
    assert names(said(talk)) == [
        "StoreObject",
        "Define",
        "Submit",
        "AddInputs",
        "CloseInputs",
        "Blocked",
    ]
    talk.connected("two")
    assert said(talk) == []


def test_a_new_broker_gets_what_has_no_outcome_numbered_anew() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 4, inputs(0, 1, 2, 3), closed=False)
    talk.add(CALL, 2, inputs([4], [5]))
    talk.receive(messages.Results(CALL, 1, 1, 1), values("one"))
    talk.receive(messages.Results(CALL, 5, 1, 5), values("five"))
    talk.lost()
    talk.connected("two")
    frames = list(talk.take())
    found = [messages.decode_at_broker(bytes(each[0])) for each in frames]
    assert names(found) == ["StoreObject", "Define", "Submit", "AddInputs", "AddInputs"]
    submit, first, second = found[2:]
    assert isinstance(submit, messages.Submit)
    assert submit.count == 1
    assert isinstance(first, messages.AddInputs)
    assert (first.start, first.count) == (1, 2)
    assert isinstance(second, messages.AddInputs)
    assert (second.start, second.count) == (3, 1)
    again = [payload.BatchReader(each[1:]) for each in frames[2:]]
    assert [reader[at] for reader in again for at in range(len(reader))] == [
        (0,),
        (2,),
        (3,),
        ([4],),
    ]
    talk.add(CALL, 1, inputs(6))
    talk.close(CALL)
    added, closed = said(talk)
    assert isinstance(added, messages.AddInputs)
    assert added.start == 4
    assert closed == messages.CloseInputs(CALL, 5)
    talk.receive(messages.CallProgress(CALL, 1, 0, 1, started=((0, 4),)), [])
    (progress,) = heard.other
    assert isinstance(progress, messages.CallProgress)
    assert progress.started == ((0, 1), (2, 5))
    talk.receive(messages.Output(CALL, 1, "stdout", WorkerId("w")), [b"hi"])
    assert heard.other[-1] == (2, "stdout", b"hi")
    talk.receive(messages.Results(CALL, 0, 5, 0), values("0", "2", "3", "4", "6"))
    assert heard.results == {0: "0", 1: "one", 2: "2", 3: "3", 4: "4", 5: "five", 6: "6"}
    assert talk.is_idle


def test_a_closed_call_is_said_again_in_one_message() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard()), 1, inputs(1), closed=True)
    talk.lost()
    talk.connected("two")
    last = said(talk)[-1]
    assert isinstance(last, messages.Submit)
    assert last.closed


def test_cancelling_is_said_and_ends_the_inputs() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 2, inputs(1, 2), closed=False)
    said(talk)
    talk.cancel(CALL)
    talk.cancel(CALL)
    talk.add(CALL, 1, inputs(3))
    assert said(talk) == [messages.CancelCall(CALL), messages.CloseInputs(CALL, 2)]
    talk.cancel(CALL, terminate=True)
    assert said(talk) == [messages.CancelCall(CALL, terminate=True)]
    talk.receive(messages.Failure(CALL, 0, 2, Outcome.CANCELLED, 0), [])
    assert [(e.index, e.count) for e in heard.ends] == [(0, 2)]
    assert talk.is_idle


def test_a_pause_is_said_once_and_again_to_a_new_broker() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard()), 2, inputs(1, 2), closed=False)
    said(talk)
    talk.pause(CALL)
    talk.pause(CALL)
    assert said(talk) == [messages.PauseCall(CALL)]
    talk.lost()
    talk.connected("two")
    assert said(talk)[-1] == messages.PauseCall(CALL)
    talk.pause(CALL, False)
    assert said(talk) == [messages.PauseCall(CALL, paused=False)]
    talk.lost()
    talk.pause(CALL)
    assert said(talk) == []
    talk.connected("three")
    assert said(talk)[-1] == messages.PauseCall(CALL)
    talk.cancel(CALL)
    talk.pause(CALL, False)
    talk.pause(CallId("fc-nope"))
    assert talk.missing(CALL, 0, 2) == [(0, 2)]
    assert talk.missing(CallId("fc-nope"), 0, 2) == []
    assert said(talk)[0] == messages.CancelCall(CALL)
    assert said(talk) == []


def test_an_attached_call_cancelled_offline_ends_here() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 3, inputs(1, 2, 3), closed=False)
    talk.receive(messages.Results(CALL, 1, 1, 1), values("x"))
    talk.lost()
    talk.cancel(CALL)
    assert [(e.index, e.count, e.outcome) for e in heard.ends] == [
        (0, 1, Outcome.CANCELLED),
        (2, 1, Outcome.CANCELLED),
    ]
    assert talk.is_idle


def test_a_call_cancelled_before_the_broker_died_is_not_said_again() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=True)
    talk.cancel(CALL)
    talk.lost()
    said(talk)
    talk.connected("two")
    assert said(talk) == []
    assert len(heard.ends) == 1


def test_a_spawned_call_is_kept_until_it_is_durable() -> None:
    talk = opened()
    heard, outcomes = Heard(), Heard()
    talk.submit(submission("fc-1", heard, attached=False), 1, inputs(1), closed=True)
    talk.attach(CALL, outcomes)
    assert names(said(talk))[-1] == "Submit"
    talk.lost()
    talk.connected("two")
    assert names(said(talk))[-1] == "Submit"
    talk.receive(messages.Accepted(CALL), [])
    assert heard.other == ["accepted"]
    assert said(talk) == [messages.AttachCall(CALL)]
    talk.receive(messages.Output(CALL, 0, "stderr", WorkerId("w")), [])
    talk.receive(messages.Results(CALL, 0, 1, 0), values("r"))
    talk.receive(messages.Failure(CALL, 1, 1, Outcome.LOST, 3, "died"), [])
    assert outcomes.results == {0: "r"}
    assert outcomes.ends == [Ended(1, 1, Outcome.LOST, 3, "died", None)]
    assert outcomes.other == [(0, "stderr", b"")]
    talk.lost()
    talk.connected("three")
    assert said(talk) == [messages.AttachCall(CALL)]
    talk.detach(CALL, outcomes)
    talk.detach(CALL, outcomes)
    assert talk.is_idle
    talk.receive(messages.Results(CALL, 0, 1, 0), values("r"))
    assert talk.dropped_messages == 1


def test_a_spawned_call_can_be_accepted_with_nobody_attached() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard, attached=False), 1, inputs(1), closed=True)
    said(talk)
    talk.receive(messages.Accepted(CALL), [])
    assert said(talk) == []
    assert talk.is_idle


def test_cancelling_a_spawned_call_waits_for_a_broker() -> None:
    talk = opened()
    talk.lost()
    talk.cancel(CALL, terminate=True)
    talk.submit(submission("fc-2", Heard(), attached=False), 1, inputs(1), closed=True)
    talk.cancel(CallId("fc-2"))
    assert not talk.is_idle
    talk.connected("two")
    assert said(talk)[-2:] == [
        messages.CancelCall(CallId("fc-2")),
        messages.CancelCall(CALL, terminate=True),
    ]


def test_the_cancellation_of_a_spawned_call_is_said_until_a_broker_confirms_it() -> None:
    talk = opened()
    talk.cancel(CALL)
    assert said(talk) == [messages.CancelCall(CALL)]
    talk.lost()
    assert not talk.is_idle
    talk.connected("two")
    assert said(talk) == [messages.CancelCall(CALL)]
    talk.receive(messages.CancelConfirmed(CALL), [])
    assert talk.is_idle
    talk.receive(messages.CancelConfirmed(CALL), [])
    talk.lost()
    talk.connected("three")
    assert (said(talk), talk.dropped_messages) == ([], 0)


def test_rejections_reach_everybody() -> None:
    talk = opened()
    heard, outcomes = Heard(), Heard()
    talk.submit(submission("fc-1", heard, attached=False), 1, inputs(1), closed=True)
    talk.attach(CALL, outcomes)
    talk.receive(messages.Rejected(CALL, "InvalidError", "no"), [])
    assert heard.other == outcomes.other == [("InvalidError", "no")]
    talk.receive(messages.Rejected(CALL, "InvalidError", "no"), [])
    assert len(heard.other) == 1


def test_failing_tells_everybody_who_waits() -> None:
    talk = opened()
    heard, outcomes = Heard(), Heard()
    replies: list[messages.Reply] = []
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=True)
    talk.attach(CallId("fc-9"), outcomes)
    talk.ask(messages.Ask(1, "status"), lambda reply, _: replies.append(reply))
    talk.fail("ConnectionError", "gone")
    assert heard.other == outcomes.other == [("ConnectionError", "gone")]
    assert replies[0].error == "ConnectionError"
    assert msgspec.msgpack.decode(replies[0].body) == "gone"
    assert talk.is_idle


def test_questions_are_asked_again_and_answered_once() -> None:
    talk = opened()
    replies: list[messages.Reply] = []
    ask = messages.Ask(7, "pool_stats", "po-f-v1")
    talk.ask(ask, lambda reply, _: replies.append(reply), package())
    assert names(said(talk)) == ["StoreObject", "Define", "Ask"]
    talk.lost()
    talk.ask(messages.Ask(8, "status"), lambda reply, _: replies.append(reply))
    talk.connected("two")
    assert names(said(talk)) == ["StoreObject", "Define", "Ask", "Ask"]
    talk.receive(messages.Reply(7, encode_body(1)), [])
    talk.receive(messages.Reply(7, encode_body(1)), [])
    assert [reply.request for reply in replies] == [7]


def test_waiting_is_told_and_taken_back() -> None:
    talk = opened()
    blocked, resumed = messages.Blocked(PARENT, (CALL,)), messages.Resumed(PARENT)
    talk.tell(blocked)
    talk.tell(resumed)
    assert said(talk) == [blocked, resumed]
    talk.lost()
    talk.connected("two")
    assert said(talk) == []


def test_who_waits_on_after_an_outcome_says_so_again() -> None:
    talk = opened()
    one, spawned = CallId("fc-one"), CallId("fc-spawned")
    talk.submit(submission("fc-1", Heard()), 2, inputs(1, 2), closed=True)
    talk.submit(submission("fc-one", Heard()), 1, inputs(1), closed=True)
    talk.attach(spawned, Heard())
    said(talk)
    mapped = messages.Blocked(PARENT, (CALL,))
    talk.tell(mapped)
    talk.receive(messages.Results(CALL, 1, 1, 1), values("second"))
    assert said(talk) == [mapped, mapped], "the first is what it waits for"
    talk.receive(messages.Failure(CALL, 0, 1, Outcome.LOST, 1), [])
    assert said(talk) == [], "there is nothing left to wait for"
    several = messages.Blocked(PARENT, (one, spawned))
    talk.tell(several)
    talk.receive(messages.Results(one, 0, 1, 0), values("done"))
    assert said(talk) == [several, several]
    talk.tell(messages.Resumed(PARENT))
    talk.receive(messages.Results(spawned, 0, 1, 0), values("done"))
    assert said(talk) == [messages.Resumed(PARENT)]


def test_going_back_to_a_version_defines_it_again() -> None:
    talk = opened()
    first, second = package("v1"), package("v2")
    for at, each in enumerate([first, second, first]):
        talk.submit(submission(f"fc-{at}", Heard(), package=each), 1, inputs(1), closed=True)
    found = [m.spec.pool for m in said(talk) if isinstance(m, messages.Define)]
    assert found == [PoolId("po-f-v1"), PoolId("po-f-v2"), PoolId("po-f-v1")]


def test_nested_functions_are_defined_before_the_call() -> None:
    talk = opened()
    inner = package("v1", "g").spec
    outer = replace(package(), nested=(inner,), pools=(inner.pool,), table=Digest("t"))
    talk.submit(
        submission("fc-1", Heard(), package=outer, objects={Digest("kw"): b"k"}),
        1,
        inputs(1),
        closed=True,
    )
    found = said(talk)
    assert names(found) == ["StoreObject", "Define", "Define", "StoreObject", "Submit"]
    submit = found[-1]
    assert isinstance(submit, messages.Submit)
    assert submit.pools == (inner.pool,)


def test_an_inherited_function_is_only_named() -> None:
    talk = opened()
    arrived = replace(package(), inherited=True, objects={})
    talk.submit(submission("fc-1", Heard(), package=arrived), 1, inputs(1), closed=True)
    assert names(said(talk)) == ["Submit"]


def test_an_instance_of_what_is_deployed_brings_its_parameters() -> None:
    talk = opened()
    named = replace(package(), inherited=True)
    talk.submit(submission("fc-1", Heard(), package=named), 1, inputs(1), closed=True)
    assert names(said(talk)) == ["StoreObject", "Submit"]
    talk.submit(submission("fc-2", Heard(), package=named), 1, inputs(1), closed=True)
    assert names(said(talk)) == ["Submit"]


def test_objects_that_are_not_used_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "OBJECT_BYTES", 100)
    talk = opened()
    for at in range(4):
        each = package(f"v{at}", "f", **{f"snap{at}": bytes(40)})
        talk.submit(submission(f"fc-{at}", Heard(), package=each), 1, inputs(1), closed=True)
        talk.receive(messages.Results(CallId(f"fc-{at}"), 0, 1, 0), values(1))
    dropped = [m.digests for m in said(talk) if isinstance(m, messages.DropObjects)]
    assert dropped == [("code-v0", "snap0", "code-v1", "snap1")]
    again = package("v0", snap0=bytes(40))
    talk.submit(submission("fc-9", Heard(), package=again), 1, inputs(1), closed=True)
    assert names(said(talk)).count("StoreObject") == 2


def test_objects_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "OBJECT_COUNT", 2)
    talk = opened()
    for at in range(3):
        each = package(f"v{at}")
        talk.submit(submission(f"fc-{at}", Heard(), package=each), 1, inputs(1), closed=True)
    assert not any(isinstance(m, messages.DropObjects) for m in said(talk))


def companion(name: str) -> Package:
    """Return a function as an argument: it has a table."""
    held = package("v1", name)
    return replace(
        held, table=Digest(f"table-{name}"), requires=(Digest("x"),), pools=(PoolId("po-x"),)
    )


def test_functions_among_the_arguments_are_said_before_the_inputs() -> None:
    talk = opened()
    g, h = companion("g"), companion("h")
    call = submission("fc-1", Heard(), companions={g.spec.key: g})
    talk.submit(call, 1, inputs(1), closed=False)
    first = said(talk)
    assert names(first).count("Define") == 2
    last = first[-1]
    assert isinstance(last, messages.Submit)
    assert (last.requires, last.pools) == (("table-g", "x"), ("po-x",))
    call.companions[h.spec.key] = h
    talk.add(CALL, 1, inputs(2))
    assert names(said(talk)) == ["Define", "AddInputs"]
    talk.lost()
    talk.connected("two")
    again = next(one for one in said(talk) if isinstance(one, messages.Submit))
    assert again.requires == ("table-g", "x", "table-h", "x")


def test_functions_among_the_arguments_stay_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "OBJECT_COUNT", 2)
    talk = opened()
    g = package("v8", "g")
    call = submission("fc-1", Heard(), companions={g.spec.key: g})
    talk.submit(call, 1, inputs(1), closed=True)
    for at in range(2, 4):
        each = package(f"v{at}")
        talk.submit(submission(f"fc-{at}", Heard(), package=each), 1, inputs(1), closed=True)
    assert not any(isinstance(m, messages.DropObjects) for m in said(talk))


def test_large_maps_let_their_batches_go() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(0), closed=False)
    for at in range(1, 100):
        talk.add(CALL, 1, inputs(at))
    for at in [*range(40, 80), *range(40), *range(80, 100)]:
        talk.receive(messages.Results(CALL, at, 1, at), values(at))
    talk.close(CALL)
    assert heard.results == {at: at for at in range(100)}
    assert talk.is_idle


def test_a_call_whose_inputs_have_all_ended_is_said_again_without_any() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=False)
    talk.receive(messages.Results(CALL, 0, 1, 0), values("r"))
    talk.receive(messages.Failure(CALL, 0, 1, Outcome.FAILED, 1), [b"late"])
    talk.lost()
    talk.connected("two")
    last = said(talk)[-1]
    assert isinstance(last, messages.Submit)
    assert (last.count, last.closed) == (0, False)
    talk.add(CALL, 1, inputs(2))
    talk.receive(messages.Results(CALL, 0, 1, 0), values("s"))
    assert heard.results == {0: "r", 1: "s"}
    assert heard.ends == []


def test_an_attached_call_is_not_accepted() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=True)
    talk.receive(messages.Accepted(CALL), [])
    assert talk.dropped_messages == 1
    assert heard.other == []


def test_two_may_be_attached_to_one_call() -> None:
    talk = opened()
    assert talk.online
    one, two = Heard(), Heard()
    talk.attach(CALL, one)
    talk.attach(CALL, two)
    talk.receive(messages.Results(CALL, 0, 1, 0), values("r"))
    talk.detach(CALL, one)
    talk.receive(messages.Results(CALL, 1, 1, 1), values("s"))
    assert (one.results, two.results) == ({0: "r"}, {0: "r", 1: "s"})


def test_a_changed_snapshot_is_an_object_and_no_version() -> None:
    talk = opened()
    for at in range(2):
        each = replace(package("v1", "f", **{f"snap{at}": b"x"}), snapshot=Digest(f"snap{at}"))
        talk.submit(submission(f"fc-{at}", Heard(), package=each), 1, inputs(1), closed=True)
    found = said(talk)
    assert names(found).count("Define") == 1
    assert names(found).count("StoreObject") == 3


def test_progress_as_it_comes() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 2, inputs(1, 2), closed=True)
    progress = messages.CallProgress(CALL, 1, 0, 1, started=((0, 2),))
    talk.receive(progress, [])
    assert heard.other == [progress]


def items(start: int, *given: object) -> tuple[messages.Items, list[bytes]]:
    return messages.Items(CALL, 0, start, len(given)), values(*given)


def test_items_of_an_attached_generator_are_told_once_and_in_order() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard, streams=True), 1, inputs(1), closed=True)
    last = said(talk)[-1]
    assert isinstance(last, messages.Submit)
    assert last.streams
    talk.receive(*items(0, "a", "b"))
    talk.receive(*items(0, "a", "b"))
    talk.receive(*items(2, "c"))
    assert heard.items == [(0, "a"), (1, "b"), (2, "c")]
    assert talk.dropped_messages == 1
    talk.credit(CALL, 3, 100)
    assert said(talk) == [messages.Credit(CALL, 0, 3, 100)]
    talk.receive(messages.Results(CALL, 0, 1, 0), values(None))
    talk.credit(CALL, 4, 100)
    assert (said(talk), talk.is_idle) == ([], True)


def test_a_generator_that_gave_items_is_not_run_again_by_another_broker() -> None:
    talk = opened()
    heard, unheard = Heard(), Heard()
    talk.submit(submission("fc-1", heard, streams=True), 1, inputs(1), closed=True)
    talk.submit(submission("fc-2", unheard, streams=True), 1, inputs(1), closed=True)
    talk.receive(*items(0, "a"))
    talk.lost()
    talk.credit(CALL, 1, 1)
    talk.connected("two")
    again = [message for message in said(talk) if isinstance(message, messages.Submit)]
    assert [(message.call, message.streams) for message in again] == [("fc-2", True)]
    (end,) = heard.ends
    assert end.outcome is Outcome.LOST
    assert "had given 1 item when the broker died" in end.message
    assert unheard.ends == []


def replaying(number: int) -> tuple[messages.Replaying, list[bytes]]:
    return messages.Replaying(CALL, number), []


def test_items_of_a_spawned_generator_go_to_those_who_read_it() -> None:
    talk = opened()
    outcome, reader, late = Heard(), Heard(), Heard()
    talk.attach(CALL, outcome)
    talk.receive(*items(0, "a"))
    assert talk.dropped_messages == 1
    talk.attach(CALL, reader, True)
    talk.attach(CALL, late, True)
    assert said(talk) == [
        messages.AttachCall(CALL),
        messages.AttachCall(CALL, 1),
        messages.AttachCall(CALL, 2),
    ]
    talk.receive(*replaying(1))
    talk.receive(*items(0, "a"))
    assert (outcome.items, reader.items, late.items) == ([], [(0, "a")], [])
    talk.receive(*replaying(2))
    talk.receive(*items(0, "a"))
    assert late.items == [(0, "a")]
    talk.receive(messages.Output(CALL, 0, "stdout", WorkerId("ta-1")), [b"printed"])
    talk.receive(messages.CallProgress(CALL, 1, 0, 1), [])
    assert [len(each.other) for each in (outcome, reader, late)] == [2, 0, 0]
    talk.detach(CALL, reader)
    assert said(talk) == []
    talk.detach(CALL, late)
    assert said(talk) == [messages.AttachCall(CALL)]
    talk.lost()
    talk.attach(CALL, reader, True)
    talk.detach(CALL, reader)
    talk.connected("two")
    assert said(talk) == [messages.AttachCall(CALL)]


def test_a_reader_hears_no_outcome_before_its_items() -> None:
    talk = opened()
    outcome, reader = Heard(), Heard()
    talk.attach(CALL, outcome)
    talk.attach(CALL, reader, True)
    talk.receive(messages.Results(CALL, 0, 1, 0), values(None))
    assert (outcome.results, reader.results) == ({0: None}, {})
    talk.receive(*replaying(1))
    talk.receive(*items(0, "a"))
    talk.detach(CALL, outcome)
    talk.receive(messages.Results(CALL, 0, 1, 0), values(None))
    assert (reader.items, reader.results) == ([(0, "a")], {0: None})
    said(talk)
    talk.detach(CALL, reader)
    assert said(talk) == []  # there is nothing more to hear


def test_a_reader_is_told_why_there_is_nothing_to_read() -> None:
    talk = opened()
    reader = Heard()
    talk.attach(CALL, reader, True)
    talk.receive(messages.Output(CALL, 0, "stdout", WorkerId("ta-1")), [b"printed"])
    talk.receive(messages.Rejected(CALL, "NotFoundError", "gone"), [])
    assert reader.other == [(0, "stdout", b"printed"), ("NotFoundError", "gone")]
    talk.detach(CALL, reader)
    assert said(talk) == [messages.AttachCall(CALL, 1)]
    talk.attach(CALL, reader, True)
    talk.fail("ClientClosed", "closed")
    assert len(reader.other) == 3


def test_who_waits_for_a_generator_says_so_again_after_items() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard(), streams=True), 1, inputs(1), closed=True)
    talk.tell(messages.Blocked(PARENT, (CALL,)))
    said(talk)
    talk.receive(*items(0, "a"))
    assert said(talk) == [messages.Blocked(PARENT, (CALL,))]


def test_a_deployment_says_its_objects_and_no_version() -> None:
    talk = opened()
    replies: list[messages.Reply] = []
    wanted = messages.Deploy(7, "shop", ())
    talk.ask(wanted, lambda reply, _: replies.append(reply), package(snap=b"x"))
    assert names(said(talk)) == ["StoreObject", "StoreObject", "Deploy"]
    talk.lost()
    talk.connected("two")
    assert names(said(talk)) == ["StoreObject", "StoreObject", "Deploy"]
    talk.receive(messages.Reply(7), [])
    assert [reply.request for reply in replies] == [7]


def put(name: str, size: int = 1) -> dict[FunctionKey, Package]:
    """Return an object that was put, as an argument."""
    return {FunctionKey(f"put/{name}"): Package.of_object(Digest(name), bytes(size))}


def test_an_object_among_the_arguments_is_said_once_and_required() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard(), companions=put("o")), 1, inputs(1), closed=True)
    talk.submit(submission("fc-2", Heard(), companions=put("o")), 1, inputs(1), closed=True)
    found = said(talk)
    assert [m.digest for m in found if isinstance(m, messages.StoreObject)].count(Digest("o")) == 1
    assert all("o" in m.requires for m in found if isinstance(m, messages.Submit))
    assert names(found).count("Define") == 1


def test_an_object_is_dropped_when_nothing_needs_it() -> None:
    talk = opened()
    talk.submit(submission("fc-1", Heard(), companions=put("o")), 1, inputs(1), closed=True)
    said(talk)
    talk.drop_object(Digest("o"))
    assert said(talk) == []
    talk.receive(messages.Results(CALL, 0, 1, 0), values(1))
    talk.drop_object(Digest("o"))
    talk.drop_object(Digest("o"))
    assert said(talk) == [messages.DropObjects((Digest("o"),))]


def test_an_object_whose_handle_lives_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "OBJECT_BYTES", 100)
    talk = opened()
    talk.kept = {Digest("o"): 1}
    for at, name in enumerate(("o", "p", "q")):
        call = f"fc-{at}"
        talk.submit(submission(call, Heard(), companions=put(name, 80)), 1, inputs(1), closed=True)
        talk.receive(messages.Results(CallId(call), 0, 1, 0), values(1))
    dropped = [d for m in said(talk) if isinstance(m, messages.DropObjects) for d in m.digests]
    assert "p" in dropped
    assert "o" not in dropped


def test_what_must_not_run_twice_is_not_said_to_another_broker() -> None:
    talk = opened()
    heard = Heard()
    once = package()
    once = replace(once, spec=msgspec.structs.replace(once.spec, rerun_on_crash=False))
    talk.submit(submission("fc-1", heard, package=once), 2, inputs(1, 2), closed=False)
    talk.receive(messages.Results(CALL, 0, 1, 0), values("a"))
    talk.lost()
    talk.add(CALL, 1, inputs(3))
    talk.lost()
    talk.connected("two")
    ends = [(end.index, end.count, end.outcome) for end in heard.ends]
    assert ends == [(1, 1, Outcome.LOST)]
    assert "the broker died while it had it, and rerun_on_crash=False" in heard.ends[0].message
    (again,) = [message for message in said(talk) if isinstance(message, messages.Submit)]
    assert (again.count, again.closed) == (1, False)
    talk.receive(messages.Results(CALL, 0, 1, 0), values("c"))
    assert heard.results == {0: "a", 2: "c"}
    talk.close(CALL)
    assert talk.is_idle


def test_a_broker_that_is_another_without_a_loss_between_is_another_all_the_same() -> None:
    talk = opened()
    heard = Heard()
    once = package()
    once = replace(once, spec=msgspec.structs.replace(once.spec, rerun_on_crash=False))
    talk.submit(submission("fc-1", heard, package=once), 1, inputs(1), closed=True)
    talk.connected("two")
    assert [end.outcome for end in heard.ends] == [Outcome.LOST]
    assert talk.is_idle
    assert not [message for message in said(talk) if isinstance(message, messages.Submit)]


def test_what_waits_for_its_first_broker_is_said_to_it() -> None:
    talk = opened()
    talk.lost()
    once = package()
    once = replace(once, spec=msgspec.structs.replace(once.spec, rerun_on_crash=False))
    talk.submit(submission("fc-1", Heard(), package=once), 1, inputs(1), closed=True)
    talk.connected("two")
    assert names(said(talk))[-1] == "Submit"


def test_a_breakpoint_is_offered_to_whoever_waits_for_its_call() -> None:
    talk = opened()
    heard = Heard()
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=True)
    said(talk)
    worker = WorkerId("ta-1")
    talk.receive(messages.ConsoleOffered(CALL, 0, "breakpoint", worker), [])
    assert said(talk) == []
    looks: list[object] = []
    (act,) = heard.other
    act(True)  # type: ignore[operator]  # what was offered
    talk.look = lambda *what: looks.append(what)
    talk.receive(messages.ConsoleOffered(CALL, 0, "breakpoint", worker), [])
    heard.other[1](True)  # type: ignore[operator]  # likewise
    assert looks == [(worker, True)]


@pytest.mark.parametrize("call", [CALL, CallId("fc-nobody")])
def test_a_breakpoint_for_which_nobody_waits_is_refused(call: CallId) -> None:
    talk = opened()
    heard = Heard()
    heard.is_deaf = True
    talk.submit(submission("fc-1", heard), 1, inputs(1), closed=True)
    said(talk)
    talk.receive(messages.ConsoleOffered(call, 0, "breakpoint", WorkerId("ta-1")), [])
    (answer,) = said(talk)
    assert isinstance(answer, messages.ConsoleRefused)
    assert answer.worker == "ta-1"


def test_what_a_console_says_is_not_for_the_session() -> None:
    talk = opened()
    talk.receive(messages.ConsoleSaid(WorkerId("ta-1")), [b"(Pdb) "])
    talk.receive(messages.ConsoleClosed(WorkerId("ta-1")), [])
    assert talk.dropped_messages == 2


class LineHeard(Heard):
    """A line that writes down what it hears by the broker."""

    def over(self) -> None:
        self.other.append("over")


def lined() -> tuple[Conversation, LineHeard]:
    """Return a conversation in which `CALL` has asked for a line and had its first result."""
    talk, line = opened(), LineHeard()
    call = submission("fc-1", Heard(), line="name", line_receiver=line)
    talk.submit(call, 1, inputs(1), closed=True)
    asked = said(talk)[-1]
    assert isinstance(asked, messages.Submit)
    assert asked.line == "name"
    talk.receive(messages.Results(CALL, 0, 1, 0), values(1))
    return talk, line


def test_what_comes_by_the_broker_after_the_first_input_is_the_lines() -> None:
    talk, line = lined()
    talk.receive(messages.Output(CALL, 4, "stdout", WorkerId("ta-1")), [b"said"])
    talk.receive(messages.Results(CALL, 4, 1, 4), values("four"))
    talk.receive(messages.LineEnded(CALL, 5), [])
    talk.receive(messages.LineEnded(CALL, 5), [])
    assert line.results == {4: "four"}
    assert line.other == [(4, "stdout", b"said"), "over"]
    assert not talk.has_lines


def test_an_input_of_a_line_is_cancelled_at_its_place() -> None:
    talk, _ = lined()
    talk.cancel_line(CALL, 7)
    assert said(talk)[-1] == messages.CancelCall(CALL, reached=7)
    talk.lost()
    talk.cancel_line(CALL, 7)
    assert not said(talk)


def test_lines_end_with_their_broker_and_with_the_conversation() -> None:
    talk, line = lined()
    talk.lost()
    assert line.other == ["over"]
    talk, line = lined()
    talk.fail("ClientClosed", "closed")
    assert line.other == [("ClientClosed", "closed")]


def test_a_call_that_got_no_line_is_forgotten() -> None:
    talk, line = lined()
    talk.forget_line(CALL)
    talk.receive(messages.Results(CALL, 4, 1, 4), values("four"))
    assert not line.results
    assert talk.dropped_messages == 1


def test_what_is_asked_of_shelves_is_said_again_to_a_new_broker() -> None:
    talk = opened()
    answers: list[str] = []

    def asked() -> Request:
        return Request(
            Take(Shelf("queue", "q")),
            [],
            lambda reply, _: answers.append(reply.error),
            lambda begins: answers.append(f"parks {begins}"),
        )

    talk.receive(messages.Parked(1), [])
    assert talk.dropped_messages == 1
    talk.shelving().ask(asked(), 1)
    assert not talk.is_idle
    talk.receive(messages.Parked(1), [])
    talk.receive(messages.Parked(2), [])
    talk.receive(messages.Reply(2), [])
    assert talk.dropped_messages == 3
    talk.lost()
    said(talk)
    talk.shelving().ask(asked(), 3)
    assert said(talk) == []
    talk.connected("another")
    assert names(said(talk)) == ["ShelfWord", "UseShelf", "UseShelf"]
    talk.receive(messages.Reply(1), [b"item"])
    assert names(said(talk)) == ["ShelfWord"]
    talk.fail("ConnectionError", "gone")
    assert answers == ["parks True", "parks False", "", "ConnectionError"]
    assert talk.is_idle
