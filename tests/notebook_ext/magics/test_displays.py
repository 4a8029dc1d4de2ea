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
    ("line", "said"),
    [
        ("%remote_graph 3", "3 is no id of a call (fc-…), and no variable holds one"),
        ("%remote_graph nobody", "nobody: the notebook has no nobody"),
        ("%remote_graph a b", "takes one call: its id, or a variable that holds it"),
        ("%remote_pool 3", "3 is neither a Function nor a method of an instance of a Cls"),
        ("%remote_pool nope", "nope: the notebook has no nope"),
        ("%remote_pool slow fast", "takes one function, or nothing for all of them; %remote_pool?"),
        ("%remote_pool 1 / 0", "1 / 0: ZeroDivisionError"),
        ("%remote_dashboard now", "takes no argument"),
    ],
)
def test_what_it_cannot_show_is_one_line(typed: Typed, line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        typed(line)
    assert str(caught.value).startswith(f"{line.split(maxsplit=1)[0]}: {said}")
    assert "\n" not in str(caught.value)
