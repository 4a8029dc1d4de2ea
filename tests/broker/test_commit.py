"""What goes to the journal with a fact, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kernel_worker import records
from kernel_worker.broker.commit import Commit, objects_of
from kernel_worker.broker.objects import ObjectStore
from kernel_worker.core import effects, events
from kernel_worker.journal.store import Entry, Fact, Finished
from kernel_worker.model import CallId, ClientId, Digest, LeaseId, Outcome, WorkerId, digest_of
from tests.journal.facts import SPEC, submitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.journal.thread import Journal

CALL = CallId("fc-1")
LEASE = LeaseId(1)
ACCEPT = effects.AcceptCall(ClientId("cl-1"), CALL)
TIME = events.TimePassed()


class FakeJournal:
    """Takes what it is given."""

    def __init__(self) -> None:
        self.turns: list[list[Entry]] = []

    @property
    def next_token(self) -> int:
        return len(self.turns) + 1

    def submit(self, entries: Sequence[Entry]) -> int:
        self.turns.append(list(entries))
        return len(self.turns)


def made(objects: ObjectStore | None = None) -> tuple[Commit, FakeJournal]:
    journal = FakeJournal()
    return Commit(cast("Journal", journal), objects or ObjectStore()), journal


def ended(outcome: Outcome) -> records.InputEnded:
    return records.InputEnded(CALL, 0, 1, outcome, 1, "")


def test_the_facts_of_a_turn_are_one_transaction() -> None:
    commit, journal = made()
    commit.flush()
    assert journal.turns == []
    commit.record(records.InputsAdded(CALL, 0, 1), TIME, [b"batch"])
    commit.record(records.InputsClosed(CALL, 1), TIME, [b"batch"])
    commit.finished(CALL, 7.0, (1,))
    assert commit.has_facts
    commit.flush()
    assert not commit.has_facts
    assert journal.turns == [
        [
            Fact(records.InputsAdded(CALL, 0, 1), [b"batch"]),
            Fact(records.InputsClosed(CALL, 1), ()),
            Finished(CALL, 7.0, (1,)),
        ]
    ]


def test_nothing_is_told_before_what_it_relies_on_is_on_the_disk() -> None:
    commit, _ = made()
    assert not commit.is_waiting
    commit.record(records.InputsClosed(CALL, 0), TIME, ())
    assert commit.holds(ACCEPT, ())
    commit.flush()
    assert commit.is_waiting
    assert [held.effect for held in commit.release(1)] == [ACCEPT]
    assert not commit.is_waiting


def test_an_exception_is_kept_only_where_the_event_brought_it() -> None:
    failed = events.InputEnded(WorkerId("ta-1"), LEASE, 0, Outcome.FAILED, 0.1)
    unloadable = events.WorkerStartFailed(WorkerId("ta-1"), "no such module")
    kept: dict[tuple[Outcome, events.Event], bool] = {
        (Outcome.FAILED, failed): True,
        (Outcome.INIT_FAILED, unloadable): True,
        (Outcome.INIT_FAILED, TIME): False,
        (Outcome.CANCELLED, failed): False,
        (Outcome.LOST, TIME): False,
    }
    for (outcome, event), expected in kept.items():
        commit, journal = made()
        commit.record(ended(outcome), event, [b"the exception"])
        commit.flush()
        assert journal.turns == [[Fact(ended(outcome), [b"the exception"] if expected else ())]]


def test_a_call_takes_its_objects_along_and_those_of_the_functions_in_it() -> None:
    code, nested = digest_of(b"code"), digest_of(b"of a nested function")
    objects = ObjectStore()
    objects.add(code, b"code", "cl-1")
    record = submitted(CALL).record
    assert isinstance(record, records.CallSubmitted)
    record = records.CallSubmitted(
        CALL,
        record.spec,
        record.snapshot,
        table=code,
        shared=record.shared,
        context=record.context,
        requires=(nested,),
        nested_specs=(SPEC,),
        submitted_at=0.0,
    )
    assert objects_of(record) == {code, nested, Digest("code"), Digest("environment")}
    commit, journal = made(objects)
    commit.record(record, TIME, [b"the first batch is another record's"])
    commit.flush()
    assert journal.turns == [[Fact(record, (), {code: b"code"})]]
