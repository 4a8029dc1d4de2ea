"""A new broker's core and the workers that outlived the last one, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kernel_worker import records
from kernel_worker.core import effects, events, invariants
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallContext,
    CallId,
    ClientId,
    Digest,
    FunctionSpec,
    Held,
    HostId,
    LeaseId,
    Outcome,
    Resources,
    Survivor,
    WorkerId,
)
from tests.core.simulation import make_resources, make_spec

CALL = CallId("fc-1")
HOST = HostId("ho-1")
OLD = LeaseId(7)
SPEC = make_spec()


def submitted(spec: FunctionSpec = SPEC, count: int = 4, **fields: Any) -> list[records.Record]:
    none = Digest("")
    call = records.CallSubmitted(
        CALL, spec, none, none, none, CallContext(), (), (), submitted_at=100.0, **fields
    )
    return [call, records.InputsAdded(CALL, 0, count), records.InputsClosed(CALL, count)]


def survivor(name: str = "a", spec: FunctionSpec = SPEC, held: Held | None = None) -> Survivor:
    return Survivor(WorkerId(f"ta-old-{name}"), spec, (), 4711, "forked", 1, held)


def holds(start: int = 0, stop: int = 4, **fields: Any) -> Held:
    given = {"lease": OLD, "call": CALL, "attempt": 1, "index": start + 1, "runs": True, **fields}
    return Held(start=start, stop=stop, **given)


def restored(
    facts: Sequence[records.Record], *survivors: Survivor
) -> tuple[Scheduler, list[effects.Effect]]:
    core = Scheduler("new", 1 << 32)
    joined = events.HostRejoined(HOST, make_resources(), survivors)
    turn = core.restore(facts, 200.0, [joined])
    invariants.check(core)
    return core, turn


def states(core: Scheduler) -> dict[str, str]:
    return {view.worker: view.state for view in core.status().workers}


def feed(core: Scheduler, event: events.Event) -> list[effects.Effect]:
    turn = core.handle(event, 200.0)
    invariants.check(core)
    return turn


def test_an_idle_worker_is_waited_for_and_gets_the_next_lease() -> None:
    core, turn = restored(submitted(count=1), survivor())
    assert states(core) == {"ta-old-a": "starting"}
    assert not [one for one in turn if isinstance(one, effects.GrantLease | effects.StartWorker)]
    (grant,) = feed(core, events.WorkerReady(WorkerId("ta-old-a")))
    assert isinstance(grant, effects.GrantLease)
    assert (grant.worker, grant.lease > 1 << 32) == ("ta-old-a", True)
    (view,) = core.status().workers
    assert (view.pid, view.start) == (4711, "forked")


def test_a_pool_that_nobody_has_called_yet_is_known_by_its_workers_and_lives_a_window() -> None:
    core, turn = restored([], survivor())
    assert turn == []
    feed(core, events.WorkerReady(WorkerId("ta-old-a")))
    assert core.next_deadline() == 200.0 + SPEC.settings.scaledown_window_seconds
    feed(core, events.FunctionDefined(ClientId("cl-1"), SPEC))
    stopped = core.handle(events.TimePassed(), 261.0)
    assert effects.StopWorker(WorkerId("ta-old-a"), HOST) in stopped


def test_what_runs_goes_on_under_its_lease_and_is_reported_once() -> None:
    core, turn = restored(submitted(), survivor(held=holds(index=3)))
    assert not [one for one in turn if isinstance(one, effects.GrantLease)]
    assert states(core) == {"ta-old-a": "busy"}
    assert feed(core, events.WorkerReady(WorkerId("ta-old-a"))) == []
    said = feed(core, events.RangeSucceeded(WorkerId("ta-old-a"), OLD, 0, 4, 1.0))
    assert effects.ReportRange(CALL, 0, 4, 0) in said
    assert any(isinstance(one, effects.FinishCall) for one in said)
    assert feed(core, events.RangeSucceeded(WorkerId("ta-old-a"), OLD, 0, 4, 1.0)) == []
    assert feed(core, events.InputsReturned(WorkerId("ta-old-a"), OLD, 0, 1 << 62)) == []
    assert states(core) == {"ta-old-a": "idle"}


def test_what_was_answered_and_kept_by_nobody_is_repeated_or_given_back() -> None:
    """Its worker is through with it by now: it says again what it knows, and that this was all."""
    core, _ = restored(submitted(), survivor(held=holds(index=4, runs=False)))
    worker = WorkerId("ta-old-a")
    assert states(core) == {"ta-old-a": "busy"}
    said = feed(core, events.RangeSucceeded(worker, OLD, 2, 2, 1.0))
    assert effects.ReportRange(CALL, 2, 4, 2) in said
    granted = [one for one in said if isinstance(one, effects.GrantLease)]
    assert [(one.start, one.stop) for one in granted] == [(0, 1)], "what it skipped runs again"


def test_what_is_given_back_whole_runs_again() -> None:
    core, _ = restored(submitted(count=1), survivor(held=holds(stop=1, runs=False)))
    (grant,) = feed(core, events.InputsReturned(WorkerId("ta-old-a"), OLD, 0, 1 << 62))
    assert isinstance(grant, effects.GrantLease)
    assert (grant.start, grant.stop, grant.attempt) == (0, 1, 1)


@pytest.mark.parametrize(
    ("ended", "index", "running"),
    [
        ([], 1, 4),
        ([(0, 2)], 3, 2),
        ([(1, 2)], 1, 1),
        ([(1, 2)], 3, 2),
        ([(2, 3)], 4, 1),
        ([(3, 4)], 4, 3),
        ([(0, 4)], 4, 0),
    ],
    ids=["nothing", "the front", "behind it", "before it", "itself", "the end", "everything"],
)
def test_it_goes_on_with_what_is_open_around_the_input_that_it_is_at(
    ended: list[tuple[int, int]], index: int, running: int
) -> None:
    facts = [*submitted(count=6), *(records.RangeSucceeded(CALL, *one, 0) for one in ended)]
    core, _ = restored(facts, survivor(held=holds(index=index)))
    found = core.call_info(CALL)
    assert found is not None
    assert found.running == running
    assert found.pending + running + found.succeeded == 6


def test_of_two_that_had_the_same_inputs_the_one_that_runs_them_goes_on() -> None:
    other = holds(2, 4, lease=LeaseId(8), index=4, runs=False)
    core, _ = restored(submitted(), survivor("a", held=other), survivor("b", held=holds()))
    assert states(core) == {"ta-old-a": "starting", "ta-old-b": "busy"}


def test_an_attempt_that_is_over_is_not_gone_on_with() -> None:
    facts = [*submitted(), records.AttemptFailed(CALL, 1, 1)]
    core, turn = restored(facts, survivor(held=holds(1, 2, attempt=1)))
    assert effects.KillWorker(WorkerId("ta-old-a"), HOST) in turn
    assert states(core)["ta-old-a"] == "stopping"
    core, _ = restored(facts, survivor(held=holds(1, 2, attempt=2)))
    assert states(core)["ta-old-a"] == "busy"
    core, _ = restored(facts, survivor(held=holds(0, 4)))
    found = core.call_info(CALL)
    assert found is not None
    assert found.running == 1, "up to the one that is tried again"


@pytest.mark.parametrize(
    ("spec", "fields", "more"),
    [
        (SPEC, {}, [records.CallCancelled(CALL)]),
        (SPEC, {"streams": True}, []),
        (make_spec("many", max_inputs=3), {}, []),
        (make_spec(version="2"), {}, []),
    ],
    ids=["cancelled", "a generator", "several at once", "of another pool"],
)
def test_who_runs_what_no_other_broker_can_go_on_with_is_killed(
    spec: FunctionSpec, fields: dict[str, Any], more: list[records.Record]
) -> None:
    its_own = SPEC if spec.version == "2" else spec
    facts = [*submitted(spec, 1, **fields), *more]
    core, turn = restored(facts, survivor(spec=its_own, held=holds(stop=1)))
    assert effects.KillWorker(WorkerId("ta-old-a"), HOST) in turn
    gone = events.WorkerExited(WorkerId("ta-old-a"), "killed", OLD, 0)
    assert not [one for one in feed(core, gone) if isinstance(one, effects.Record)]
    assert "ta-old-a" not in states(core)


def test_who_runs_an_attached_call_is_killed_and_who_has_ended_one_is_kept() -> None:
    attached = CallId("fc-attached")
    runs, over = holds(call=attached), holds(call=attached, runs=False)
    core, turn = restored([], survivor("a", held=runs), survivor("b", held=over))
    assert states(core) == {"ta-old-a": "stopping", "ta-old-b": "starting"}
    assert turn == [effects.KillWorker(WorkerId("ta-old-a"), HOST)]


def test_a_worker_for_one_input_that_has_had_it_gets_no_other() -> None:
    spec = make_spec("once", single_use=True)
    core, turn = restored(submitted(spec, 1), survivor(spec=spec, held=holds(5, 6, runs=False)))
    assert effects.KillWorker(WorkerId("ta-old-a"), HOST) in turn
    assert states(core)["ta-old-a"] == "stopping"


@pytest.mark.parametrize("lives", [True, False])
def test_what_must_not_run_twice_goes_on_or_is_lost(lives: bool) -> None:
    spec = make_spec("careful", rerun_on_crash=False)
    facts = [*submitted(spec, 2), records.InputsLeased(CALL, 0, 1, 1)]
    held = survivor(spec=spec, held=holds(stop=1))
    core, turn = restored(facts, *([held] if lives else []))
    ends = [one for one in turn if isinstance(one, effects.ReportEnd)]
    assert [one.outcome for one in ends] == ([] if lives else [Outcome.LOST])
    found = core.call_info(CALL)
    assert found is not None
    assert (found.running, found.pending) == (int(lives), 1)


def test_what_it_runs_is_not_more_than_the_host_has_again() -> None:
    """It may be: what ran through a handover goes on, and nothing is granted beside it."""
    facts = submitted(count=3)
    all_busy = [survivor(str(at), held=holds(at, at + 1, lease=LeaseId(at + 1))) for at in range(3)]
    core, _ = restored(facts, *all_busy)
    assert set(states(core).values()) == {"busy"}


def test_a_worker_that_does_not_come_back_is_given_up() -> None:
    core, _ = restored([], survivor())
    later = 200.0 + SPEC.startup_timeout_seconds + 2.0
    assert effects.KillWorker(WorkerId("ta-old-a"), HOST) in core.handle(events.TimePassed(), later)


def test_what_no_host_has_any_more_ends() -> None:
    big = make_spec("big", resources=Resources(cpu=64))
    core, turn = restored(submitted(big, 1))
    assert not [one for one in turn if isinstance(one, effects.ReportEnd)], (
        "a provider may say more"
    )
    due = core.next_deadline()
    while due is not None:
        turn = core.handle(events.TimePassed(), due)
        if any(isinstance(one, effects.ReportEnd) for one in turn):
            break
        due = core.next_deadline()
    ends = [one for one in turn if isinstance(one, effects.ReportEnd)]
    assert [one.outcome for one in ends] == [Outcome.INIT_FAILED]
    assert core.call_info(CALL) is None
