"""What the workers' side opens and seals, and that it leaves other calls alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_worker import context
from kernel_worker.errors import AuthError, DeserializationError
from kernel_worker.model import CallId, Digest, LeaseId, Outcome, WorkerId
from kernel_worker.rendezvous import Connection, publish
from kernel_worker.wire import frames, messages, payload, sealing
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from kernel_worker.wire.seals import Seals

FAR, NEAR = CallId("fc-s1"), CallId("fc-1")
SECRET = bytes(range(32))
KEY = sealing.Key(SECRET)
BATCH = payload.encode_batch([([1],), ([2],)], FORM_ARGS)
VALUES = payload.encode_batch([[1], [2]], FORM_VALUE)


def lease(call: CallId, number: int = 1) -> messages.Lease:
    return messages.Lease(LeaseId(number), call, 3, 5, 1, 3)


@pytest.fixture
def found(tmp_path: Path) -> Seals:
    place = tmp_path / "payload.key"
    place.write_text(SECRET.hex())
    file = tmp_path / "connection.json"
    publish(Connection("ipc://s", 1, "i", "m", str(file), payload_key=str(place)))
    return Seals(str(file))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "seals", False)


def test_what_no_far_client_sent_stays_as_it_is_and_needs_no_key() -> None:
    none = Seals("/nowhere/connection.json")
    assert none.inputs(lease(NEAR), BATCH) is BATCH
    assert none.content(Digest("d"), b"code") == b"code"
    for message in (
        messages.Done(LeaseId(1), 3, 2, 0.0),
        messages.Yielded(LeaseId(1), 3, 0, 2),
        messages.InputEnded(LeaseId(1), 3, Outcome.FAILED, 0.0),
        messages.Returned(LeaseId(1), 3, 5),
    ):
        assert none.answer(message, VALUES, NEAR) is VALUES
    assert not none.is_on
    said = messages.Output(NEAR, 3, "stdout", WorkerId("ta-1"))
    assert none.output(said, b"text\n") == (said, b"text\n")
    assert not context.seals


def test_inputs_and_objects_come_out_and_answers_go_in(found: Seals) -> None:
    found.begin()
    assert found.is_on
    assert context.seals, "what it calls is sealed too"
    sealed = KEY.seal_batch(BATCH, sealing.inputs_of(FAR), 3)
    assert [bytes(each) for each in found.inputs(lease(FAR), sealed)] == [*map(bytes, BATCH)]
    assert found.content(Digest("d"), KEY.seal(b"code", sealing.object_named(Digest("d")))) == (
        b"code"
    )
    done = found.answer(messages.Done(LeaseId(1), 4, 2, 0.0), VALUES, FAR)
    assert KEY.open_batch(done, sealing.values_of(FAR), 4) == VALUES
    given = found.answer(messages.Yielded(LeaseId(1), 3, 7, 2), VALUES, FAR)
    assert KEY.open_batch(given, sealing.items_of(FAR), 7) == VALUES
    ended = messages.InputEnded(LeaseId(1), 4, Outcome.FAILED, 0.0)
    (raised,) = found.answer(ended, [b"raised"], FAR)
    assert KEY.open(raised, sealing.exception_of(FAR, 4)) == b"raised"
    assert found.answer(ended, (), FAR) == ()
    assert found.answer(messages.Returned(LeaseId(1), 3, 5), [b"?"], FAR) == [b"?"]
    said, text = found.output(messages.Output(FAR, 3, "stdout", WorkerId("ta-1")), b"a\nb\n")
    assert (said.lines, KEY.open(text, sealing.output_of(FAR, 3))) == (2, b"a\nb\n")
    said, _ = found.output(messages.Output(FAR, 3, "display", WorkerId("ta-1")), b"a\nb\n")
    assert said.lines == 0
    assert KEY.open(found.start_failure(b"raised"), sealing.START) == b"raised"


def test_what_is_not_sealed_as_it_should_be_is_refused(found: Seals) -> None:
    found.begin()  # in no worker
    with pytest.raises(DeserializationError, match="in clear"):
        found.inputs(lease(FAR), BATCH)
    with pytest.raises(DeserializationError, match="the object e"):
        found.content(Digest("e"), KEY.seal(b"code", sealing.object_named(Digest("d"))))


def test_without_the_key_nothing_comes_out_and_nothing_goes_out_in_clear(tmp_path: Path) -> None:
    none = Seals(str(tmp_path / "connection.json"))
    none.begin()
    with pytest.raises(AuthError, match="is gone"):
        none.inputs(lease(FAR), KEY.seal_batch(BATCH, sealing.inputs_of(FAR), 3))
    ended = messages.InputEnded(LeaseId(1), 4, Outcome.FAILED, 0.0)
    assert none.answer(ended, [b"raised"], FAR) == [frames.MARK]
    said = messages.Output(FAR, 3, "stdout", WorkerId("ta-1"))
    assert none.output(said, b"text\n")[1] == frames.MARK
    with pytest.raises(AuthError):
        none.answer(messages.Done(LeaseId(1), 4, 2, 0.0), VALUES, FAR)


def test_nothing_goes_out_in_clear_whose_call_nobody_names(found: Seals) -> None:
    """However long its lease has run: which call it was is not looked up."""
    found.begin()
    done = messages.Done(LeaseId(1), 4, 2, 0.0)
    ended = messages.InputEnded(LeaseId(1), 4, Outcome.FAILED, 0.0)
    assert frames.header(found.answer(done, VALUES, CallId(""))).sealed
    assert frames.is_sealed(found.answer(ended, [b"raised"], CallId(""))[0])
    assert found.answer(done, VALUES, NEAR) is VALUES


def test_what_a_build_says_belongs_to_no_call(found: Seals) -> None:
    assert KEY.open(found.build(b"installing"), sealing.BUILD) == b"installing"
