"""What those who ask are told."""

from __future__ import annotations

from kernel_worker.core import effects, events
from kernel_worker.model import CallId, ParentInput, PoolId, PoolSettings, Resources
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec


def waiting_for(simulation: Simulation, call: CallId) -> str:
    progress = simulation.core.call_progress(call)
    assert progress is not None
    return progress.waiting_for


def test_a_call_says_what_it_waits_for_after_two_seconds() -> None:
    simulation = Simulation(make_resources(1))
    busy = simulation.define(make_spec("busy"), lambda *_: "hang")
    simulation.submit(busy, 1)
    simulation.run(0.1)
    call = simulation.submit(simulation.define(make_spec("g")), 1)
    simulation.run(1.5)
    assert waiting_for(simulation, call) == ""
    deadline = simulation.core.next_deadline()
    assert deadline is not None
    assert deadline < simulation.now + 1
    simulation.run(1)
    assert waiting_for(simulation, call) == "no free CPU: pool busy runs 1 of 1"


def test_the_headroom_is_what_could_begin_on_the_workers_that_there_are() -> None:
    simulation = Simulation(make_resources(4))
    spec = make_spec(settings=PoolSettings(min_containers=3))
    pool = simulation.define(spec, lambda *_: "hang")

    def headroom() -> int:
        counts = simulation.core.pool_stats(pool)
        assert counts is not None
        return counts.input_headroom

    assert headroom() == 3, "they start"
    simulation.run(0.1)
    simulation.submit(pool, 1)
    assert headroom() == 2


def test_recent_calls_are_those_that_somebody_made_newest_first() -> None:
    simulation = Simulation(make_resources(4))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    first = simulation.submit(pool, 2)
    simulation.run(0.1)
    second = simulation.submit(pool, 1)
    views = simulation.core.recent_calls()
    assert [view.call for view in views] == [second, first]
    assert [view.app for view in views] == ["app", "app"]
    assert views[0].submitted_at > views[1].submitted_at


def test_the_workers_of_a_call_are_those_that_hold_its_inputs() -> None:
    simulation = Simulation(make_resources(2))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    call = simulation.submit(pool, 3)
    assert simulation.core.workers_at(call) == []
    simulation.run(0.1)
    held = simulation.core.workers_at(call)
    assert len(held) == 2
    assert set(held) == {view.worker for view in simulation.core.status().workers}
    assert simulation.core.workers_at(CallId("fc-nobody")) == []


def test_a_call_is_waited_for_where_all_above_it_are_attached() -> None:
    simulation = Simulation(make_resources(3))
    pool = simulation.define(make_spec(), lambda *_: "hang")
    roots = [simulation.submit(pool, 1, attached=attached) for attached in (True, False)]
    simulation.run(0.1)
    for number, root in enumerate(roots):
        grant = next(
            e for e in simulation.log if isinstance(e, effects.GrantLease) and e.call == root
        )
        parent = ParentInput(root, 0, 1, grant.worker, grant.lease)
        child = CallId(f"fc-child-{number}")
        submitted = events.CallSubmitted(CLIENT, child, pool, True, 1, closed=True, parent=parent)
        simulation.pool_of[child], simulation.left[child] = pool, 1
        simulation.feed(submitted)
        assert simulation.core.waited_for(child) == (root, number == 0)
    assert simulation.core.waited_for(CallId("fc-nobody")) == ("fc-nobody", True)


def test_the_ceiling_is_a_reason() -> None:
    simulation = Simulation()
    spec = make_spec(settings=PoolSettings(max_containers=1))
    pool = simulation.define(spec, lambda *_: "hang")
    simulation.submit(pool, 1)
    call = simulation.submit(pool, 1)
    simulation.run(3)
    assert waiting_for(simulation, call) == "max_containers: pool f runs 1 of 1"


def test_a_device_that_others_hold_is_a_reason() -> None:
    simulation = Simulation(make_resources(gpus=1))
    gpu = Resources(gpu=1)
    simulation.submit(simulation.define(make_spec("f", resources=gpu), lambda *_: "hang"), 1)
    simulation.run(0.1)
    call = simulation.submit(simulation.define(make_spec("g", resources=gpu)), 1)
    simulation.run(3)
    assert waiting_for(simulation, call) == "no free GPU: pool f has 1"


def test_a_worker_that_starts_is_a_reason() -> None:
    simulation = Simulation(start=1e9)
    call = simulation.submit(simulation.define(make_spec()), 1)
    simulation.run(3)
    assert waiting_for(simulation, call) == "a worker is starting"


def test_progress_shows_what_workers_hold() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    call = simulation.submit(pool, 10)
    simulation.run(1.5)
    progress = simulation.core.call_progress(call)
    assert progress is not None
    assert (progress.running, progress.workers, progress.retried) == (2, 2, 0)
    assert progress.started == ((2, 3), (3, 4))


def test_status_is_plain_data() -> None:
    simulation = Simulation()
    pool = simulation.define(make_spec(), 1.0)
    simulation.submit(pool, 10)
    simulation.run(0.5)
    status = simulation.core.status()
    assert status.clients == 1
    assert [(h.host, h.cpu_used) for h in status.hosts] == [(HOST, 2.0)]
    assert [(p.name, p.backlog, p.running, p.busy) for p in status.pools] == [("f", 8, 2, 2)]
    assert [w.state for w in status.workers] == ["busy", "busy"]
    assert [(c.total, c.pending, c.running) for c in status.calls] == [(10, 8, 2)]


def test_what_is_not_known_is_none() -> None:
    simulation = Simulation()
    assert simulation.core.pool_stats(PoolId("po-nope")) is None
    assert simulation.core.call_progress(CallId("fc-nope")) is None
    assert simulation.core.call_info(CallId("fc-nope")) is None


def test_a_broker_with_a_client_a_call_or_a_floor_is_not_idle() -> None:
    simulation = Simulation()
    assert not simulation.core.is_idle()
    pool = simulation.define(make_spec(), 10.0)
    call = simulation.submit(pool, 1, attached=False)
    simulation.feed(events.ClientLost(CLIENT))
    assert not simulation.core.is_idle()
    simulation.run_call(call)
    assert simulation.core.is_idle()


def test_only_those_that_hold_what_is_missing_are_named() -> None:
    simulation = Simulation(make_resources(memory_mib=1_000))
    light = simulation.define(make_spec("light", settings=PoolSettings(min_containers=1)))
    heavy = simulation.define(make_spec("heavy", resources=Resources(memory_mib=800)), 60.0)
    simulation.submit(heavy, 1)
    simulation.run(0.1)
    assert simulation.alive(light)
    needy = simulation.define(make_spec("needy", resources=Resources(memory_mib=500)), 1.0)
    call = simulation.submit(needy, 1)
    simulation.run(2.5)
    assert waiting_for(simulation, call) == "no free memory: pool heavy has 1"
