"""What fits a host that could be had waits for it; what is short is told to who could bring one."""

from __future__ import annotations

import pytest

from kernel_worker.core import effects, events
from kernel_worker.core.offers import OFFER_SECONDS
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.model import ClientId, HostId, HostResources, PoolSettings, Resources
from tests.core.simulation import CLIENT, HOST, Simulation, make_resources, make_spec

AGENT = ClientId("cl-agent")
COMING = HostId("ho-coming")
GPU = Resources(gpu=1)


def offer(gpus: int = 1, note: str = "ray: none of at most 2 hosts") -> events.HostsOffered:
    return events.HostsOffered(AGENT, (make_resources(4, gpus=gpus),), note)


def missing(simulation: Simulation) -> dict[str, int]:
    return {each.name: each.workers for each in simulation.core.demand().shortages}


def test_what_fits_an_offered_host_waits_for_it_and_runs_there() -> None:
    simulation = Simulation(make_resources(2))
    pool = simulation.define(make_spec(resources=GPU), 1.0)
    simulation.submit(pool, 1)
    assert simulation.effects["RejectCall"] == 1, "nobody could bring one"
    simulation.feed(offer())
    call = simulation.submit(pool, 2)
    simulation.run(3.0)
    assert missing(simulation) == {"f": 2}
    progress = simulation.core.call_progress(call)
    assert progress is not None
    assert "ray: none of at most 2 hosts" in progress.waiting_for
    simulation.feed(events.HostJoined(COMING, make_resources(4, gpus=1), is_far=True))
    simulation.feed(offer())
    simulation.run(0.9)
    assert missing(simulation) == {"f": 1}
    assert {(use.host, use.workers, use.state) for use in simulation.core.demand().hosts} == {
        (HOST, 0, ""),
        (COMING, 1, ""),
    }
    simulation.run_call(call)
    assert simulation.outcomes(call) == {"SUCCEEDED": 2}
    assert missing(simulation) == {}


def test_an_offer_that_nobody_says_again_is_void() -> None:
    simulation = Simulation(make_resources(2))
    simulation.feed(offer())
    pool = simulation.define(make_spec(resources=GPU), 1.0)
    call = simulation.submit(pool, 1)
    simulation.run(OFFER_SECONDS - 1)
    simulation.feed(offer())
    simulation.run(OFFER_SECONDS - 1)
    assert not simulation.outcomes(call)
    simulation.run(2)
    assert simulation.outcomes(call) == {"INIT_FAILED": 1}
    simulation.feed(offer(2))
    simulation.submit(simulation.define(make_spec("g", resources=Resources(gpu=9)), 1), 1)
    assert simulation.effects["RejectCall"] == 1, "not even they could"


def test_floors_beyond_the_cpus_are_asked_for_where_somebody_could_bring_them() -> None:
    simulation = Simulation(make_resources(2))
    simulation.define(make_spec(settings=PoolSettings(min_containers=3)), 1.0)
    simulation.run(1)
    assert len(simulation.core.status().workers) == 3, "nobody could bring any"
    assert missing(simulation) == {}
    simulation.feed(offer(note=""))
    simulation.define(make_spec("g", settings=PoolSettings(min_containers=3)), 1.0)
    simulation.define(make_spec("h"), 1.0)
    simulation.run(1)
    assert missing(simulation) == {"g": 3}
    simulation.feed(events.HostJoined(COMING, make_resources(4), is_far=True))
    simulation.run(1)
    assert missing(simulation) == {}


def test_a_function_that_does_not_come_up_is_given_no_further_machine() -> None:
    simulation = Simulation(make_resources(1))
    simulation.feed(offer())
    pool = simulation.define(make_spec(), 1.0)
    simulation.submit(pool, 3)
    (worker,) = simulation.core.status().workers
    simulation.feed(events.WorkerExited(worker.worker, "killed by SIGSEGV"))
    assert missing(simulation) == {}


def test_what_is_restored_waits_for_a_provider_to_say_its_offer_again() -> None:
    simulation = Simulation(make_resources(2))
    simulation.feed(offer())
    simulation.submit(simulation.define(make_spec(resources=GPU)), 1, attached=False)
    facts = [effect.record for effect in simulation.log if isinstance(effect, effects.Record)]
    for is_offered in (False, True):
        core = Scheduler("next")
        core.restore(facts, 100.0)
        core.handle(events.HostJoined(HOST, make_resources(2)), 101.0)
        assert core.status().calls, "somebody may offer it yet"
        if is_offered:
            core.handle(offer(), 102.0)
        due = core.next_deadline()
        assert due is not None
        core.handle(events.TimePassed(), 100.0 + OFFER_SECONDS)
        assert bool(core.status().calls) is is_offered


def test_who_lets_a_broker_know_is_a_client_like_others() -> None:
    simulation = Simulation(make_resources(1))
    simulation.feed(offer())
    simulation.feed(events.ClientLost(AGENT))
    pool = simulation.define(make_spec(resources=GPU), 1.0)
    call = simulation.submit(pool, 1)
    simulation.run(1)
    assert not simulation.outcomes(call), "the agent that follows it says the same"
    assert CLIENT


def test_what_waits_for_a_cpu_beside_its_idle_worker_is_asked_for_and_runs_elsewhere() -> None:
    simulation = Simulation(make_resources(1))
    simulation.feed(offer())
    pool = simulation.define(make_spec(), 0.1)
    simulation.run_call(simulation.submit(pool, 1))
    busy = simulation.submit(simulation.define(make_spec("has_the_cpu"), 100.0), 1)
    simulation.run(1)
    call = simulation.submit(pool, 1)
    simulation.run(1)
    assert len(simulation.core.status().workers) == 2, "nothing is started where it could not run"
    assert missing(simulation) == {"f": 1}
    simulation.feed(events.HostJoined(COMING, make_resources(4), is_far=True))
    simulation.run(2)
    assert simulation.outcomes(call) == {"SUCCEEDED": 1}
    assert not simulation.outcomes(busy)
    assert missing(simulation) == {}


def test_no_more_workers_than_the_ceiling_are_asked_for() -> None:
    simulation = Simulation(make_resources(1))
    simulation.feed(offer())
    pool = simulation.define(make_spec(settings=PoolSettings(max_containers=1)), 0.1)
    simulation.run_call(simulation.submit(pool, 1))
    simulation.submit(simulation.define(make_spec("has_the_cpu"), 100.0), 1)
    simulation.run(1)
    simulation.submit(pool, 1)
    simulation.run(1)
    assert missing(simulation) == {}


@pytest.mark.parametrize(
    ("here", "there", "needs"),
    [
        (make_resources(2, gpus=1), make_resources(8), Resources(gpu=0.1)),
        (make_resources(2, 64_000), make_resources(8, 500), Resources(memory_mib=1_000)),
    ],
    ids=["device", "memory"],
)
def test_a_cpu_elsewhere_starts_nothing_where_the_rest_is_not(
    here: HostResources, there: HostResources, needs: Resources
) -> None:
    simulation = Simulation(here)
    pool = simulation.define(make_spec(resources=needs), 0.1)
    simulation.run_call(simulation.submit(pool, 1))
    hog = make_spec("has_the_cpus", resources=Resources(here.cpu))
    simulation.submit(simulation.define(hog, 100.0), 1)
    simulation.run(1)
    simulation.feed(events.HostJoined(COMING, there, is_far=True))
    simulation.submit(pool, 1)
    for _ in range(10):
        simulation.run(1)
    assert len(simulation.core.status().workers) == 2
