"""Hosts on other machines of which nothing is heard, and those that are about to leave.

A host has a *lease*: the shell says that it is silent when it has said nothing for so long. What
its workers ran is given to others then, under another attempt, and they are to be killed: the host
hears of that first, if it comes back, and what they answered meanwhile is late. They hold their
memory and devices until they are reaped, or the host is lost for good.

Inputs that must not run twice (`rerun_on_crash=False`) are not given to anybody. They may still be
answered: until the *fence*, when the host has killed what it has (of that it makes sure by itself).
Then it is lost (`exits.host_lost`), and they end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.core import effects, exits
from kernel_worker.core.pools import Condition

if TYPE_CHECKING:
    from kernel_worker.core.state import State
    from kernel_worker.model import HostId


def host_silent(state: State, host_id: HostId) -> None:
    """Give what a silent host runs to others, where it may run twice."""
    host = state.hosts.get(host_id)
    if host is None or host.is_silent:
        return
    host.is_silent = True
    for worker in list(host.workers.values()):
        worker.draining = True
        if not worker.leases or worker.pool.spec.rerun_on_crash:
            exits.give_up(state, worker, "its host is silent")
    state.hosts_changed()


def host_heard(state: State, host_id: HostId) -> None:
    """Let a host that was silent have work again."""
    host = state.hosts.get(host_id)
    if host is not None and host.is_silent:
        host.is_silent = False
        state.hosts_changed()


def host_draining(state: State, host_id: HostId) -> None:
    """Begin nothing more on a host; what runs there may end."""
    host = state.hosts.get(host_id)
    if host is None or host.is_draining:
        return
    host.is_draining = True
    for worker in list(host.workers.values()):
        worker.draining = True
        if worker.condition is Condition.STARTING:
            state.kill_worker(worker)
        elif worker.condition in {Condition.IDLE, Condition.PARKED}:
            state.stop_worker(worker)
        for lease in worker.leases.values():
            if not lease.asked_back and lease.outstanding > 1:
                lease.asked_back = True
                state.emit(effects.TakeBack(worker.id, host.id, lease.id))
    state.hosts_changed()
