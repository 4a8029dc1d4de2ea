"""In a terminal the magics that show something live return what can be read."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

import notebook_ext as nb
from tests.notebook_ext.magics.typing import Typed


def test_the_graph_is_an_outline(typed: Typed, add: nb.Function[..., int]) -> None:
    call = add.spawn(1)
    assert call.get() == 2
    shown = repr(typed(f"%remote_graph {call.object_id}"))
    assert "add" in shown
    typed("import notebook_ext")
    typed(f"call = notebook_ext.FunctionCall.from_id({call.object_id!r})")
    assert repr(typed("%remote_graph call")) == repr(typed(f"%remote_graph {call.object_id}"))


def test_alone_it_is_the_newest_call(typed: Typed, add: nb.Function[..., int]) -> None:
    assert add.remote(1) == 2
    assert "add" in repr(typed("%remote_graph"))


def test_pools_and_the_dashboard_are_tables(typed: Typed, add: nb.Function[..., int]) -> None:
    assert add.remote(1) == 2
    for line in ("%remote_pool", "%remote_dashboard"):
        assert "Pools" in repr(typed(line))


@pytest.mark.parametrize(
    "line", ["%remote_graph 3", "%remote_graph nobody", "%remote_pool 3", "%remote_dashboard now"]
)
def test_what_it_cannot_show_is_one_line(typed: Typed, line: str) -> None:
    with pytest.raises(UsageError):
        typed(line)
