"""Workers that several inputs share at once: which one takes the next, and when a group is whole.

Theory. In a *concurrent* pool a worker holds up to `max_inputs` leases of one input each, and all
of them run; an input that waits for a nested call does not count. Workers fill up to the target by
which their number is reckoned before another one is woken, and beyond it only where none can be.
In a *batched* pool one call of the function takes a group of inputs: leases of one or several
calls, granted in one turn, as soon as there are enough or the first of them has waited long enough.

Guarantees: inputs that run in a worker at once agree in what their calls captured, share and where
they run (`Call.kinship`), because a process has one set of globals and one working directory; an
input that was tried before is a group by itself, so that one that kills its worker takes its
neighbours with it once at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.core.calls import Call
    from kernel_worker.core.pools import Pool, Worker
    from kernel_worker.core.state import State


def next_shared(state: State, pool: Pool) -> tuple[Worker, Call] | None:
    """Return what is granted next in a shared pool, or None: nothing may be."""
    for call in _in_order(state, pool):
        if pool.is_concurrent:
            worker = roomiest(pool, call)
        else:
            worker = _idle(pool) if _is_due(state, pool, call) else None
        if worker is not None:
            return worker, call
    return None


def _in_order(state: State, pool: Pool) -> Iterator[Call]:
    """Yield the calls that a blocked input waits for, the deepest first, then the one in turn."""
    nested = [call for call in pool.nested.values() if call.eligible]
    yield from sorted(nested, key=lambda call: -call.depth)
    call = state.next_in_turn(pool)
    if call is not None:
        yield call


def roomiest(pool: Pool, call: Call) -> Worker | None:
    """Return the worker of a concurrent pool that takes an input of `call` next, or None."""
    limit = pool.spec.max_inputs
    target = pool.spec.target_inputs or limit
    best: Worker | None = None
    best_rank = (False, False, 0)
    for worker, is_idle in _takers(pool):
        load = worker.load
        if load >= limit or worker.draining or worker.halts or not _are_kin(worker, call):
            continue
        rank = (load >= target, is_idle, load)
        if best is None or rank < best_rank:
            best, best_rank = worker, rank
    return best


def _takers(pool: Pool) -> Iterator[tuple[Worker, bool]]:
    """Yield the workers that may run one more input, and whether each has none."""
    for worker in pool.busy.values():
        yield worker, False
    if len(pool.busy) >= pool.ceiling:
        return
    cpu = pool.spec.resources.cpu
    for worker in pool.blocked.values():
        if worker.host.has_cpu(cpu):
            yield worker, False
    for worker in reversed(pool.idle.values()):
        if worker.host.has_cpu(cpu):
            yield worker, True


def _are_kin(worker: Worker, call: Call) -> bool:
    first = next(iter(worker.leases.values()), None)
    return first is None or first.call.kinship == call.kinship


# -- groups


def _idle(pool: Pool) -> Worker | None:
    """Return the idle worker of a batched pool that ran last, if it may run now."""
    if len(pool.busy) >= pool.ceiling:
        return None
    cpu = pool.spec.resources.cpu
    for worker in reversed(pool.idle.values()):
        if worker.host.has_cpu(cpu) and not worker.draining and not worker.lingering:
            return worker
    return None


def _is_due(state: State, pool: Pool, lead: Call) -> bool:
    """Whether a group that begins with `lead` need not wait for more; if it must, look again."""
    spec = pool.spec
    if lead.backlog.peek().attempt > 1:
        return True
    due = lead.queued_at + spec.batch_wait_seconds
    if state.now >= due:
        return True
    if pool.backlog >= spec.max_batch_size:
        count = sum(count for _, count in group_of(pool, lead))
        if count >= spec.max_batch_size:
            return True
    state.timers.set_if_earlier(("batch", pool.id), due)
    return False


def group_of(pool: Pool, lead: Call) -> list[tuple[Call, int]]:
    """Return the ranges that make a group, as how many inputs to take of which call's front."""
    left = pool.spec.max_batch_size
    if lead.backlog.peek().attempt > 1:
        return [(lead, 1)]
    others = [
        call
        for call in pool.calls.values()
        if call.eligible and call is not lead and call.kinship == lead.kinship
    ]
    others.sort(key=lambda call: call.served_seconds)
    group: list[tuple[Call, int]] = []
    for call in [lead, *others]:
        for waiting in call.backlog:
            if waiting.attempt > 1 or not left:
                break
            count = min(left, waiting.stop - waiting.start)
            group.append((call, count))
            left -= count
    return group
