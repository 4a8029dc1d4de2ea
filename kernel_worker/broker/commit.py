"""Commit: the facts of a turn on their way to the journal, and what waits for them.

All facts of a turn are one transaction. A record takes along what its docstring in `records` names:
the batch of inputs, the values or the exception of the event in hand, the objects of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import records
from kernel_worker.broker.gate import Gate
from kernel_worker.core import events
from kernel_worker.model import CallId, Digest, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from kernel_worker.broker.gate import Held
    from kernel_worker.broker.objects import ObjectStore
    from kernel_worker.core import effects
    from kernel_worker.journal.shelves import Shelves
    from kernel_worker.journal.store import Entry, Step
    from kernel_worker.journal.thread import Journal
    from kernel_worker.model import LeaseId

Frame = bytes | memoryview

_WITH_EXCEPTION = (Outcome.FAILED, Outcome.INIT_FAILED)


class Commit:
    """Collects facts, hands them over once a turn, and holds back what relies on them."""

    def __init__(self, journal: Journal, objects: ObjectStore) -> None:
        """Write to `journal`; `objects` is where the contents of a call's objects are."""
        from kernel_worker.journal import deployments, store  # noqa: PLC0415  loads SQLite

        self._fact, self._finished = store.Fact, store.Finished
        self._deployed, self._undeployed = deployments.Deployed, deployments.Undeployed
        self._written, self._step = store.Written, store.Step
        self._journal = journal
        self._objects = objects
        self._entries: list[Entry] = []
        self._gate = Gate()

    def record(self, record: records.Record, event: events.Event, frames: Sequence[Frame]) -> None:
        """Keep a fact that `event` (with the payload `frames`) has led to."""
        payload = _payload(record, event, frames)
        self._entries.append(self._fact(record, payload, self._contents(record)))
        if isinstance(record, records.AttachedCallEnded):
            return  # nobody relies on one
        are_values = isinstance(record, records.RangeSucceeded)
        size = sum(map(len, payload)) if are_values else None
        self._gate.expect(record.call, self._journal.next_token, size)

    def finished(self, call: CallId, at: float, tally: tuple[int, ...]) -> None:
        """Note that a spawned call is over, and how many inputs ended in each outcome."""
        self._entries.append(self._finished(call, at, tally))

    def deployed(
        self, deployment: records.Deployment, contents: Mapping[Digest, Frame | None]
    ) -> None:
        """Note a version of an app that is in force, and its objects."""
        here = {digest: content for digest, content in contents.items() if content is not None}
        self._entries.append(self._deployed(deployment, here))

    def undeployed(self, app: str, at: float) -> None:
        """Note that no version of an app is in force."""
        self._entries.append(self._undeployed(app, at))

    def wrote(self, call: CallId, body: bytes) -> int:
        """Note what a spawned call has written; return the token of its commit."""
        self._entries.append(self._written(call, body))
        return self._journal.next_token

    def step(self, act: Callable[[Shelves], Any]) -> tuple[int, Step]:
        """Have `act` done in this turn's transaction; return its token, and itself."""
        step = self._step(act)
        self._entries.append(step)
        return self._journal.next_token, step

    @property
    def has_facts(self) -> bool:
        """Whether there is something to hand over."""
        return bool(self._entries)

    @property
    def is_waiting(self) -> bool:
        """Whether any fact is on its way to the disk; otherwise no effect has to wait."""
        return bool(self._gate.waiting)

    @property
    def waiting(self) -> Iterable[CallId]:
        """The calls with facts on their way to the disk."""
        return self._gate.waiting

    def holds(self, effect: effects.Effect, frames: Sequence[Frame]) -> bool:
        """Return whether `effect` has to wait; then `release` will return it."""
        return self._gate.holds(effect, frames)

    def flush(self) -> None:
        """Hand the facts of this turn to the journal."""
        if self._entries:
            self._journal.submit(self._entries)
            self._entries = []

    def take_leases(self) -> list[effects.GrantLease]:
        """Return the leases that wait and could be granted later, which are forgotten here."""
        return self._gate.take_leases()

    def withdraw(self, lease: LeaseId) -> effects.GrantLease | None:
        """Return a lease of which its worker has not heard, which it then never will."""
        return self._gate.withdraw(lease)

    def release(self, token: int) -> list[Held]:
        """Return the effects that waited for what is now on the disk."""
        return self._gate.release(token)

    def _contents(self, record: records.Record) -> dict[Digest, Frame]:
        if not isinstance(record, records.CallSubmitted):
            return {}
        found = {digest: self._objects.get(digest) for digest in objects_of(record)}
        return {digest: content for digest, content in found.items() if content is not None}


def objects_of(record: records.CallSubmitted) -> set[Digest]:
    """Return the objects that a call and the calls nested in it may need."""
    specs = (record.spec, *record.nested_specs)
    digests = {record.snapshot, record.table, record.shared, *record.requires}
    digests.update(digest for spec in specs for digest in spec.objects)
    return digests - {Digest("")}


def _payload(
    record: records.Record, event: events.Event, frames: Sequence[Frame]
) -> Sequence[Frame]:
    match record:
        case records.InputsAdded() | records.RangeSucceeded() | records.ItemsYielded():
            return frames
        case records.InputEnded(outcome=outcome) if outcome in _WITH_EXCEPTION:
            is_exception = isinstance(event, events.InputEnded | events.WorkerStartFailed)
            return frames if is_exception else ()
        case _:
            return ()
