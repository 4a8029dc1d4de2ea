"""What an earlier broker left in the journal becomes this one's: calls, inputs, objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker import records
from kernel_worker.broker.calls import OpenCall
from kernel_worker.broker.commit import objects_of
from kernel_worker.model import CallId, ClientId, PoolId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.broker.objects import ObjectStore
    from kernel_worker.journal.store import StoredFact

NOBODY = ClientId("")
"""The client of calls that came back: whoever wants their outcomes attaches."""


def restore_tables(
    facts: Iterable[StoredFact],
    objects: ObjectStore,
    calls: dict[CallId, OpenCall],
) -> set[PoolId]:
    """Fill the tables from the facts of unfinished calls, whose objects are in `objects`.

    Returns:
        The pools that own objects from now on.
    """
    pools: set[PoolId] = set()
    for fact in facts:
        record = fact.record
        if isinstance(record, records.CallSubmitted):
            calls[record.call] = _reopen(record)
            objects.own(record.call, objects_of(record))
            for spec in (record.spec, *record.nested_specs):
                objects.own(spec.pool, spec.objects)
                pools.add(spec.pool)
            continue
        call = calls[record.call]
        match record:
            case records.InputsAdded(start=start, count=count):
                call.batches.add(start, count, fact.frames)
            case records.RangeSucceeded(start=start, stop=stop):
                call.batches.drop(start, stop)
            case records.InputEnded(index=index, count=count):
                call.batches.drop(index, index + count)
            case _:
                pass
    return pools


def _reopen(record: records.CallSubmitted) -> OpenCall:
    return OpenCall(
        record.call,
        NOBODY,
        attached=False,
        opened_at=record.submitted_at,
        snapshot=record.snapshot,
        table=record.table,
        shared=record.shared,
        context=record.context,
        streams=record.streams,
    )
