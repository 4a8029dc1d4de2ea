"""Which numbers of peers are let in."""

from __future__ import annotations

import math

import pytest

from kernel_worker.broker.bounds import check_numbers, check_position, check_seconds
from kernel_worker.errors import ProtocolError
from kernel_worker.model import (
    CallId,
    DeployedFunction,
    Digest,
    FunctionKey,
    FunctionSpec,
    LeaseId,
    ParentInput,
    PoolId,
    PoolSettings,
    Resources,
    WorkerId,
)

NOTHING = Digest("")


def _spec(**fields: object) -> FunctionSpec:
    names = (PoolId("po-1"), FunctionKey("k"), "f", "m", NOTHING, NOTHING, NOTHING)
    return FunctionSpec(*names, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        _spec(),
        _spec(resources=Resources(cpu=0.5, gpu=2), settings=PoolSettings(2**63 - 1, 3, 0, 1e30)),
        (DeployedFunction("f", _spec()),),
        PoolSettings(max_containers=None),
    ],
)
def test_what_clients_may_say_passes(said: object) -> None:
    check_numbers(said)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.5])
@pytest.mark.parametrize("field", ["timeout_seconds", "startup_timeout_seconds"])
def test_one_wrong_number_in_a_definition_is_enough(field: str, wrong: float) -> None:
    spec = _spec(**{field: wrong})
    for said in (spec, (DeployedFunction("f", _spec()), DeployedFunction("g", spec))):
        with pytest.raises(ProtocolError, match=field):
            check_numbers(said)


def test_numbers_deep_in_it_are_looked_at_too() -> None:
    with pytest.raises(ProtocolError, match=r"Resources\.cpu is nan"):
        check_numbers(_spec(resources=Resources(cpu=math.nan)))
    with pytest.raises(ProtocolError, match=r"PoolSettings\.min_containers is -1"):
        check_numbers(_spec(settings=PoolSettings(min_containers=-1)))


def test_whole_numbers_have_a_place_in_the_journal() -> None:
    fields = (1, WorkerId("ta-1"), LeaseId(1))
    check_numbers(ParentInput(CallId("fc-1"), 2**63 - 1, *fields))
    check_position(2**63 - 1)
    for wrong in (2**63, 2**64 - 1, -1):
        with pytest.raises(ProtocolError, match=f"ParentInput.index is {wrong}"):
            check_numbers(ParentInput(CallId("fc-1"), wrong, *fields))
        with pytest.raises(ProtocolError, match=f"behind {wrong}"):
            check_position(wrong)


def test_what_took_a_while_is_let_in_and_what_took_for_ever_is_not() -> None:
    for elapsed in (0.0, 1e-6, 3e7):
        check_seconds(elapsed)
    for elapsed in (-1e-9, 1e308, math.inf, math.nan):
        with pytest.raises(ProtocolError, match="seconds"):
            check_seconds(elapsed)
