"""What a client seals and opens, and what it makes of what it cannot open."""

from __future__ import annotations

import msgspec
import pytest

from kernel_worker.errors import ConnectionError, DeserializationError  # noqa: A004  ours
from kernel_worker.keys import Invitation, KeyPair
from kernel_worker.model import CallId, Digest, Outcome, PoolId, WorkerId, digest_of
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import failures, messages, payload, sealing
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from notebook_ext.sealed import Seals

FAR, NEAR = CallId("fc-s1"), CallId("fc-1")
SECRET = bytes(range(32))
KEY = sealing.Key(SECRET)
VALUES = [bytes(each) for each in payload.encode_batch([[1], [2]], FORM_VALUE)]
INPUTS = payload.encode_batch([([1],), ([2],)], FORM_ARGS)
WORKER = WorkerId("ta-1")


@pytest.fixture
def seals() -> Seals:
    made = Seals()
    keys = Invitation("tcp://box:1", "", KeyPair("", ""), payload=SECRET.hex())
    made.use(Connection("tcp://box:1", 0, "", "", "", keys=keys))
    return made


def failure_of(said: messages.ToClient, frames: list[bytes]) -> tuple[int, str]:
    assert isinstance(said, messages.Failure)
    assert said.outcome is Outcome.FAILED
    return said.index, str(failures.rebuild(frames[0]))


def test_inputs_and_objects_go_out_sealed(seals: Seals) -> None:
    digest = Digest("d")
    (code,) = seals.sealed(messages.StoreObject(digest), [b"code"])
    assert KEY.open(code, sealing.object_named(digest)) == b"code"
    place = sealing.inputs_of(FAR)
    first = seals.sealed(messages.Submit(FAR, PoolId("po"), True, 2, False), INPUTS)
    assert KEY.open_batch(first, place, 0) == INPUTS
    more = seals.sealed(messages.AddInputs(FAR, 7, 2), INPUTS)
    assert KEY.open_batch(more, place, 7) == INPUTS
    one, two = payload.encode_batch([1, 2], FORM_ARGS), payload.encode_batch([3], FORM_ARGS)
    whole = messages.Submit(FAR, PoolId("po"), False, 3, True, parts=(2, 1))
    parts = seals.sealed(whole, [*one, *two])
    assert KEY.open_batch(parts[:2], place, 0) == one
    assert KEY.open_batch(parts[2:], place, 2) == two


def test_other_calls_stay_as_they_are() -> None:
    none = Seals()
    submit = messages.Submit(NEAR, PoolId("po"), True, 2, False)
    assert none.sealed(submit, INPUTS) is INPUTS
    assert none.sealed(messages.CloseInputs(NEAR, 2), INPUTS) is INPUTS
    assert not none.concerns(messages.Results(NEAR, 0, 2, 0), VALUES[0])
    assert not none.concerns(messages.Accepted(FAR), b"")
    frames = [b"\xc0"]
    assert none.reply(messages.Ask(1, "logs", NEAR), frames) is frames
    assert none.reply(messages.Ask(1, "object", "d"), frames) is frames
    assert none.reply(messages.ConfigurePool(1, PoolId("po")), frames) is frames


def test_answers_come_in_opened(seals: Seals) -> None:
    values = KEY.seal_batch(VALUES, sealing.values_of(FAR), 4)
    items = KEY.seal_batch(VALUES, sealing.items_of(FAR), 4)
    raised = KEY.seal(b"raised", sealing.exception_of(FAR, 3))
    broken = KEY.seal(b"raised", sealing.START)
    text = KEY.seal(b"text", sealing.output_of(FAR, 3))
    built = messages.Output(FAR, 0, "build", WORKER)
    withheld = messages.Output(FAR, 3, "stdout", WORKER, withheld=9)
    for said, frames, expected in (
        (messages.Results(FAR, 5, 1, 4), values, VALUES),
        (messages.Items(FAR, 0, 4, 2), items, VALUES),
        (messages.Failure(FAR, 3, 1, Outcome.FAILED, 1), [raised], [b"raised"]),
        (messages.Failure(FAR, 3, 1, Outcome.INIT_FAILED, 1), [broken], [b"raised"]),
        (messages.Failure(FAR, 3, 1, Outcome.INIT_FAILED, 1), [b"in clear"], []),
        (messages.Output(FAR, 3, "stdout", WORKER), [text], [b"text"]),
        (withheld, [b""], [b""]),
        (built, [KEY.seal(b"text", sealing.BUILD)], [b"text"]),
        (built, [b"of what came in clear"], [b"of what came in clear"]),
    ):
        assert seals.concerns(said, bytes(frames[0]))
        assert list(seals.opened(said, [bytes(each) for each in frames])) == [(said, expected)]
    assert seals.concerns(messages.Failure(NEAR, 3, 1, Outcome.INIT_FAILED, 1), broken)


def test_replies_come_in_opened(seals: Seals) -> None:
    stored = KEY.seal(b"stored", sealing.object_named(Digest("d")))
    assert seals.reply(messages.Ask(1, "object", "d"), [stored]) == [b"stored"]
    with pytest.raises(DeserializationError):
        seals.reply(messages.Ask(1, "object", "e"), [stored])
    notice = messages.LogEntry(-1, "notice", 1.0, b"full")
    entry = messages.LogEntry(3, "stdout", 1.0, b"text")
    sealed = msgspec.structs.replace(entry, data=KEY.seal(b"text", sealing.output_of(FAR, 3)))
    built = messages.LogEntry(0, "build", 1.0, b"in clear")
    entries = msgspec.msgpack.encode([sealed, notice, built])
    (page,) = seals.reply(messages.Ask(1, "logs", FAR), [entries])
    assert msgspec.msgpack.decode(page, type=list[messages.LogEntry]) == [entry, notice, built]
    assert seals.reply(messages.Ask(1, "logs", FAR), []) == []


def test_an_object_in_clear_is_the_one_that_was_asked_for(seals: Seals) -> None:
    asked = messages.Ask(1, "object", digest_of(b"mine"))
    assert seals.reply(asked, [b"mine"], strict=True) == [b"mine"]
    with pytest.raises(DeserializationError, match="another one, in clear"):
        seals.reply(asked, [b"theirs"], strict=True)


def test_a_broker_that_is_found_again_may_have_another_key(seals: Seals) -> None:
    asked, place = messages.Ask(1, "object", "d"), sealing.object_named(Digest("d"))
    assert seals.reply(asked, [KEY.seal(b"old", place)]) == [b"old"]
    keys = Invitation("tcp://box:1", "", KeyPair("", ""), payload=b"n".hex() * 32)
    seals.use(Connection("tcp://box:1", 0, "", "", "", keys=keys))
    assert seals.reply(asked, [sealing.Key(b"n" * 32).seal(b"new", place)]) == [b"new"]


def test_what_cannot_be_opened_is_a_failure_and_is_not_unpickled(
    seals: Seals, caplog: pytest.LogCaptureFixture
) -> None:
    other = sealing.Key(b"o" * 32).seal_batch(VALUES, sealing.values_of(FAR), 4)
    for frames in (VALUES, [bytes(each) for each in other]):
        found = list(seals.opened(messages.Results(FAR, 4, 2, 4), frames))
        assert [failure_of(*each)[0] for each in found] == [4, 5]
        assert all("the results of fc-s1 cannot be" in failure_of(*each)[1] for each in found)
    for said in (messages.Items(FAR, 0, 4, 2), messages.Failure(FAR, 0, 1, Outcome.FAILED, 1)):
        ((failed, raised),) = seals.opened(said, VALUES)
        assert failure_of(failed, raised)[0] == 0
    ((shown, text),) = seals.opened(messages.Output(FAR, 3, "display", WORKER), [b"text"])
    assert isinstance(shown, messages.Output)
    assert (shown.stream, text[0][:29]) == ("stderr", b"the output of fc-s1, input 3 ")
    assert "the results of fc-s1 cannot be opened" in caplog.text


def test_before_a_broker_was_found_there_is_no_key() -> None:
    with pytest.raises(ConnectionError, match="no broker was found"):
        Seals().reply(messages.Ask(1, "object", "d"), [KEY.seal(b"", "d")])
