"""Pausing: no further input of a call starts until it goes on; what runs ends as ever.

What waits stays where it is and is not counted in its pool's backlog, so that nothing is granted or
started for it and other calls have its workers. What a worker has been given and has not started is
taken back at once. Cancelling, retries that become due and new inputs go on as for any call.
A pause is not journalled: a client tells a new broker of it again, with its open calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.core import effects
from kernel_worker.core.granting import unstarted
from kernel_worker.core.pools import Condition

if TYPE_CHECKING:
    from kernel_worker.core.state import State
    from kernel_worker.model import CallId


def pause(state: State, call_id: CallId) -> None:
    """Start nothing more of a call; nothing where it is over, cancelled or paused."""
    call = state.calls.get(call_id)
    if call is None or call.cancelled or call.paused:
        return
    state.add_backlog(call, -call.backlog.count)
    call.paused = True
    call.is_queued = False
    state.note_waiting(call)
    state.touch(call.pool)
    for lease in call.leases.values():
        worker = lease.worker
        takes = worker.condition is not Condition.STOPPING and not call.pool.is_shared
        if takes and not lease.asked_back and unstarted(lease) > 0:
            lease.asked_back = True
            state.emit(effects.TakeBack(worker.id, worker.host.id, lease.id, ends=True))


def go_on(state: State, call_id: CallId) -> None:
    """Let a paused call have its turns again."""
    call = state.calls.get(call_id)
    if call is None or not call.paused:
        return
    call.paused = False
    if call.backlog.count:
        state.add_backlog(call, call.backlog.count)
        state.await_turn(call)
