from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext import marks
from notebook_ext.exception import InvalidError


def plain(xs: list[int]) -> list[int]:
    return xs


def other(xs: list[int]) -> list[int]:
    return xs


def generator(xs: list[int]) -> Iterator[int]:
    yield from xs


def starred(*xs: int) -> list[int]:
    return list(xs)


def keywords(**xs: int) -> list[int]:
    return list(xs.values())


class Plain:
    """A class."""


class WithBatched:
    """A class with a batched method."""

    @nb.method()
    @nb.batched(max_batch_size=2, wait_ms=0)
    def run(self, xs: list[int]) -> list[int]:
        return xs

    @nb.method()
    def other(self) -> None:
        """Stand beside it."""


class WithConcurrent:
    """A class with a concurrent method."""

    @nb.concurrent(max_inputs=2)
    @nb.method()
    def run(self, x: int) -> int:
        return x


def fresh() -> Callable[[list[int]], list[int]]:
    def function(xs: list[int]) -> list[int]:
        return xs

    return function


def test_a_mark_leaves_the_function_as_it_was() -> None:
    function = fresh()
    assert nb.concurrent(max_inputs=3)(function) is function
    assert function([1]) == [1]
    assert marks.marked_options(function) == {"max_inputs": 3, "target_inputs": None}
    assert marks.marked_options(fresh()) == {}
    assert marks.marked_options(3) == {}


def test_what_a_mark_says_is_what_the_function_asks_for() -> None:
    app = nb.App()
    options = app.function()(nb.concurrent(max_inputs=8, target_inputs=6)(fresh())).info().options
    assert (options.max_inputs, options.target_inputs) == (8, 6)
    options = app.function()(nb.batched(max_batch_size=16, wait_ms=50)(fresh())).info().options
    assert (options.max_batch_size, options.batch_wait_seconds) == (16, 0.05)
    options = app.function(allow_concurrent_inputs=5)(fresh()).info().options
    assert (options.max_inputs, options.target_inputs) == (5, 0)


def test_variants_have_pools_of_their_own_and_the_later_value_wins() -> None:
    function = nb.App().function()(nb.concurrent(max_inputs=8)(fresh()))
    less = function.with_concurrency(max_inputs=4, target_inputs=2)
    assert (less.info().options.max_inputs, less.info().options.target_inputs) == (4, 2)
    assert len({function.key, less.key, less.with_concurrency(max_inputs=1).key}) == 3
    groups = less.with_concurrency(max_inputs=1).with_batching(max_batch_size=2, wait_ms=0)
    assert groups.info().options.max_batch_size == 2
    assert less.with_options(allow_concurrent_inputs=9).info().options.max_inputs == 9


def test_a_class_can_be_concurrent() -> None:
    assert nb.concurrent(max_inputs=2)(Plain) is Plain
    assert marks.marked_options(Plain)["max_inputs"] == 2

    class Below(Plain):
        """What a class inherits is read by whoever reads its classes."""

    assert marks.marked_options(Below) == {}


BAD: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: nb.concurrent(max_inputs=0), ("max_inputs=0", "an int, 1 to 1000")),
    (lambda: nb.concurrent(max_inputs=True), ("max_inputs=True", "an int")),
    (lambda: nb.concurrent(max_inputs=2.5), ("max_inputs=2.5", "an int")),  # type: ignore[arg-type]
    (lambda: nb.concurrent(max_inputs=1001), ("max_inputs=1001", "1 to 1000")),
    (
        lambda: nb.concurrent(max_inputs=2, target_inputs=3),
        ("target_inputs=3", "at most max_inputs=2"),
    ),
    (lambda: nb.concurrent(max_inputs=2, target_inputs=0), ("target_inputs=0", "an int from 1")),
    (lambda: nb.concurrent(plain), ("@concurrent", "needs options", "max_inputs=10")),  # type: ignore[arg-type]
    (lambda: nb.batched(max_batch_size=0, wait_ms=1), ("max_batch_size=0", "an int, 1 to 1000")),
    (lambda: nb.batched(max_batch_size=1, wait_ms=-1), ("wait_ms=-1", "an int, 0 to 600000")),
    (lambda: nb.batched(max_batch_size=1, wait_ms=1.5), ("wait_ms=1.5", "an int")),  # type: ignore[arg-type]
    (lambda: nb.batched(plain), ("@batched", "needs options", "wait_ms=100")),  # type: ignore[arg-type]
    (lambda: batched(Plain), ("@batched", "allowed is a function")),
    (lambda: batched(3), ("@batched on 3", "allowed is a function")),
    (lambda: nb.concurrent(max_inputs=2)(3), ("@concurrent on 3", "a function or a class")),
    (lambda: batched(generator), ("generator", "returns a list")),
    (lambda: batched(starred), ("takes *xs", "arguments with names")),
    (lambda: batched(keywords), ("takes **xs", "arguments with names")),
    (lambda: batched(nb.App().function()(plain)), ("@batched", "below @app.function()", "swap")),
    (
        lambda: nb.concurrent(max_inputs=2)(nb.App().function()(plain)),
        ("@concurrent", "below @app.function()", "swap"),
    ),
    (lambda: batched(batched(fresh())), ("max_batch_size is given twice", "keep one")),
    (
        lambda: nb.App().function()(nb.concurrent(max_inputs=2)(batched(fresh()))),
        ("max_inputs=2", "one group at a time", "max_containers"),
    ),
    (
        lambda: nb.App().function(allow_concurrent_inputs=2)(nb.concurrent(max_inputs=3)(fresh())),
        ("allow_concurrent_inputs=2", "max_inputs=3", "keep one"),
    ),
    (
        lambda: nb.App().function(single_use_containers=True, allow_concurrent_inputs=2),
        ("single_use_containers=True", "max_inputs=1"),
    ),
    (
        lambda: nb.App().function(single_use_containers=True)(batched(fresh())),
        ("single_use_containers=True", "max_batch_size=1"),
    ),
    (
        lambda: nb.App().function()(nb.concurrent(max_inputs=2)(generator)),
        ("max_inputs=2", "generator", "max_containers"),
    ),
    (
        lambda: nb.App().function(is_generator=True)(batched(fresh())),
        ("max_batch_size=2", "generator"),
    ),
    (lambda: nb.App().cls()(WithBatched), ("max_batch_size=2", "WithBatched.run", "only remote")),
    (lambda: nb.App().cls()(WithConcurrent), ("max_inputs=2", "WithConcurrent.run", "the class")),
    (lambda: remote().with_concurrency(max_inputs=0), ("max_inputs=0", "1 to 1000")),
    (lambda: remote().with_batching(max_batch_size=2, wait_ms=-1), ("wait_ms=-1", "0 to 600000")),
    (
        lambda: nb.App().function()(starred).with_batching(max_batch_size=2, wait_ms=0),
        ("takes *xs",),
    ),
]


def batched(thing: Any) -> Any:
    return nb.batched(max_batch_size=2, wait_ms=0)(thing)


def remote() -> nb.Function[..., Any]:
    return nb.App().function()(other)


@pytest.mark.parametrize(("wrong", "said"), BAD)
def test_what_cannot_be_names_option_value_and_remedy(
    wrong: Callable[[], Any], said: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidError) as caught:
        wrong()
    for each in said:
        assert each in str(caught.value)
