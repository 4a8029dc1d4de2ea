"""Which workers outlive their broker, and what the next one is told of them.

Theory. The progress page says what a worker holds without asking it, also while C code holds the
GIL. First it is counted there that the broker is gone, so that no worker begins another of its
leases; then it is read what each one runs, or ran last: whether the broker had kept the answers
nobody here knows. Workers are then told to dial anew and to repeat their last answers.

A worker is killed whose inputs no other broker can go on with: several at once, a generator that
runs, one that is lent to a client, one whose frames somebody may look at. They run again as after
any death. One that stops, or is killed already, is left to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.model import Survivor
from kernel_worker.wire import local
from kernel_worker.wire import page as pages

if TYPE_CHECKING:
    from collections.abc import Collection

    from kernel_worker.host.workers import Worker

_CAUSE = "killed: its broker died, and no other one can go on with what it runs"


def survivors_of(workers: Collection[Worker]) -> tuple[Survivor, ...]:
    """Return those that live on; the others are killed."""
    alive = [one for one in workers if not (one.is_stopping or one.kill_cause)]
    for worker in alive:
        worker.page.slots[pages.GONE] += 1
    survivors = []
    for worker in alive:
        survivor = _survivor(worker)
        if survivor is None:
            worker.kill(_CAUSE)
        else:
            survivors.append(survivor)
    return tuple(survivors)


def say_rejoin(workers: Collection[Worker]) -> None:
    """Have workers dial the broker that follows."""
    for worker in workers:
        worker.tell(local.Rejoin(worker.page.slots[pages.GONE]))


def _survivor(worker: Worker) -> Survivor | None:
    spec, held = worker.spec, worker.page.held()
    if spec.max_inputs > 1 or spec.max_batch_size:
        held = None
        if worker.page.all_running() or not spec.rerun_on_crash:
            return None
    elif held is not None and held.runs and not held.stop:
        return None
    number = worker.page.slots[pages.GONE]
    return Survivor(worker.id, spec, worker.asked.devices, worker.pid, worker.start, number, held)
