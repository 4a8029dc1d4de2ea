"""A paused call: nothing of it starts, what runs ends, and it goes on where it was."""

from __future__ import annotations

from kernel_worker.core import effects, events
from kernel_worker.core.invariants import check
from kernel_worker.model import CallId, Outcome, RetryPolicy
from tests.core.simulation import CLIENT, Simulation, make_resources, make_spec


def granted(simulation: Simulation, call: CallId) -> int:
    """Return how many inputs of a call were leased so far."""
    grants = [each for each in simulation.log if isinstance(each, effects.GrantLease)]
    return sum(each.stop - each.start for each in grants if each.call == call)


def test_what_runs_ends_and_nothing_starts_until_it_goes_on() -> None:
    simulation = Simulation()
    call = simulation.submit(simulation.define(make_spec(), 1.0), 10)
    simulation.run(0.5)
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.CallPaused(call))
    simulation.run(100)
    assert simulation.outcomes(call) == {"SUCCEEDED": 2}, "those that ran"
    assert granted(simulation, call) == 2
    simulation.feed(events.CallUnpaused(call))
    simulation.feed(events.CallUnpaused(call))
    assert simulation.run_call(call) < 5
    assert simulation.outcomes(call) == {"SUCCEEDED": 10}


def test_what_a_worker_was_given_and_has_not_started_is_taken_back() -> None:
    simulation = Simulation()
    slow_from = 1_000
    pool = simulation.define(make_spec(), lambda _c, i, _a: 5.0 if i >= slow_from else 0.0001)
    call = simulation.submit(pool, 2_000)
    simulation.run(1.0)
    assert granted(simulation, call) > slow_from + 2, "leases hold more than what runs"
    simulation.feed(events.CallPaused(call))
    simulation.run(1_000)
    assert simulation.outcomes(call)["SUCCEEDED"] <= slow_from + 2
    simulation.feed(events.CallCancelled(call, terminate=False))
    assert sum(simulation.outcomes(call).values()) == 2_000


def test_another_call_has_the_workers_meanwhile() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.1)
    paused, other = simulation.submit(pool, 100), simulation.submit(pool, 10)
    simulation.feed(events.CallPaused(paused))
    assert simulation.run_call(other) < 1
    assert simulation.outcomes(paused).total() < 10


def test_inputs_and_retries_that_come_meanwhile_wait_too() -> None:
    simulation = Simulation()
    retries = RetryPolicy(max_retries=1, initial_delay_seconds=0.5)
    spec = make_spec(retries=retries)
    pool = simulation.define(spec, lambda _c, _i, attempt: "fail" if attempt == 1 else 0.01)
    call = CallId("fc-open")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, attached=True, count=1, closed=False))
    simulation.run(0.2)
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.InputsAdded(call, 1, 3))
    simulation.feed(events.InputsClosed(call, 4))
    simulation.run(10)
    assert granted(simulation, call) == 1
    simulation.feed(events.CallUnpaused(call))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 4}


def test_the_one_input_that_comes_to_a_paused_call_waits() -> None:
    """What comes while nothing waits is granted as it comes, but not here."""
    simulation = Simulation()
    pool = simulation.define(make_spec(), 0.01)
    simulation.run_call(simulation.submit(pool, 1))
    call = CallId("fc-later")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, True, 0, closed=False))
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.InputsAdded(call, 0, 1))
    assert granted(simulation, call) == 0
    simulation.feed(events.CallUnpaused(call))
    assert granted(simulation, call) == 1


def test_a_paused_call_is_cancelled_at_once() -> None:
    simulation = Simulation()
    call = simulation.submit(simulation.define(make_spec(), 1.0), 100)
    simulation.run(0.5)
    simulation.feed(events.CallPaused(call))
    simulation.run(10)
    simulation.feed(events.CallCancelled(call, terminate=False))
    assert simulation.outcomes(call) == {"SUCCEEDED": 2, "CANCELLED": 98}
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.CallUnpaused(call))


def test_a_paused_call_starts_no_worker_and_keeps_none() -> None:
    simulation = Simulation(make_resources(4))
    pool = simulation.define(make_spec(), 1.0)
    call = CallId("fc-early")
    simulation.feed(events.CallSubmitted(CLIENT, call, pool, attached=True, count=0, closed=False))
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.InputsAdded(call, 0, 50))
    simulation.run(200)
    assert simulation.alive(pool) == []
    (stands,) = simulation.core.status().pools
    assert (stands.backlog, stands.waiting_for) == (0, "")
    simulation.feed(events.InputsClosed(call, 50))
    simulation.feed(events.CallUnpaused(call))
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 50}


def test_groups_of_a_batched_pool_are_made_of_the_other_calls() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(max_batch_size=4, batch_wait_seconds=1.0), 0.1)
    paused, other = simulation.submit(pool, 2), simulation.submit(pool, 2)
    simulation.feed(events.CallPaused(paused))
    simulation.run_call(other)
    assert simulation.outcomes(paused) == {}
    simulation.feed(events.CallUnpaused(paused))
    simulation.run_call(paused)
    assert simulation.outcomes(paused) == {"SUCCEEDED": 2}


def test_a_pool_that_cannot_be_set_up_ends_what_is_paused_too() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    call = simulation.submit(pool, 5)
    starting = next(e for e in simulation.log if isinstance(e, effects.StartWorker))
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.WorkerStartFailed(starting.worker, "no module named x"))
    assert simulation.outcomes(call) == {Outcome.INIT_FAILED.name: 5}
    check(simulation.core)


def test_a_call_of_which_nothing_waits_is_paused_and_goes_on() -> None:
    simulation = Simulation()
    call = simulation.submit(simulation.define(make_spec(), 1.0), 2)
    simulation.run(0.5)
    simulation.feed(events.CallPaused(call))
    simulation.feed(events.CallUnpaused(call))
    assert simulation.run_call(call) < 2


def test_a_call_that_nobody_knows_is_not_paused() -> None:
    simulation = Simulation()
    simulation.feed(events.CallPaused(CallId("fc-nope")))
    simulation.feed(events.CallUnpaused(CallId("fc-nope")))
