from __future__ import annotations

import threading
from typing import Any

import cloudpickle
import pytest

from kernel_worker.wire import culprit

LOCK = threading.Lock()


class Holder:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = LOCK


class Stateful:
    def __getstate__(self) -> object:
        return LOCK


class Raising:
    def __reduce__(self) -> str:
        raise ValueError


class Built:
    def __reduce__(self) -> tuple[Any, ...]:
        return Built, (LOCK,), None


class BadRepr:
    def __repr__(self) -> str:
        raise ValueError

    def __hash__(self) -> int:
        return 1


def function_with_default(x: object = LOCK) -> object:
    return x


def closure() -> object:
    lock = LOCK
    return lambda: lock


def path_of(value: object) -> str:
    return culprit.find(value, "it", cloudpickle.dumps)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "it"),
        ([1, (2, LOCK)], "it[1][1]"),
        ({"a": {"b": LOCK}}, "it['a']['b']"),
        ({"k" * 100: LOCK}, "it['" + "k" * 58 + "…]"),
        ({LOCK}, "it{…}"),
        (Holder(a=Holder(b=LOCK)), "it.a.b"),
        (Slotted(), "it.lock"),
        (Stateful(), "it.<state>"),
        (Built(), "it.<constructor>[0]"),
        (closure(), "it.<closure 'lock'>"),
        (Holder(a=LOCK).__init__, "it.__self__.a"),  # type: ignore[misc]
        (type("Kind", (), {"a": LOCK}), "it.a"),
    ],
)
def test_path(value: object, path: str) -> None:
    found = path_of(value).replace("<constructor>", "<constructor>[0]", 1)
    assert found.removesuffix(" (a _thread.lock)") in {path, path.replace("[0]", "")}
    assert found.endswith(" (a _thread.lock)")


def test_a_function_by_value() -> None:
    function_with_default.__module__ = "__main__"
    assert path_of(function_with_default) == "it.<default 0> (a _thread.lock)"


def test_globals_and_methods_of_a_function_by_value() -> None:
    names = {"lock": LOCK, "__name__": "__main__"}
    exec("def f(*, k=1): return lock, nothing", names)  # noqa: S102
    assert path_of(names["f"]) == "it.<global 'lock'> (a _thread.lock)"
    assert path_of([len, NAMED, LOCK]) == "it[2] (a _thread.lock)"


@pytest.mark.parametrize("value", [lambda *, k=1: k, {"a": 1}, Holder(a=1), LOCK, (1,), {1}, 1.5])
def test_what_is_made_of_good_parts_is_the_culprit(value: object) -> None:
    def refuse(part: object) -> None:
        if part is value:
            raise ValueError

    assert culprit.find(value, "it", refuse) == culprit.describe("it", value)


def test_a_global_by_name_has_no_parts() -> None:
    assert culprit.find(NAMED, "it", _refuse) == f"it (a {__name__}.Named)"


class Named:
    def __reduce__(self) -> str:
        return "NAMED"


NAMED = Named()


def _refuse(_: object) -> None:
    raise ValueError


def test_a_key_is_a_culprit() -> None:
    assert path_of({LOCK: 1}).startswith("it.keys()[")


def test_users_exceptions_end_the_walk() -> None:
    assert path_of([Raising()]) == f"it[0] (a {__name__}.Raising)"
    assert path_of({BadRepr(): LOCK}).startswith("it[<")


def test_cycles_and_depth_end() -> None:
    ring: list[Any] = [LOCK]
    ring.insert(0, ring)
    assert path_of(ring) == "it[1] (a _thread.lock)"
    deep: object = LOCK
    for _ in range(100):
        deep = [deep]
    assert path_of(deep) == "it" + "[0]" * 40 + " (a list)"


def test_wide_values_end() -> None:
    assert path_of([*range(6000), LOCK]) == "it (a list)"


def test_articles() -> None:
    assert culprit.describe("x", 1) == "x (an int)"
