"""Keys that a dict holds to be one are one here, in every process."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import pathlib
import subprocess
import sys
import uuid
from collections import namedtuple
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_ext.state.keys import encoded


class Number(enum.IntEnum):
    ONE = 1


class Text(enum.StrEnum):
    A = "a"


class Colour(enum.Enum):
    RED = 1


Pair = namedtuple("Pair", "x y")  # noqa: PYI024  the plain one is what people key by


@dataclasses.dataclass(frozen=True)
class Point:
    x: object
    y: object = 0


EQUAL = [
    [1, 1.0, True, Decimal(1), Fraction(1), 1 + 0j, Number.ONE, np.int64(1), np.float32(1)],
    [0.5, Fraction(1, 2), Decimal("0.5"), np.float64(0.5)],
    [0, -0.0, False],
    [2**200, float(2**200)],
    [math.inf, Decimal("Infinity")],
    [1.5 + 2j, complex(1.5, 2.0)],
    ["a", Text.A, np.str_("a")],
    [(1, "a"), (True, Text.A), Pair(1, "a")],
    [frozenset([1, "b", "c"]), frozenset(["c", 1.0, "b"])],
]
DIFFERENT = [
    None, 0, 1, "1", b"1", "", b"", (), (1,), ((1,),), (1, 1), ("11",), ("1", "1"), 0.1,
    Decimal("0.1"), -1, 1j, math.inf, -math.inf, math.nan, frozenset(), frozenset([1]), Colour.RED,
    Point(1), Point(2), Point("1"), uuid.UUID(int=1), uuid.UUID(int=2), dt.date(2026, 1, 1),
    pathlib.PurePosixPath("/a"), "a", b"a", Point, Pair, len, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("keys", EQUAL, ids=repr)
def test_equal_keys_are_one(keys: list[object]) -> None:
    assert len(dict.fromkeys(keys)) == 1
    assert len({encoded(key) for key in keys}) == 1


def test_numbers_that_python_does_not_write_in_base_10() -> None:
    large = 10**5_000
    assert len({encoded(each) for each in (large, large + 1, -large, Fraction(large, 3))}) == 4
    assert encoded((large,)) == encoded((large,))


def test_different_keys_are_different() -> None:
    assert len({encoded(key) for key in DIFFERENT}) == len(DIFFERENT)


keys = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=4),
        st.binary(max_size=4),
        st.fractions(max_denominator=8),
        st.complex_numbers(allow_nan=False),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=5,
)


@given(keys, keys)
@settings(max_examples=60)
def test_two_keys_are_one_exactly_where_a_dict_says_so(one: object, other: object) -> None:
    assert (encoded(one) == encoded(other)) is (one == other)


def test_which_parts_are_one_object_makes_no_difference() -> None:
    part = "q" * 3
    assert encoded(Point(part, part)) == encoded(Point("qqq", "qq" + "q"))
    assert encoded(Point(frozenset("abc"))) == encoded(Point(frozenset("cba")))


def test_another_process_with_another_hash_seed_finds_them() -> None:
    source = (
        "from notebook_ext.state.keys import encoded; import uuid, datetime\n"
        "print(encoded((frozenset(['x', 'y', 'z']), uuid.UUID(int=7),"
        " datetime.date(2026, 1, 2), 'ü', 1.25)).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_what_cannot_be_a_key_is_a_type_error() -> None:
    unhashable: list[object] = [[], {}, ([],)]
    for bad in unhashable:
        with pytest.raises(TypeError, match="unhashable type"):
            encoded(bad)
    with pytest.raises(TypeError, match="a generator cannot be a key of a Dict"):
        encoded(x for x in "")
    loop = Point([])
    object.__setattr__(loop, "x", loop)
    with pytest.raises(TypeError, match="a _Named that holds itself"):
        encoded(_Named(loop))


class _Named:
    def __init__(self, part: object) -> None:
        self.part = part
