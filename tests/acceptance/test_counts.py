"""What a call and an input cost, counted and not timed: calls of functions, events of the core.

A limit is what was counted when it was set and a tenth, rounded; whoever makes something cheaper
lowers it. `benchmarks/` says what that is in time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_worker.core import effects, events
from kernel_worker.core.leases import MAX_INPUTS
from tests.acceptance.places import Place
from tests.core.simulation import Simulation, make_spec
from tests.counting import counted
from tests.waiting import PATIENCE

pytestmark = pytest.mark.clock

LINE_CALLS = 75
BROKER_CALLS = 100
MAPPED_INPUT_CALLS = 1.9
"""How many portions the values come in is chance: 1.1 to 1.8 were seen."""
EACH_MAPPED_INPUT_CALLS = 1.01
"""That is not: for each there is the step of the generator that gives the value, and no other."""
CORE_CALLS = 190
BATCH_CALLS = 275
"""Of the core, for a batch: submitted, granted, answered."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    place = Place(tmp_path_factory.mktemp("counts"))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.counts"],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | place.variables,
        timeout=60 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def test_a_warm_call_by_the_line(client: dict[str, float]) -> None:
    assert client["line"] <= LINE_CALLS


def test_a_warm_call_by_the_broker(client: dict[str, float]) -> None:
    assert client["broker"] <= BROKER_CALLS


def test_an_input_of_a_map(client: dict[str, float]) -> None:
    assert client["mapped input"] <= MAPPED_INPUT_CALLS
    assert client["each mapped input"] <= EACH_MAPPED_INPUT_CALLS


def test_the_core_for_a_warm_call() -> None:
    assert core_calls(1, 1) <= CORE_CALLS


def test_the_core_for_a_batch_whatever_is_in_it() -> None:
    """A batch of 5,000 inputs costs what one of 100 does, and twice as many cost twice."""
    small, large, twice = core_calls(100, 40), core_calls(MAX_INPUTS, 40), core_calls(100, 80)
    assert large <= small * 1.1
    assert small / 40 <= BATCH_CALLS
    assert twice <= small * 2.2


def core_calls(batch: int, batches: int) -> int:
    """Return how many functions a warm core calls to have a call of so many batches run."""
    simulation = Simulation(checked=False)
    pool = simulation.define(make_spec(), 1e-9)
    simulation.run_call(simulation.submit(pool, 1_000))
    calls, handle = 0, simulation.core.handle

    def handled(event: events.Event, now: float) -> list[effects.Effect]:
        nonlocal calls
        turn: list[effects.Effect] = []
        calls += counted(lambda: turn.extend(handle(event, now)))
        return turn

    simulation.core.handle = handled  # type: ignore[method-assign]
    simulation.run_call(simulation.submit(pool, batch * batches, batch=batch))
    return calls
