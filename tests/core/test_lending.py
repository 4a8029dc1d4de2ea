"""Loans: granted where nobody waits, revoked when somebody does, accounted for whatever happens."""

from __future__ import annotations

from typing import Any

import pytest

from kernel_worker import traces
from kernel_worker.core import effects, events, views
from kernel_worker.core.invariants import SENTENCES, InvariantBroken, check
from kernel_worker.core.lending import MOST_AHEAD
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import (
    CallId,
    ClientId,
    FunctionSpec,
    HostId,
    LeaseId,
    Outcome,
    ParentInput,
    Resources,
    RetryPolicy,
    WorkerId,
)
from tests.core.simulation import make_resources, make_spec

CLIENT = ClientId("cl-1")
HOST = HostId("ho-1")
LINE = CallId("fc-line")
LOANS = "a loan is the only lease of its worker, and lives as long as its call lends"


class Lending:
    """A core with one CPU, and a worker that is lent to a client."""

    def __init__(self, spec: FunctionSpec | None = None, cpu: float = 1.0) -> None:
        self.core = Scheduler("x")
        self.now = 100.0
        self.spec = spec or make_spec()
        self.feed(events.ClientConnected(CLIENT))
        self.feed(events.HostJoined(HOST, make_resources(cpu=cpu)))
        self.feed(events.FunctionDefined(CLIENT, self.spec))
        self.submit("fc-first")
        self.worker = WorkerId("ta-x-1")
        turn = self.feed(events.WorkerReady(self.worker))
        self.succeed(self.granted(turn).lease)
        turn = self.submit(LINE, lends=True)
        self.lease = self.granted(turn).lease

    def feed(self, event: events.Event) -> list[effects.Effect]:
        turn = self.core.handle(event, self.now)
        check(self.core)
        return turn

    def submit(self, call: str, **more: Any) -> list[effects.Effect]:
        pool = more.pop("pool", self.spec.pool)
        return self.feed(
            events.CallSubmitted(CLIENT, CallId(call), pool, True, 1, closed=True, **more)
        )

    def succeed(self, lease: LeaseId, start: int = 0) -> list[effects.Effect]:
        return self.feed(events.RangeSucceeded(self.worker, lease, start, 1, 0.001))

    def reach(self, index: int, *, runs: bool) -> list[effects.Effect]:
        return self.feed(events.LineReached(self.worker, self.lease, index, 0.001, runs))

    def acknowledge(self, index: int) -> list[effects.Effect]:
        return self.feed(events.InputsReturned(self.worker, self.lease, index, index))

    def exit(self, position: int, **more: Any) -> list[effects.Effect]:
        return self.feed(events.WorkerExited(self.worker, "killed", self.lease, position, **more))

    def granted(self, turn: list[effects.Effect]) -> effects.GrantLease:
        return next(one for one in turn if isinstance(one, effects.GrantLease))

    @property
    def view(self) -> views.CallView:
        view = self.core.call_info(LINE)
        assert view is not None
        return view

    @property
    def condition(self) -> str:
        return self.core.status().workers[0].state


def of(turn: list[effects.Effect], kind: type[Any]) -> list[Any]:
    return [one for one in turn if isinstance(one, kind)]


def test_a_worker_is_lent_where_nobody_waits_and_is_busy_until_it_is_given_back() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    assert lending.condition == "busy"
    lending.reach(1_000, runs=False)
    view = lending.core.call_info(LINE)
    assert view is not None
    assert (view.succeeded, view.running) == (1_000, 0)
    turn = lending.acknowledge(1_200)
    assert of(turn, effects.EndLine) == [effects.EndLine(CLIENT, LINE, 1_200)]
    assert of(turn, effects.FinishCall)
    assert lending.condition == "idle"
    assert lending.core.call_info(LINE) is None


def test_who_waits_has_the_worker_asked_back_at_once_and_gets_it_when_that_is_acknowledged() -> (
    None
):
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.submit("fc-waits")
    assert of(turn, effects.TakeBack) == [effects.TakeBack(lending.worker, HOST, lending.lease)]
    assert not of(turn, effects.GrantLease)
    assert not of(lending.reach(3, runs=True), effects.GrantLease)
    turn = lending.acknowledge(4)
    assert lending.granted(turn).call == "fc-waits"


def test_another_function_that_needs_the_cpu_has_it_asked_back_too() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    other = make_spec("g")
    lending.feed(events.FunctionDefined(CLIENT, other))
    turn = lending.submit("fc-other", pool=other.pool)
    assert of(turn, effects.TakeBack)


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(retries=RetryPolicy(max_retries=1)),
        make_spec(rerun_on_crash=False),
        make_spec(single_use=True),
        make_spec(max_inputs=2),
        make_spec(resources=Resources(memory_mib=10, memory_limit_mib=20)),
    ],
)
def test_what_may_be_tried_again_or_shares_its_worker_is_not_lent(spec: FunctionSpec) -> None:
    core = Scheduler("x")
    core.handle(events.HostJoined(HOST, make_resources()), 0.0)
    core.handle(events.FunctionDefined(CLIENT, spec), 0.0)
    core.handle(
        events.CallSubmitted(CLIENT, LINE, spec.pool, True, 1, closed=True, lends=True), 0.0
    )
    turn = core.handle(events.WorkerReady(WorkerId("ta-x-1")), 0.0)
    assert [one.lends for one in of(turn, effects.GrantLease)] == [False]
    assert not core._state.loans


def test_who_has_to_wait_gets_no_line() -> None:
    lending = Lending()
    turn = lending.submit("fc-second", lends=True)
    assert of(turn, effects.TakeBack)
    lending.succeed(lending.lease)
    turn = lending.acknowledge(1)
    assert not lending.granted(turn).lends


def test_a_new_version_takes_the_worker_of_the_old_one_back() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.feed(events.FunctionDefined(CLIENT, make_spec(version="2")))
    assert of(turn, effects.TakeBack)


def test_a_first_input_that_was_not_started_when_its_worker_was_asked_back_waits_again() -> None:
    lending = Lending()
    lending.submit("fc-waits")
    turn = lending.feed(events.InputsReturned(lending.worker, lending.lease, 0, 1))
    first = lending.granted(turn)
    assert first.call == "fc-waits"  # it has had less
    second = lending.granted(lending.succeed(first.lease))
    assert (second.call, second.lends) == (LINE, False)


def test_an_input_that_fails_is_reported_at_its_place_and_the_loan_goes_on() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.feed(events.InputEnded(lending.worker, lending.lease, 7, Outcome.FAILED, 0.001))
    assert [(end.index, end.outcome) for end in of(turn, effects.ReportEnd)] == [
        (7, Outcome.FAILED)
    ]
    turn = lending.succeed(lending.lease, 9)  # a value that is too large for the line
    assert [(one.start, one.stop) for one in of(turn, effects.ReportRange)] == [(9, 10)]
    assert lending.condition == "busy"
    lending.acknowledge(10)


def test_a_cancelled_input_is_interrupted_at_its_place() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.feed(events.CallCancelled(LINE, terminate=False, reached=5))
    assert of(turn, effects.TakeBack)
    assert [one.index for one in of(turn, effects.Interrupt)] == [5]
    turn = lending.feed(events.InputEnded(lending.worker, lending.lease, 5, Outcome.CANCELLED, 0.1))
    assert [end.outcome for end in of(turn, effects.ReportEnd)] == [Outcome.CANCELLED]
    assert of(lending.acknowledge(6), effects.FinishCall)


def test_a_cancelled_request_that_the_worker_never_read_ends_with_the_loan() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.feed(events.CallCancelled(LINE, terminate=False, reached=5))
    turn = lending.acknowledge(5)
    assert [(end.index, end.outcome) for end in of(turn, effects.ReportEnd)] == [
        (5, Outcome.CANCELLED)
    ]
    assert of(turn, effects.FinishCall)
    assert lending.condition == "idle"


def test_an_input_that_was_said_to_run_and_is_given_back_is_left_to_the_client() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(5, runs=True)
    turn = lending.acknowledge(5)
    assert not of(turn, effects.ReportEnd)
    assert of(turn, effects.EndLine)
    assert lending.condition == "idle"


def test_a_cancellation_that_comes_late_ends_the_line_and_nothing_else() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(9, runs=False)
    turn = lending.feed(events.CallCancelled(LINE, terminate=False, reached=5))
    assert of(turn, effects.TakeBack)
    assert not of(lending.acknowledge(9), effects.ReportEnd)


def test_nobody_is_believed_who_is_too_far_ahead_or_has_not_answered_the_first_input() -> None:
    lending = Lending()
    lending.reach(5, runs=True)
    lending.feed(events.InputEnded(lending.worker, lending.lease, 3, Outcome.FAILED, 0.1))
    assert lending.view.succeeded == 0
    lending.succeed(lending.lease)
    lending.reach(2 + MOST_AHEAD, runs=True)
    lending.succeed(lending.lease, 2 + MOST_AHEAD)
    lending.feed(events.CallCancelled(LINE, terminate=False, reached=2 + MOST_AHEAD))
    assert (lending.view.succeeded, lending.view.running) == (1, 0)
    lending.reach(1 + MOST_AHEAD, runs=False)
    assert lending.view.succeeded == 1 + MOST_AHEAD
    lending.acknowledge(1 + MOST_AHEAD)


def test_the_time_that_a_line_takes_is_had_of_the_shares() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    pool = lending.core._state.pools[lending.spec.pool]
    before = pool.served_seconds
    lending.feed(events.LineReached(lending.worker, lending.lease, 1_001, 0.5, runs=False))
    assert pool.served_seconds == pytest.approx(before + 0.5)
    lending.feed(events.InputEnded(lending.worker, lending.lease, 1_001, Outcome.FAILED, 0.25))
    assert pool.served_seconds == pytest.approx(before + 0.75)


def test_a_call_that_is_paused_lends_no_more() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    assert of(lending.feed(events.CallPaused(LINE)), effects.TakeBack)
    assert of(lending.acknowledge(3), effects.FinishCall)


def test_a_death_that_was_ordered_is_not_counted() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(4, runs=True)
    lending.core._state.kill_worker(lending.core._state.workers[lending.worker])
    turn = lending.exit(4)
    assert not of(turn, effects.ReportEnd)
    assert of(turn, effects.EndLine) == [effects.EndLine(CLIENT, LINE, 5)]


def test_a_client_that_is_gone_gives_its_worker_back() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    assert of(lending.feed(events.ClientLost(CLIENT)), effects.TakeBack)
    assert of(lending.acknowledge(3), effects.FinishCall)
    assert lending.core.call_info(LINE) is None


def test_a_worker_that_dies_says_which_input_of_the_line_died_with_it() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(2, runs=False)
    turn = lending.exit(4)
    assert [(end.index, end.outcome) for end in of(turn, effects.ReportEnd)] == [(4, Outcome.LOST)]
    assert of(turn, effects.EndLine) == [effects.EndLine(CLIENT, LINE, 5)]
    assert of(turn, effects.FinishCall)


def test_a_worker_that_dies_between_two_inputs_loses_none() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.exit(-1)
    assert not of(turn, effects.ReportEnd)
    assert of(turn, effects.EndLine) == [effects.EndLine(CLIENT, LINE, 1)]


def test_an_input_of_a_line_that_would_not_stop_has_timed_out() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    turn = lending.exit(1, timed_out=True)
    (end,) = of(turn, effects.ReportEnd)
    assert end.outcome is Outcome.TIMED_OUT
    assert end.message.startswith("input 0 of f ran longer")  # it was a call of its own


def test_a_cancelled_input_whose_worker_died_is_cancelled() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.feed(events.CallCancelled(LINE, terminate=True, reached=1))
    turn = lending.exit(1)
    assert [end.outcome for end in of(turn, effects.ReportEnd)] == [Outcome.CANCELLED]


def test_the_first_input_of_a_line_runs_again_where_its_worker_dies_like_any_other() -> None:
    lending = Lending()
    turn = lending.exit(0)
    assert not of(turn, effects.ReportEnd)
    assert of(turn, effects.StartWorker)
    view = lending.core.call_info(LINE)
    assert view is not None
    assert view.pending == 1


def test_an_input_that_died_on_a_line_has_two_more_attempts() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.exit(1)
    lending.submit("fc-again", deaths=1)
    turn: list[effects.Effect] = []
    for attempt in (2, 3):
        lending.worker = WorkerId(f"ta-x-{attempt}")
        grant = lending.granted(lending.feed(events.WorkerReady(lending.worker)))
        assert (grant.call, grant.attempt) == ("fc-again", attempt)
        lending.lease = grant.lease
        turn = lending.exit(0)
    assert [end.outcome for end in of(turn, effects.ReportEnd)] == [Outcome.LOST]


def test_an_input_of_a_line_that_waits_for_a_call_gives_its_cpu_up() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    other = make_spec("g")
    lending.feed(events.FunctionDefined(CLIENT, other))
    parent = ParentInput(LINE, 6, 1, lending.worker, lending.lease)
    lending.submit("fc-child", pool=other.pool, parent=parent)
    lending.feed(events.WorkerBlocked(parent, (CallId("fc-child"),)))
    assert lending.condition == "blocked"
    lending.feed(events.WorkerResumed(parent))
    lending.reach(7, runs=False)
    lending.acknowledge(7)


def test_what_is_said_late_of_a_loan_changes_nothing() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(5, runs=False)
    lending.reach(3, runs=True)
    view = lending.core.call_info(LINE)
    assert view is not None
    assert (view.succeeded, view.running) == (5, 0)
    lending.feed(events.InputsAdded(LINE, 50, 3))
    lending.feed(events.InputsClosed(LINE, 50))
    lending.acknowledge(5)
    assert not lending.reach(9, runs=True)


def test_a_worker_that_is_stopped_by_hand_leaves_its_input_to_the_client() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(4, runs=True)
    turn = lending.feed(events.WorkerEvicted(lending.worker))
    assert of(turn, effects.TakeBack)
    turn = lending.feed(events.InputEnded(lending.worker, lending.lease, 4, Outcome.CANCELLED, 0.1))
    assert not of(turn, effects.ReportEnd)  # it is no death: the client hears that the line ended
    turn = lending.acknowledge(5)
    assert of(turn, effects.EndLine)
    assert of(turn, effects.StopWorker)


def test_an_input_that_takes_long_is_told_of_while_it_runs() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    lending.reach(1, runs=True)
    view = lending.core.call_info(LINE)
    assert view is not None
    assert (view.succeeded, view.running) == (1, 1)
    lending.reach(2, runs=False)
    lending.acknowledge(2)


def test_a_loan_that_is_no_live_lease_is_noticed() -> None:
    lending = Lending()
    lending.core._state.loans.clear()
    with pytest.raises(InvariantBroken, match="lend, lent are"):
        check(lending.core)
    lending = Lending()
    del lending.core._state.workers[lending.worker]
    with pytest.raises(InvariantBroken):
        check(lending.core)
    lease = lending.core._state.loans[lending.lease]
    assert "is no live lease" in SENTENCES[LOANS](lending.core._state)
    assert lease.call.lends


def test_a_line_of_any_length_has_a_trace() -> None:
    lending = Lending()
    lending.succeed(lending.lease)
    for index in range(30_000, 300_001, 30_000):
        lending.reach(index, runs=False)
    view = lending.core.call_info(LINE)
    assert view is not None
    assert view.succeeded == 300_000
    assert len(lending.core._state.calls[LINE].trace) == 5 * traces.ROW_BYTES
    lending.acknowledge(300_000)
