"""By which table the hooks of an instance find functions: a worker asks before it has an input.

Theory. What a method calls is found in the table of its tree of calls, which comes with the lease.
An `enter` hook runs before the first lease; it goes by the table of the newest package with which
its instance was defined. That table and all objects that it names are kept as long as the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.model import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.broker.objects import ObjectStore
    from kernel_worker.model import FunctionSpec, PoolId


class HookTables:
    """The tables of the instances that are known."""

    def __init__(self, objects: ObjectStore) -> None:
        """Know none; what they need is kept in `objects`."""
        self._objects = objects
        self._tables: dict[PoolId, Digest] = {}

    def keep(self, spec: FunctionSpec, table: Digest, requires: Iterable[Digest]) -> None:
        """Let the hooks of an instance go by `table`, which needs these objects."""
        if not table or not spec.parameters or self._tables.get(spec.pool) == table:
            return
        self._tables[spec.pool] = table
        self._objects.forget(_owner(spec.pool))
        self._objects.own(_owner(spec.pool), (table, *requires))

    def table_of(self, pool: PoolId) -> Digest:
        """Return the table of an instance, or the empty digest."""
        return self._tables.get(pool, Digest(""))

    def forget(self, pool: PoolId) -> None:
        """The pool is gone."""
        if self._tables.pop(pool, None) is not None:
            self._objects.forget(_owner(pool))


def _owner(pool: PoolId) -> str:
    return f"hooks of {pool}"
