"""A `Dict` is a dict: from here, from threads and tasks, and from functions on workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker import shelf
from notebook_ext.exception import RequestSizeError, SerializationError


@pytest.fixture(scope="module")
def shared(live: nb.App) -> Iterator[nb.Dict]:
    assert live.name
    with nb.Dict.ephemeral() as made:
        yield made


@pytest.fixture
def empty(shared: nb.Dict) -> nb.Dict:
    shared.clear()
    return shared


def test_one_entry(empty: nb.Dict) -> None:
    empty["a"] = [1]
    empty[1] = "one"
    assert (empty["a"], empty[1.0], empty.get("b"), empty.get("b", 2)) == ([1], "one", None, 2)
    assert ("a" in empty, "b" in empty, empty.contains(True)) == (True, False, True)
    with pytest.raises(KeyError, match="'b'"):
        empty["b"]
    assert empty.put("a", 2)
    assert not empty.put("a", 3, skip_if_exists=True)
    assert empty.put("c", 3, skip_if_exists=True)
    assert (empty.pop("a"), empty.pop("a", None), empty.pop("c")) == (2, None, 3)
    with pytest.raises(KeyError):
        empty.pop("a")
    with pytest.raises(KeyError):
        del empty["a"]
    del empty[True]
    assert len(empty) == 0
    assert empty, "a handle is true, as Modal's"


class MappingLike:
    """What `dict.update` takes too."""

    def keys(self) -> list[str]:
        return ["z"]

    def __getitem__(self, _key: str) -> int:
        return 4


def test_all_entries(empty: nb.Dict) -> None:
    empty.update({"x": 1, 2: 2}, y=3)
    empty.update([("z", 4)])
    empty.update(empty)
    like: Any = MappingLike()
    empty.update(like)
    empty["x"] = 10
    assert list(empty) == list(empty.keys()) == ["x", 2, "y", "z"]
    assert list(empty.values()) == [10, 2, 3, 4]
    assert dict(empty) == dict(empty.items()) == {"x": 10, 2: 2, "y": 3, "z": 4}
    assert (empty.len(), empty.info().count) == (4, 4)
    empty.clear()
    assert list(empty.items()) == []


def test_more_than_a_page(empty: nb.Dict, monkeypatch: pytest.MonkeyPatch) -> None:
    several = 2 * shelf.PAGE_ROWS + 1
    empty.update((at, -at) for at in range(several))
    assert dict(empty) == {at: -at for at in range(several)}
    monkeypatch.setattr(shelf, "ACT_FRAMES", 4)
    with pytest.raises(RequestSizeError, match="3 entries in one update; allowed are 2 entries"):
        empty.update({1: 1, 2: 2, 3: 3})
    monkeypatch.setattr(shelf, "ACT_BYTES", 10)
    with pytest.raises(RequestSizeError, match="Update in parts"):
        empty.update({1: 1, 2: 2})


def test_what_is_no_key_or_value(empty: nb.Dict) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        empty[[]] = 1
    with pytest.raises(SerializationError, match="value of 'a'"):
        empty["a"] = threading.Lock()
    with pytest.raises(RequestSizeError, match="the key is"):
        empty["k" * shelf.KEY_BYTES] = 1
    with pytest.raises(RequestSizeError, match="into a file of a Volume"):
        empty["a"] = bytes(shelf.VALUE_BYTES + 1)
    assert len(empty) == 0


def test_one_of_many_threads_sets_a_key_first(empty: nb.Dict) -> None:
    won: list[int] = []

    def claim(number: int) -> None:
        if empty.put("job", number, skip_if_exists=True):
            won.append(number)

    threads = [threading.Thread(target=claim, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [empty["job"]] == won


def test_in_a_task(empty: nb.Dict, loop: asyncio.Runner) -> None:
    async def inside() -> list[object]:
        await asyncio.gather(*[empty.put.aio(at, at) for at in range(5)])
        await empty.update.aio({5: 5})
        found = [key async for key in empty.keys.aio()]
        found += [value async for value in empty.values()]
        return [*found, await empty.pop.aio(0), await empty.len.aio(), await empty.contains.aio(9)]

    assert loop.run(inside()) == [*range(6), *range(6), 0, 5, False]


def test_a_function_that_captures_one_uses_the_same(live: nb.App, empty: nb.Dict) -> None:
    @live.function
    def counts(name: str) -> int:
        empty[name] = empty.get("start", 0) + len(name)
        return empty.len()

    empty["start"] = 10
    assert max(counts.map(["a", "bb"])) == 3
    assert (empty["a"], empty["bb"]) == (11, 12)
    assert live.function(lambda given: given["bb"]).remote(empty) == 12
