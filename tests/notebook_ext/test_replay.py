"""What failed on a worker fails here again, with the same arguments and the same function."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from typing import Any

import numpy as np
import pytest

import notebook_ext as nb
from kernel_worker.errors import DeserializationError
from notebook_ext.exception import InvalidError, UserCodeException
from tests.worker.harness import define

limit = 3


def checked(x: int, extra: dict[str, int] | None = None) -> int:
    extra = extra or {}
    extra["seen"] = extra.get("seen", 0) + 1
    if x >= limit:
        raise ValueError(x, limit, extra["seen"])
    return x


def failure(run: Any) -> Any:
    with pytest.raises(ValueError, match=r"\(") as caught:
        run()
    return caught.value


def test_the_same_input_fails_here_with_the_frames_of_the_function(live: nb.App) -> None:
    f = live.function(name="checked")(checked)
    error = failure(lambda: f.remote(5, extra={"seen": 3}))
    assert error.args == (5, 3, 4)
    for _ in range(2):  # the arguments are unpickled anew
        again = failure(error.rerun_local)
        assert again.args == error.args
        last = traceback.extract_tb(again.__traceback__)[-1]
        assert (last.name, last.filename) == ("checked", __file__)
    assert repr(error.rerun_local) == "<replays checked(5, extra={'seen': 3}) here>"


@pytest.mark.parametrize("shape", ["map", "wrapped", "spawned", "spawned many", "generator"])
def test_each_way_of_calling_gives_the_input_that_failed(live: nb.App, shape: str) -> None:
    f = live.function(name="checked")(checked)

    def items(x: int) -> Any:
        yield x
        yield checked(x)

    g = live.function(name="items")(items)
    runs = {
        "map": lambda: list(f.map([1, 2, 9], kwargs={"extra": {"seen": 7}})),
        "spawned": lambda: f.spawn(9, {"seen": 7}).get(),
        "spawned many": lambda: f.spawn_map([1, 9], [None, {"seen": 7}]).get(index=1),
        "generator": lambda: list(g.remote_gen(9)),
    }
    if shape == "wrapped":
        found = list(f.map([1, 9, 2], [None, {"seen": 7}, None], return_exceptions=True))
        assert isinstance(found[1], UserCodeException)
        error: Any = found[1].exc
    else:
        error = failure(runs[shape])
    replay = error.rerun_local
    again = failure(lambda: list(replay()) if shape == "generator" else replay())
    assert again.args == error.args
    assert again.args[0] == 9


def test_a_large_array_that_inputs_share_is_there_again(live: nb.App) -> None:
    def largest(x: int, table: Any) -> int:
        table[0] = len(table)
        raise ValueError(x, int(table.sum()))

    f = live.function(name="largest")(largest)
    table = np.zeros(100_000)
    error = failure(lambda: list(f.map([1], kwargs={"table": table})))
    assert error.args == (1, 100_000)
    for _ in range(2):
        assert failure(error.rerun_local).args == error.args
    assert table[0] == 0


def test_captured_globals_are_as_they_were_at_the_call(live: nb.App) -> None:
    source = """
    limit = 3
    def within(x):
        if x >= limit:
            raise ValueError(x, limit)
    """
    within = define(source, "within")
    error = failure(lambda: live.function(name="within")(within).remote(5))
    names = within.__globals__
    names["limit"] = 100
    assert failure(error.rerun_local).args == (5, 3)
    assert names["limit"] == 100, "and then as they are now"
    del names["limit"]
    assert failure(error.rerun_local).args == (5, 3)
    assert "limit" not in names


def test_a_coroutine_is_to_be_awaited(live: nb.App) -> None:
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return checked(x)

    error = failure(lambda: live.function(name="slow")(slow).remote(5))
    assert failure(lambda: asyncio.run(error.rerun_local())).args == (5, 3, 1)


def test_an_exception_travels_without_its_replay(live: nb.App) -> None:
    f = live.function(name="checked")(checked)
    error = failure(lambda: f.remote(5))
    copy = pickle.loads(pickle.dumps(error))
    assert copy.args == error.args
    with pytest.raises(InvalidError, match=r"checked.local\("):
        copy.rerun_local()


def test_where_the_arguments_are_not_here_it_says_what_to_do(live: nb.App) -> None:
    f = live.function(name="checked")(checked)
    call = f.spawn(5)
    failure(call.get)
    found: nb.FunctionCall[int] = nb.FunctionCall.from_id(call.object_id)
    error = failure(found.get)
    with pytest.raises(InvalidError, match="cannot be run again here"):
        error.rerun_local()


def test_what_cannot_be_decoded_here_says_so(live: nb.App) -> None:
    f = live.function(name="odd")(lambda x: x)
    with pytest.raises(DeserializationError) as caught:
        f.remote(Odd())
    with pytest.raises(DeserializationError):
        caught.value.rerun_local()  # type: ignore[attr-defined]


class Odd:
    """Cannot be unpickled anywhere."""

    def __reduce__(self) -> Any:
        return int, ("x",)
