"""Dicts and queues are found by name, made, listed, removed, and travel as names."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError, NotFoundError
from tests.waiting import wait_until


@pytest.mark.parametrize("kind", [nb.Dict, nb.Queue])
def test_by_name(live: nb.App, kind: type[nb.Dict | nb.Queue]) -> None:
    assert live.name
    name = f"by.name-{kind.__name__}"
    with pytest.raises(NotFoundError, match=f"there is no {kind.__name__.lower()} '{name}'"):
        kind.lookup(name)
    made = kind.lookup(name, create_if_missing=True)
    assert (made.name, kind.lookup(name), kind.from_id(made.object_id)) == (name, made, made)
    assert repr(made) == f"<{kind.__name__} {name}>"
    assert pickle.loads(pickle.dumps(made)) == made
    assert len({made, kind.from_name(name)}) == 1
    assert made != name
    assert made.info().count == 0
    assert made in kind.objects.list()
    with pytest.raises(InvalidError, match="already"):
        kind.objects.create(name)
    kind.objects.create(name, allow_existing=True)
    kind.delete(name)
    with pytest.raises(NotFoundError):
        kind.lookup(name)
    with pytest.raises(NotFoundError):
        kind.delete(name)
    kind.objects.delete(name, allow_missing=True)


@pytest.mark.parametrize("kind", [nb.Dict, nb.Queue, nb.Volume])
def test_what_waits_can_be_awaited(
    live: nb.App, loop: asyncio.Runner, kind: type[nb.Dict | nb.Queue | nb.Volume]
) -> None:
    assert live.name

    async def inside() -> object:
        made = await kind.lookup.aio("awaited", create_if_missing=True)
        assert (await made.info.aio()).name == "awaited"
        await kind.delete.aio("awaited")
        await kind.delete.aio("awaited", allow_missing=True)
        return await kind.lookup.aio("awaited")

    with pytest.raises(NotFoundError):
        loop.run(inside())
    with pytest.raises(InvalidError, match="alow_missing"):
        kind.delete("awaited", alow_missing=True)


def test_an_id_of_another_kind_or_of_nothing_is_refused() -> None:
    wrong: Any
    for wrong in ("", "di-", "qu-x", "di-a/b", "di-" + "x" * 65, None):
        with pytest.raises(InvalidError, match="allowed is what object_id of a Dict says"):
            nb.Dict.from_id(wrong)


def test_an_ephemeral_one_ends_with_its_block(live: nb.App, loop: asyncio.Runner) -> None:
    assert live.name
    with nb.Dict.ephemeral() as found:
        found["a"] = 1
        assert (found.name, repr(found)) == (None, "<Dict ephemeral>")
        assert pickle.loads(pickle.dumps(found))["a"] == 1
    with pytest.raises(NotFoundError, match="has ended with its owner"):
        found.get("a")

    async def inside() -> nb.Queue:
        async with nb.Queue.ephemeral() as queue:
            await queue.put.aio(1)
            assert await queue.get.aio() == 1
            return queue

    with pytest.raises(NotFoundError):
        loop.run(inside()).put(1)


def test_an_ephemeral_one_ends_with_its_process(live: nb.App) -> None:
    @live.function(single_use_containers=True)
    def makes() -> nb.Dict:
        kept = nb.Dict.ephemeral().__enter__()
        kept["a"] = 1
        return kept

    left = makes.remote()

    def is_gone() -> bool:
        try:
            left.len()
        except NotFoundError:
            return True
        return False

    wait_until(is_gone)
