"""How large a lease is."""

from __future__ import annotations

import pytest

from kernel_worker.core.calls import Call
from kernel_worker.core.leases import FIRST_INPUTS, MAX_INPUTS, lease_size, smoothed
from kernel_worker.core.pools import Pool
from kernel_worker.model import CallId, ClientId
from tests.core.simulation import make_spec


def waiting(count: int, *, rerun_on_crash: bool = True, indivisible: bool = False) -> Call:
    spec = make_spec(rerun_on_crash=rerun_on_crash)
    pool = Pool(spec.pool, spec, spec.settings)
    call = Call(CallId("fc-1"), ClientId("cl-1"), pool, attached=True, submitted_at=0.0)
    call.add(0, count, indivisible=indivisible)
    return call


def test_nobody_knows_how_long_the_first_input_takes() -> None:
    call = waiting(100_000)
    assert lease_size(call, 1) == 1
    call.pool.seconds_per_input = 1e-6
    assert lease_size(call, 1) == FIRST_INPUTS


@pytest.mark.parametrize(
    ("seconds", "workers", "size"),
    [
        (1e-9, 1, MAX_INPUTS),
        (1e-3, 1, 5),
        (1e-4, 8, 50),
        (1.0, 1, 1),
    ],
)
def test_a_lease_is_five_milliseconds_of_work(seconds: float, workers: int, size: int) -> None:
    call = waiting(12_000 if size > 5 else 100)
    call.seconds_per_input = seconds
    assert lease_size(call, workers) == size


@pytest.mark.parametrize(
    ("count", "size"),
    [(100_000, 20), (2_000, 20), (1_000, 15), (400, 6), (320, 5), (100, 5)],
)
def test_while_much_waits_it_is_up_to_four_times_that(count: int, size: int) -> None:
    call = waiting(count)
    call.seconds_per_input = 1e-3
    assert lease_size(call, 2) == size


def test_of_a_call_whose_failures_are_kept_a_lease_is_one_input() -> None:
    call = waiting(100_000)
    call.seconds_per_input = 1e-6
    call.keeps_failed = True
    assert lease_size(call, 1) == 1


def test_near_the_end_it_is_an_even_share_but_no_less_than_a_millisecond() -> None:
    call = waiting(40)
    call.seconds_per_input = 1e-4
    assert lease_size(call, 1) == 20
    assert lease_size(call, 4) == 10


def test_a_batch_that_travels_whole_is_not_cut_into_hundreds_of_leases() -> None:
    call = waiting(6_400, indivisible=True)
    call.seconds_per_input = 1e-3
    assert lease_size(call, 1) == 100


def test_what_may_run_once_only_is_leased_one_by_one() -> None:
    call = waiting(100, rerun_on_crash=False)
    call.seconds_per_input = 1e-6
    assert lease_size(call, 1) == 1
    call = waiting(100)
    call.seconds_per_input = 1e-6
    call.backlog.take(100)
    call.life(0).attempt = 2
    call.requeue(0, 10)
    assert lease_size(call, 1) == 1, "a second attempt runs by itself"


def test_the_average_rises_faster_than_it_falls() -> None:
    assert smoothed(None, 2.0) == 2.0
    assert smoothed(1.0, 2.0) == 1.5
    assert smoothed(2.0, 1.0) == 1.75
