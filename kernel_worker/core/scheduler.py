"""The scheduler: events in, effects out. See README.md beside this file.

`Scheduler` is deterministic: the same events at the same times give the same effects. It reads no
clock (`now` is an argument, in Unix seconds by a clock that does not jump: records say when a call
was submitted), draws no random numbers and does no I/O. One call of `handle` is one turn: the event
changes facts, then leases are granted and workers started or stopped as the facts are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from kernel_worker.core import (
    adopting,
    effects,
    events,
    exits,
    granting,
    lending,
    nesting,
    offers,
    outcomes,
    pausing,
    scaling,
    silence,
    submitting,
    tracing,
    views,
)
from kernel_worker.core.cancelling import cancel_call, evict, kill_if_deaf
from kernel_worker.core.hosts import Host
from kernel_worker.core.pools import Condition
from kernel_worker.core.state import State
from kernel_worker.model import CallId, PoolId, WorkerId

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker import records
    from kernel_worker.core.effects import Effect
    from kernel_worker.core.timers import Key


class Scheduler:
    """Decides which worker runs which inputs, and how many workers there are."""

    def __init__(self, prefix: str, leases_from: int = 0) -> None:
        """Make a scheduler that knows nothing yet.

        Args:
            prefix: Goes into the worker ids (`ta-<prefix>-<n>`), so that those of a restarted
                broker are new.
            leases_from: Lease ids are above it: so that those of a restarted broker are new too.
        """
        self._state = State(prefix, leases_from)

    def handle(self, event: events.Event, now: float) -> list[Effect]:
        """Take one event in and return what is to be done about it, in order.

        Args:
            event: What happened.
            now: The time in seconds; never less than at the call before.
        """
        state = self._begin(now)
        self._apply(event)
        return self._end(state)

    def next_deadline(self) -> float | None:
        """Return when a `TimePassed` is due at the latest, or None."""
        return self._state.timers.next_due()

    def restore(
        self,
        facts: Iterable[records.Record],
        now: float,
        rejoined: Iterable[events.HostRejoined] = (),
    ) -> list[Effect]:
        """Know again what the journal holds: outcomes stay, everything else waits for a worker.

        Call it once, before any event. Calls that were over are not known again. What workers of
        the hosts that have `rejoined` run goes on.
        """
        state = self._begin(now)
        for fact in facts:
            submitting.restore_record(state, fact)
        for event in rejoined:
            adopting.adopt(state, event)
        submitting.restore_backlogs(state)
        offers.await_offers(state)
        submitting.end_misfits(state)
        return self._end(state)

    # -- views

    def pool_stats(self, pool: PoolId) -> views.PoolCounts | None:
        """Return the numbers of a pool, or None if it is not known."""
        known = self._state.pools.get(pool)
        return None if known is None else views.pool_counts(known)

    def demand(self) -> offers.Demand:
        """Return what is wanted of providers."""
        return offers.demand(self._state)

    def status(self) -> views.StatusView:
        """Return everything that there is."""
        return views.status(self._state)

    def call_info(self, call: CallId) -> views.CallView | None:
        """Return how many inputs of an open call are where, or None if it is not known."""
        known = self._state.calls.get(call)
        return None if known is None else views.call_view(known)

    def calls_waiting_in(self, pool: PoolId) -> list[CallId]:
        """Return the open calls that have inputs which wait for a worker of a pool."""
        return views.calls_waiting_in(self._state, pool)

    def recent_calls(self) -> list[views.CallView]:
        """Return the open calls that are no part of another one's work, newest first."""
        return views.recent_calls(self._state)

    def root_of(self, call: CallId) -> CallId | None:
        """Return the root of the tree that a call belongs to, or None where it is not known."""
        return tracing.root_of(self._state, call)

    def call_trace(self, call: CallId, after: int, limit: int) -> tracing.Part | None:
        """Return a part of the trace of a call; None where it is not known here.

        Args:
            call: which one.
            after: how many bytes of rows are not wanted; `Part.after` of the part before.
            limit: how many bytes of rows are wanted at most.
        """
        return tracing.part_of(self._state, call, after, limit)

    def call_tree(self, root: CallId) -> list[bytes]:
        """Return what the core knows of a tree of calls: `traces.CallTrace`s, encoded."""
        return tracing.tree_of(self._state, root)

    def call_progress(self, call: CallId, now: float | None = None) -> views.Progress | None:
        """Return how an open call stands (at `now`, else as of the last turn), or None."""
        known = self._state.calls.get(call)
        if known is None:
            return None
        return views.progress(self._state, known, self._state.now if now is None else now)

    def workers_at(self, call: CallId) -> list[WorkerId]:
        """Return the workers that hold inputs of an open call, the one that began first first."""
        known = self._state.calls.get(call)
        leases = () if known is None else known.leases.values()
        return list(dict.fromkeys(lease.worker.id for lease in leases))

    def waited_for(self, call: CallId) -> tuple[CallId, bool]:
        """Return the topmost open call above a call, and whether all of them are attached."""
        known, attached = self._state.calls.get(call), True
        while known is not None:
            call, attached = known.id, attached and known.attached
            above = known.parent
            known = None if above is None else self._state.calls.get(above.call)
        return call, attached

    def knows_worker(self, worker: WorkerId) -> bool:
        """Whether a worker was asked for and its end has not been reported."""
        return worker in self._state.workers

    @property
    def has_clients(self) -> bool:
        """Whether anybody is connected but workers that make calls themselves."""
        return not self._state.clients <= self._state.nested_clients

    def is_idle(self) -> bool:
        """Whether nobody is connected, nothing is open, kept warm or starting."""
        state = self._state
        if self.has_clients or state.calls:
            return False
        return not any(
            pool.floor(state.now) or pool.count(Condition.STARTING) for pool in state.pools.values()
        )

    # -- one turn

    def _begin(self, now: float) -> State:
        state = self._state
        state.effects.clear()
        state.now = max(state.now, now)
        return state

    def _end(self, state: State) -> list[Effect]:
        due = state.timers.next_due()
        if due is not None and due <= state.now:
            for key in state.timers.pop_due(state.now):
                self._fire(key)
        if state.called:
            granting.grant_all(state)
        if state.loans:
            lending.review(state)
        if state.dirty or state.backlogged:
            scaling.scale_all(state)
        if state.newly_waiting:
            for call in state.take_newly_waiting():
                state.timers.set(("waiting", call.id), state.now + views.WAITING_SECONDS)
        return state.take_effects()

    def _apply(self, event: events.Event) -> None:  # noqa: C901, PLR0912, PLR0915  one case per event
        state = self._state
        match event:
            case events.RangeSucceeded():
                outcomes.range_succeeded(state, event)
            case events.CallSubmitted():
                submitting.call_submitted(state, event)
            case events.InputEnded():
                outcomes.input_ended(state, event)
            case events.LineReached():
                outcomes.line_reached(state, event)
            case events.ItemsYielded():
                outcomes.items_yielded(state, event)
            case events.ProducerPaused():
                outcomes.producer_paused(state, event)
            case events.ProducerResumed():
                outcomes.producer_resumed(state, event)
            case events.InputLeft():
                outcomes.input_left(state, event)
            case events.InputsReturned():
                outcomes.inputs_returned(state, event)
            case events.InputsAdded():
                submitting.inputs_added(state, event)
            case events.InputsClosed():
                submitting.inputs_closed(state, event)
            case events.CallCancelled():
                self._cancel(event)
            case events.CallPaused(call=call_id):
                pausing.pause(state, call_id)
            case events.CallUnpaused(call=call_id):
                pausing.go_on(state, call_id)
            case events.WorkerBlocked():
                nesting.worker_blocked(state, event)
            case events.WorkerResumed():
                nesting.worker_resumed(state, event)
            case events.WorkerStarted():
                exits.worker_started(state, event)
            case events.WorkerDelayed():
                exits.worker_delayed(state, event)
            case events.WorkerReady():
                exits.worker_ready(state, event)
            case events.WorkerStartFailed():
                exits.worker_start_failed(state, event)
                scaling.resources_freed(state)
            case events.DevicesHeld():
                exits.devices_held(state, event)
                scaling.resources_freed(state)
            case events.WorkerExited():
                exits.worker_exited(state, event)
                scaling.resources_freed(state)
            case events.WorkerEvicted(worker=worker_id):
                if (worker := state.workers.get(worker_id)) is not None:
                    evict(state, worker)
            case events.FunctionDefined():
                submitting.function_defined(state, event.client, event.spec, derived=event.derived)
            case events.FunctionReleased():
                submitting.function_released(state, event.client, event.pool)
            case events.PoolConfigured():
                submitting.pool_configured(state, event)
            case events.ClientConnected():
                submitting.client_connected(state, event.client, is_nested=event.is_nested)
            case events.ClientLost():
                submitting.client_lost(state, event.client)
            case events.HostJoined():
                self._join(event)
            case events.HostLost():
                exits.host_lost(state, event.host)
            case events.HostSilent():
                silence.host_silent(state, event.host)
            case events.HostHeard():
                silence.host_heard(state, event.host)
            case events.HostDraining():
                silence.host_draining(state, event.host)
            case events.HostsOffered():
                offers.hosts_offered(state, event)
            case events.TimePassed():
                pass
            case _:
                assert_never(event)

    def _cancel(self, event: events.CallCancelled) -> None:
        call = self._state.calls.get(event.call)
        for lease in () if call is None else call.leases.values():
            if lease.id in self._state.loans:
                lending.reach(self._state, lease, event.reached)
        if call is not None:
            cancel_call(self._state, call, terminate=event.terminate)
        if event.client and (call is None or not call.attached):
            self._state.emit(effects.ConfirmCancel(event.client, event.call))

    def _join(self, event: events.HostJoined) -> None:
        state = self._state
        known = state.hosts.get(event.host)
        if known is None:
            state.hosts[event.host] = Host(event.host, event.resources, is_far=event.is_far)
        else:
            known.resources = event.resources
        state.hosts_changed()
        submitting.end_misfits(state)

    def _fire(self, key: Key) -> None:
        """Do what a deadline is for; most only have a pool looked at again."""
        what, name = key
        if what == "offer":
            offers.withdraw_overdue(self._state)
            submitting.end_misfits(self._state)
        elif what in {"retry", "linger"}:
            self._fire_for_call(what, CallId(name))
        elif what in {"cancel", "startup", "lingering"}:
            self._fire_for_worker(what, WorkerId(name))
        elif what != "waiting":
            pool = self._state.pools.get(PoolId(name))
            if pool is not None:
                self._state.touch(pool)

    def _fire_for_call(self, what: str, call_id: CallId) -> None:
        call = self._state.calls.get(call_id)
        if call is None:
            return
        if what == "retry":
            outcomes.retries_due(self._state, call)
        else:
            submitting.lingered(self._state, call)

    def _fire_for_worker(self, what: str, worker_id: WorkerId) -> None:
        worker = self._state.workers.get(worker_id)
        if worker is None:
            return
        if what == "cancel":
            kill_if_deaf(self._state, worker)
        elif what == "lingering":
            outcomes.lingered_on(self._state, worker)
        elif worker.condition is Condition.STARTING:
            exits.start_took_too_long(self._state, worker)
