"""What a class is made from: parameters and arguments, checked when an instance is made."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError, SerializationError
from kernel_worker.wire import instances
from notebook_ext import constructor


class Declared:
    name: str = nb.parameter()
    size: int = nb.parameter(default=3)
    rate: float = nb.parameter(default=0.5)
    state: list[int] = nb.parameter(default=[1], init=False)
    secret: bytes = nb.parameter(init=False)


class Inheriting(Declared):
    size: int = nb.parameter(default=4)
    more: object = nb.parameter(default=None)
    rate: float = 0.25


class Plain:
    def __init__(self, name: str, /, size: int = 3, *rest: int, **more: object) -> None:
        self.given = (name, size, rest, more)


@dataclasses.dataclass
class Data:
    name: str
    size: int = 3


class Nothing:
    """Takes nothing."""


def values(kind: type, *args: Any, **kwargs: Any) -> dict[str, Any]:
    bound = constructor.of(kind).bound(args, kwargs)
    return {name: pickle.loads(data) for name, data in bound.values}


def test_parameters_are_given_by_name_or_in_the_order_of_the_class() -> None:
    expected = {"name": "a", "size": 5, "rate": 0.5, "state": [1]}
    assert values(Declared, "a", 5) == expected
    assert values(Declared, size=5, name="a") == expected
    assert constructor.of(Declared).bound(("a", 5), {}) == constructor.of(Declared).bound(
        (), {"size": 5, "name": "a"}
    )


def test_a_subclass_has_the_parameters_of_its_bases_first() -> None:
    found = values(Inheriting, "a")
    assert list(found) == ["name", "size", "state", "more"]
    assert found["size"] == 4


def test_an_int_is_a_float_where_one_is_declared() -> None:
    assert type(values(Declared, "a", rate=2)["rate"]) is float


def test_arguments_of_init_are_bound_as_a_call_would() -> None:
    made = constructor.of(Plain)
    assert made.bound(("a",), {"size": 4}) == made.bound(("a", 4), {})
    instance = instances.construct(Plain, made.bound(("a", 4, 5), {"z": 1, "y": 2}))
    assert instance.given == ("a", 4, (5,), {"y": 2, "z": 1})
    assert instances.construct(Data, constructor.of(Data).bound(("x",), {})) == Data("x")
    assert constructor.of(Nothing).bound((), {}) == instances.Parameters()


MISTAKES: dict[str, tuple[type, tuple[Any, ...], dict[str, Any], str]] = {
    "no value": (
        Declared,
        (),
        {},
        r"'name' has no default and was not given",
    ),
    "too many": (
        Declared,
        ("a", 1, 0.1, 2),
        {},
        r"Declared has 3 parameters \(name, size, rate\), and 4 were given",
    ),
    "unknown": (
        Declared,
        ("a",),
        {"nam": 1},
        r"Declared\(nam=\.\.\.\): nam is no param",
    ),
    "hidden": (Declared, ("a",), {"state": 1}, "state is declared with init=False"),
    "twice": (Declared, ("a",), {"name": "b"}, "'name' was given twice"),
    "wrong type": (Declared, (1,), {}, r"Declared\(name=1\): allowed is str, and this is int"),
    "a bool for an int": (Declared, ("a", True), {}, r"size=True\): allowed is int, .* is bool"),
    "init: missing": (
        Plain,
        (),
        {},
        r"Plain\(name, /.*\): missing a required argument: 'name'",
    ),
    "init: unknown": (Data, ("a",), {"b": 1}, r"Data\(name, size=.*\): got an unexpected keyword"),
    "nothing": (Nothing, (1,), {}, r"Nothing\(\): too many positional arguments"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_named(mistake: str) -> None:
    kind, args, kwargs, message = MISTAKES[mistake]
    with pytest.raises(InvalidError, match=message):
        constructor.of(kind).bound(args, kwargs)


def test_init_and_parameters_together_are_refused() -> None:
    class Both(Declared):
        def __init__(self) -> None:
            """Is too much."""

    with pytest.raises(InvalidError, match=r"Both has both nb\.parameter\(\) and __init__: put"):
        constructor.of(Both)


def test_a_default_of_another_type_is_refused() -> None:
    class Wrong:
        name: str = nb.parameter(default=3)

    with pytest.raises(InvalidError, match=r"Wrong\(name=3\): allowed is str"):
        constructor.of(Wrong)


def test_a_parameter_that_cannot_travel_is_named() -> None:
    with pytest.raises(SerializationError, match=r"Inheriting\.more \(a _thread\.lock\)"):
        constructor.of(Inheriting).bound(("a",), {"more": threading.Lock()})
    with pytest.raises(SerializationError, match=r"Plain\(args\[0\]\)"):
        constructor.of(Plain).bound((threading.Lock(),), {})
