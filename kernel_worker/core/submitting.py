"""Calls and functions come in: definitions, new calls, their inputs, and what cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from kernel_worker import records
from kernel_worker.core import effects, offers, retries
from kernel_worker.core.calls import Call, Life
from kernel_worker.core.cancelling import cancel_call, end_waiting
from kernel_worker.core.ending import finish_if_over, report_end
from kernel_worker.core.granting import granted_at_once
from kernel_worker.core.hosts import describe
from kernel_worker.core.lending import may_lend, reach_parent
from kernel_worker.core.nesting import depth_of, impossible_chain
from kernel_worker.core.tracing import place_in_tree
from kernel_worker.core.transitions import CAUSE_OF, Cause, InputState
from kernel_worker.model import CallId, ClientId, Outcome

if TYPE_CHECKING:
    from kernel_worker.core import events
    from kernel_worker.core.pools import Pool
    from kernel_worker.core.state import State
    from kernel_worker.model import FunctionSpec, ParentInput, PoolId, PoolSettings

NOBODY = ClientId("")
"""The client of calls that came back from the journal."""


def client_connected(state: State, client: ClientId, *, is_nested: bool) -> None:
    """Know a client; that of a worker holds no floors, whether it makes calls or not."""
    state.clients.add(client)
    if is_nested:
        _note_nested_client(state, client)


def client_lost(state: State, client: ClientId) -> None:
    """Cancel what dies with a client; its floors live one scaledown window longer."""
    state.clients.discard(client)
    state.nested_clients.discard(client)
    for call in [c for c in state.calls.values() if c.client == client and c.attached]:
        if call.id in state.calls:
            call.closed = True
            cancel_call(state, call, terminate=False)
    for pool in state.pools.values():
        if client in pool.clients:
            pool.clients.discard(client)
            _disown(state, pool, client)


def function_defined(
    state: State, client: ClientId, spec: FunctionSpec, *, derived: bool = False
) -> None:
    """Know a function version; pools of other versions under its key are superseded.

    One that was derived (see the event) changes nothing of a pool that is known.
    """
    known = state.pools.get(spec.pool) if derived else None
    pool = known or state.define(spec)
    pool.clients.add(client)
    if client not in state.nested_clients:
        pool.owners.add(client)
    state.touch(pool)
    if known is not None:
        return
    for sibling_id in state.pools_of_key[pool.spec.key]:
        sibling = state.pools[sibling_id]
        sibling.superseded = sibling.spec.version != pool.spec.version
        state.touch(sibling)


def function_released(state: State, client: ClientId, pool_id: PoolId) -> None:
    """Let a pool go that `client` needs no more; where nobody else does, it drains."""
    pool = state.pools.get(pool_id)
    if pool is None or client not in pool.clients:
        return
    pool.clients.discard(client)
    _disown(state, pool, client)
    pool.superseded = pool.superseded or not pool.clients


def pool_configured(state: State, event: events.PoolConfigured) -> None:
    """Change the settings that are given, from now on."""
    pool = state.pools.get(event.pool)
    if pool is None:
        return
    pool.settings = changed_settings(pool.settings, event)
    if event.client not in state.nested_clients and event.client in state.clients:
        pool.clients.add(event.client)
        pool.owners.add(event.client)
    pool.broken = False
    state.touch(pool)


def changed_settings(settings: PoolSettings, event: events.PoolConfigured) -> PoolSettings:
    """Return `settings` with what `event` gives."""
    given = {
        "min_containers": event.min_containers,
        "max_containers": event.max_containers,
        "buffer_containers": event.buffer_containers,
        "scaledown_window_seconds": event.scaledown_window_seconds,
    }
    return msgspec.structs.replace(
        settings, **{name: value for name, value in given.items() if value is not None}
    )


def call_submitted(state: State, event: events.CallSubmitted) -> None:
    """Take a new call in, or reject it; a repetition is answered as the first time."""
    if event.call in state.calls:
        if not event.attached:
            state.emit(effects.AcceptCall(event.client, event.call))
        return
    if event.parent is not None:
        reach_parent(state, event.parent)
        _note_nested_client(state, event.client)
    pool = state.pools.get(event.pool)
    if pool is None:
        message = f"no function with the pool {event.pool} has been defined by this client"
        state.emit(effects.RejectCall(event.client, event.call, "NotFoundError", message))
        return
    message = "a call cannot be nested in itself" if _is_in_itself(state, event) else ""
    message = message or misfit(state, pool)
    if not message and event.attached and event.parent is not None:
        message = impossible_chain(state, pool, event.parent)
    if message:
        state.emit(effects.RejectCall(event.client, event.call, "InvalidError", message))
        return
    _accept(state, pool, event)


def inputs_added(state: State, event: events.InputsAdded) -> None:
    """Let more inputs of a call wait for a worker."""
    call = state.calls.get(event.call)
    if call is not None and not call.closed and not call.lends:
        _add(state, call, event.start, event.count, indivisible=event.indivisible)


def inputs_closed(state: State, event: events.InputsClosed) -> None:
    """Note that a call gets no more inputs."""
    call = state.calls.get(event.call)
    if call is not None and not call.closed and not call.lends:
        _close(state, call, event.total)
        finish_if_over(state, call)


def lingered(state: State, call: Call) -> None:
    """Close a cancelled call whose client has had time to send what was on its way."""
    if not call.closed:
        _close(state, call, call.states.end)
    finish_if_over(state, call)


def misfit(state: State, pool: Pool) -> str:
    """Return why no host could ever run a worker of the pool, or an empty string."""
    wanted, hosts = pool.spec.resources, state.hosts.values()
    if pool.fits is None:
        here = not hosts or any(host.could_ever_fit(wanted) for host in hosts)
        pool.fits = here or offers.could_fit(state, wanted)
    if pool.fits:
        return ""
    asks = [f"cpu={wanted.cpu:g}"]
    if wanted.memory_mib:
        asks.append(f"memory={wanted.memory_mib}")
    if wanted.gpu:
        asks.append(f"gpu={wanted.gpu:g} {wanted.gpu_kind}".strip())
    return f"{pool.spec.name} asks for {', '.join(asks)}, but there is only: {describe(hosts)}"


def end_misfits(state: State) -> None:
    """End what waits for resources that the hosts, now that one is here, do not have.

    A provider that a former broker had may have offered them: what is restored waits for it to say
    so again.
    """
    if state.now < state.offers_awaited_until:
        return
    for pool in list(state.called.values()):
        message = misfit(state, pool)
        if message:
            for call in list(pool.calls.values()):
                end_waiting(state, call, Outcome.INIT_FAILED, message)
                finish_if_over(state, call)


def _is_in_itself(state: State, event: events.CallSubmitted) -> bool:
    """Whether the call is among those above it: whoever walked up from it would never arrive."""
    above, seen = event.parent, set[CallId]()
    while above is not None and above.call not in seen:
        if above.call == event.call:
            return True
        seen.add(above.call)
        known = state.calls.get(above.call)
        above = None if known is None else known.parent
    return False


def _accept(state: State, pool: Pool, event: events.CallSubmitted) -> None:
    call = Call(
        id=event.call,
        client=event.client,
        pool=pool,
        attached=event.attached,
        submitted_at=state.now,
        parent=event.parent,
        depth=0 if event.parent is None else depth_of(state, event.parent),
        pools=event.pools,
        streams=event.streams,
        keeps_failed=event.context.keep_failed_seconds > 0,
        lends=event.lends and not event.context.keep_failed_seconds and may_lend(pool),
    )
    place_in_tree(state, call)
    if pool.is_shared:
        call.kinship = _kinship(pool, event)
    state.enroll(call)
    pool.broken = False
    if pool.start_failures:
        pool.retry_start_at = state.now
    if not event.attached:
        state.record(call, _submitted_record(state, pool, event, call.root))
    if event.deaths:
        call.lives[0] = Life(attempt=event.deaths + 1, deaths=event.deaths)
    if event.count:
        _add(state, call, 0, event.count, indivisible=event.indivisible)
    if event.closed and not call.lends:
        _close(state, call, event.count)
    if not event.attached:
        state.emit(effects.AcceptCall(event.client, event.call))
    if event.parent is not None and _is_cancelled(state, event.parent):
        cancel_call(state, call, terminate=False)
    if call.is_over:
        finish_if_over(state, call)


def _kinship(pool: Pool, made: events.CallSubmitted | records.CallSubmitted) -> object:
    """Return what inputs must have in common to run in one worker at once."""
    context = made.context
    same = (made.snapshot, made.table, made.shared, context.directory, context.variables)
    # A group is one call of one method; side by side, methods of an instance may differ.
    return same if pool.is_concurrent else (*same, context.method, context.keep_failed_seconds)


def _submitted_record(
    state: State, pool: Pool, event: events.CallSubmitted, root: CallId
) -> records.CallSubmitted:
    nested = tuple(state.pools[one].spec for one in event.pools if one in state.pools)
    return records.CallSubmitted(
        call=event.call,
        spec=pool.spec,
        snapshot=event.snapshot,
        table=event.table,
        shared=event.shared,
        context=event.context,
        requires=event.requires,
        nested_specs=nested,
        submitted_at=state.now,
        parent=event.parent,
        root=root,
        streams=event.streams,
    )


def _add(state: State, call: Call, start: int, count: int, *, indivisible: bool) -> None:
    if count <= 0 or not call.add(start, count, indivisible=indivisible):
        return
    state.add_backlog(call, count)
    if not call.attached:
        state.record(call, records.InputsAdded(call.id, start, count))
    if call.cancelled:
        end_waiting(state, call, Outcome.CANCELLED)
    elif count > 1 or not granted_at_once(state, call):
        call.lends = False  # somebody waits, or it does itself
        state.await_turn(call)


def _close(state: State, call: Call, total: int) -> None:
    call.closed = True
    if not call.attached:
        state.record(call, records.InputsClosed(call.id, total))


def _is_cancelled(state: State, parent: ParentInput) -> bool:
    """Whether the attempt that made a call was cancelled before that call arrived."""
    call = state.calls.get(parent.call)
    return call is not None and call.cancelled


def _note_nested_client(state: State, client: ClientId) -> None:
    """A worker's own connection neither holds floors nor keeps the broker awake."""
    if client not in state.nested_clients:
        state.nested_clients.add(client)
        for pool in state.pools.values():
            if client in pool.owners:
                _disown(state, pool, client)


def _disown(state: State, pool: Pool, client: ClientId) -> None:
    if client not in pool.owners:
        state.touch(pool)
        return
    pool.owners.discard(client)
    if not pool.owners:
        pool.floor_until = state.now + pool.settings.scaledown_window_seconds
        state.timers.set(("floor", pool.id), pool.floor_until)
    state.touch(pool)


# -- what comes back from the journal


def restore_record(state: State, record: records.Record) -> None:
    """Know again what a record says was decided."""
    if isinstance(record, records.CallSubmitted):
        _restore_call(state, record)
        return
    call = state.calls.get(record.call)
    if call is None:
        return
    match record:
        case records.InputsAdded(start=start, count=count):
            call.add(start, count, indivisible=False)
        case records.InputsClosed():
            call.closed = True
        case records.CallCancelled():
            call.cancelled = True
        case records.InputsLeased(start=start, stop=stop, attempt=attempt):
            for index in range(start, stop):
                call.life(index).leased = attempt
        case records.RangeSucceeded(start=start, stop=stop):
            _restore_ended(call, start, stop, Cause.SUCCEEDED)
        case records.InputEnded(index=index, count=count, outcome=outcome):
            _restore_ended(call, index, index + count, CAUSE_OF[outcome])
        case records.AttemptFailed(index=index, attempt=attempt, lost=lost):
            life = call.life(index)
            life.attempt = attempt + 1
            life.deaths += lost
            life.retries += not lost
        case records.AttachedCallEnded():
            pass
        case records.ItemsYielded(index=index, start=start, count=count):
            call.life(index).items = start + count
        case _:
            assert_never(record)


def _restore_call(state: State, record: records.CallSubmitted) -> None:
    if record.call in state.calls:
        return
    pool = state.define(record.spec)
    nested = tuple(state.define(spec).id for spec in record.nested_specs)
    call = Call(record.call, NOBODY, pool, attached=False, submitted_at=record.submitted_at)
    call.pools = nested
    call.parent = record.parent
    call.root = record.root or record.call
    call.keeper = record.call
    call.streams = record.streams
    call.kinship = _kinship(pool, record)
    state.enroll(call)


def _restore_ended(call: Call, start: int, stop: int, cause: Cause) -> None:
    call.states.move(start, stop, Cause.GRANTED)
    call.states.move(start, stop, cause)
    call.forget_lives(start, stop)


def restore_backlogs(state: State) -> None:
    """Let what has no outcome wait for a worker, and forget the calls that are over."""
    for call in list(state.calls.values()):
        call.backlog.drain()
        if call.is_over:
            finish_if_over(state, call)
            continue
        _end_cut_short(state, call)
        if call.is_over:
            finish_if_over(state, call)
            continue
        for start, stop in reversed(call.states.pending_runs()):
            state.requeue(call, start, stop)
        if call.cancelled:
            end_waiting(state, call, Outcome.CANCELLED)
            lingered(state, call)


def _end_cut_short(state: State, call: Call) -> None:
    """End what ran and must not run again, where its worker went with the broker that is gone.

    Generators that had given items, and inputs that are executed at most once.
    """
    spec = call.pool.spec
    for index, life in sorted(call.lives.items()):
        if call.states.at(index) is not InputState.PENDING:
            continue  # its worker has outlived that broker
        if life.items:
            message = retries.cut_short_message(spec.name, life.items, "the broker died")
        elif life.leased == life.attempt:
            message = retries.lost_message(spec, index, "with the broker", 0)
        else:
            continue
        outcome = Outcome.CANCELLED if call.cancelled else Outcome.LOST
        call.states.move(index, index + 1, Cause.GRANTED)
        call.states.move(index, index + 1, CAUSE_OF[outcome])
        attempt = call.attempt_of(index)
        report_end(state, call, (index, index + 1), outcome, attempt, message)
