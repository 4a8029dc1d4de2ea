"""Names of `-o` that no cell can leave, and all the ways in which one could after all."""

from __future__ import annotations

import ast
import functools
from types import FunctionType
from typing import Any

import pytest

from notebook_ext.magics import cell_asked, cell_names


def never_left(source: str, notebook: dict[str, Any] | None = None) -> tuple[str, ...]:
    tree = ast.parse(source)
    return cell_asked.never_left(["nope"], tree, cell_names.of(tree), notebook or {})


def of_the_notebook(source: str) -> Any:
    """Return what `source` leaves as `thing`, as if a notebook had defined it."""
    names: dict[str, Any] = {"__name__": "__main__", "functools": functools}
    exec(source, names)  # noqa: S102  as a cell does
    return names["thing"]


@pytest.mark.parametrize(
    "source",
    ["x = 1", "print('nope')", "xs.append(1)", "def f(nope): return 1\ny = f(2)", "import numpy"],
)
def test_what_binds_no_such_name_is_refused(source: str) -> None:
    assert never_left(source) == ("nope",)


@pytest.mark.parametrize(
    "source",
    [
        "nope = 1",
        "if x: nope = 1",
        "nope.append(1)",
        "nope[0] = 1",
        "for nope in x: pass",
        "(nope := 1)",
        "import numpy as nope",
        "from elsewhere import *",
        "with x as nope: pass",
        "def f():\n    global nope\n    nope = 1\nf()",
        "exec('nope = 1')",
        "globals()['nope'] = 1",
        "import __main__\nsetattr(__main__, 'nope', 1)",
        "get_ipython().run_line_magic('load', 'x')",
    ],
)
def test_what_may_bind_it_passes(source: str) -> None:
    assert never_left(source) == ()


def test_a_name_of_the_notebook_passes() -> None:
    assert never_left("x = 1", {"nope": 1}) == ()


@pytest.mark.parametrize(
    "source",
    [
        "def thing():\n    global nope\n    nope = 1",
        "def thing():\n    def inner():\n        global nope\n        nope = 1\n    inner()",
        "@functools.lru_cache\ndef thing():\n    exec('nope = 1')",
        "class thing:\n    @property\n    def p(self):\n        global nope\n        nope = 1",
        "class thing:\n    @staticmethod\n    def p():\n        globals()['nope'] = 1",
    ],
)
def test_a_function_of_the_notebook_may_bind_it(source: str) -> None:
    assert never_left("x = 1", {"thing": of_the_notebook(source)}) == ()


def test_other_things_of_the_notebook_bind_nothing() -> None:
    plain = of_the_notebook("def thing(): return 1")
    assert isinstance(plain, FunctionType)
    held = {"plain": plain, "library": functools.wraps, "kind": dict, "value": 3}
    assert never_left("x = 1", held) == ("nope",)
