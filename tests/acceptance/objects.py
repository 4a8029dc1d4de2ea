"""Makes calls of every kind again and again, and prints, as JSON, of which types more is left."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator

import notebook_ext as nb

TIMES = 30
SECONDS = 4.0

app = nb.App("objects")


@app.function()
def same(x: int) -> int:
    return x


@app.function()
def size(data: object) -> int:
    assert isinstance(data, bytes)
    return len(data)


@app.function()
def items(number: int) -> Iterator[int]:
    yield from range(number)


@app.function()
def fails(x: int) -> None:
    raise ValueError(x)


def quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(ValueError, nb.exception.Error):
        call()


async def awaited(x: int) -> None:
    await same.remote.aio(x)
    await (await same.spawn.aio(x)).get.aio()


KINDS: dict[str, Callable[[int], object]] = {
    "remote": same.remote,
    "remote that fails": lambda x: quietly(lambda: fails.remote(x)),
    "awaited": lambda x: asyncio.run(awaited(x)),
    "spawn": same.spawn,
    "spawn and get": lambda x: same.spawn(x).get(),
    "spawn that fails": lambda x: quietly(lambda: fails.spawn(x).get()),
    "refused": lambda x: quietly(lambda: same.with_options(gpu="none-such").spawn(x).get()),
    "cancelled": lambda x: same.spawn(x).cancel(),
    "found by its id": lambda x: nb.FunctionCall.from_id(same.spawn(x).object_id).get(),
    "gather": lambda x: nb.gather(same.spawn(x), same.spawn(x)),
    "map": lambda x: list(same.map(range(x % 5))),
    "map that is left": lambda _: next(iter(same.map(range(50)))),
    "map that fails": lambda _: quietly(lambda: list(fails.map(range(3)))),
    "spawn_map": lambda _: list(same.spawn_map(range(5)).iter()),
    "generator": lambda _: list(items.remote_gen(5)),
    "generator that is left": lambda _: next(iter(items.remote_gen(5))),
    "spawned generator": lambda _: list(items.spawn(5).get_gen()),
    "shared object": lambda x: size.remote(nb.put(bytes(2_000 + x))),
}


def counts() -> collections.Counter[str]:
    gc.collect()
    return collections.Counter(type(each).__name__ for each in gc.get_objects())


def kept(call: Callable[[int], object]) -> dict[str, int]:
    """Return of which types there are more, once what was dropped has gone."""
    for x in range(TIMES):
        call(x)
    before = counts()
    for x in range(TIMES):
        call(x)
    until = time.monotonic() + SECONDS
    while True:
        after = counts()
        more = {name: after[name] - before[name] for name in after}
        left = {name: count for name, count in more.items() if count >= TIMES // 2}
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


if __name__ == "__main__":
    nb.config.progress = "off"
    json.dump({name: left for name, call in KINDS.items() if (left := kept(call))}, sys.stdout)
