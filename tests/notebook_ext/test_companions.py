"""Functions as arguments: their packages go along, and workers find them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.model import Digest
from notebook_ext import companions
from notebook_ext.companions import Companions, gathering, loading, note, table_here
from notebook_ext.exception import InvalidError


@pytest.fixture
def double(live: nb.App, add: nb.Function[..., int]) -> nb.Function[..., int]:
    """Return a function that refers to another one."""

    @live.function
    def double(x: int) -> int:
        return int(add.remote(x, x))

    return double


@pytest.fixture
def apply(live: nb.App) -> nb.Function[..., Any]:
    """Return a function that calls what it gets."""

    @live.function
    def apply(function: Any, x: int) -> Any:
        return function.remote(x)

    return apply


def test_functions_are_gathered_while_something_is_encoded(
    add: nb.Function[..., int], double: nb.Function[..., int]
) -> None:
    found: Companions = {}
    data = gathering(found, pickle.dumps, [add, {"deep": (double, add)}])
    assert list(found) == [add.key, double.key]
    assert all(package.table for package in found.values())
    assert found[double.key].table.encode() in data
    assert note(add) == "", "nobody gathers any more"
    assert pickle.loads(data)[0] is add, "it is defined here"
    fails: Companions = {}
    with pytest.raises(ZeroDivisionError):
        gathering(fails, lambda: 1 // 0)
    assert note(add) == ""


def test_what_a_function_captures_is_in_its_table_and_gathered_no_more(
    add: nb.Function[..., int], double: nb.Function[..., int]
) -> None:
    found: Companions = {}
    gathering(found, pickle.dumps, double)
    assert list(found) == [double.key]
    assert {spec.key for spec in found[double.key].nested} == {add.key}
    unchanged: Companions = {}
    gathering(unchanged, pickle.dumps, double)
    assert unchanged[double.key] is found[double.key]


def test_what_is_loaded_is_found_in_the_table_it_came_from() -> None:
    assert loading(Digest("t"), table_here) == "t"
    assert table_here() == companions._here.table == ""


def test_it_is_called_in_the_worker_by_every_way(
    apply: nb.Function[..., Any], add: nb.Function[..., int], double: nb.Function[..., int]
) -> None:
    assert apply.remote(double, 4) == 8
    assert apply.remote(function=add, x=4) == 5
    assert apply.spawn(double, 5).get() == 10
    assert apply.spawn_map([add, double], [1, 2]).get(index=1) == 4
    pairs = [(function, x) for x in range(20) for function in (add, double)]
    expected = [value for x in range(20) for value in (x + 1, 2 * x)]
    assert list(apply.starmap(pairs)) == expected
    assert list(apply.starmap(iter(pairs))) == expected
    assert list(apply.map([add] * 2, [1, 2])) == [2, 3]


def test_in_containers_in_shared_arguments_and_in_what_travels_by_value(
    live: nb.App, add: nb.Function[..., int], double: nb.Function[..., int]
) -> None:
    @live.function
    def all_of(x: int, functions: Any = (), by_name: Any = None) -> list[int]:
        return [each.remote(x) for each in [*functions, *(by_name or {}).values()]]

    assert all_of.remote(3, [add], {"double": double}) == [4, 6]
    assert list(all_of.map([1, 2], kwargs={"functions": [double, add]})) == [[2, 2], [4, 3]]
    assert all_of.spawn_map([1], kwargs={"functions": [double]}).get() == [2]

    @live.function
    def calls(function: Any) -> Any:
        return function(3)

    assert calls.remote(lambda x: double.remote(x) + add.remote(x)) == 10


def test_it_is_handed_on_from_worker_to_worker(
    live: nb.App, apply: nb.Function[..., Any], double: nb.Function[..., int]
) -> None:
    @live.function
    def relay(through: Any, function: Any) -> Any:
        return through.remote(function, 6)

    assert relay.remote(apply, double) == 12


def test_it_runs_local_in_the_worker_and_finds_what_it_refers_to(
    live: nb.App, double: nb.Function[..., int]
) -> None:
    @live.function
    def here(function: Any) -> Any:
        return function.local(3), function(4), function.name

    assert here.remote(double) == (6, 8, double.name)


def test_calls_are_arguments_too(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function
    def total(calls: list[Any]) -> int:
        return sum(call.get() for call in calls)

    assert total.remote([add.spawn(1), add.spawn(2)]) == 5


def test_in_a_process_that_is_no_worker_it_is_a_name(add: nb.Function[..., int]) -> None:
    stranger = nb.Function.reference(add.key, "add", "m", table=Digest("t"))
    with pytest.raises(InvalidError, match="another process"):
        stranger.remote(1)


def test_generators_take_functions_and_are_taken(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function
    def each(function: Any, count: int) -> Any:
        for x in range(count):
            yield function.remote(x)

    @live.function
    def summed(function: Any, other: Any) -> int:
        return sum(function.remote_gen(other, 3))

    assert list(each.remote_gen(add, 3)) == [1, 2, 3]
    assert summed.remote(each, add) == 6
