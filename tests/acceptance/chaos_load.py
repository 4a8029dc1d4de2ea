"""The load of the chaos test: a script that makes calls of every kind until it is told to stop.

Usage: `python chaos_load.py DIRECTORY`. Every execution of an input leaves a line in
DIRECTORY/ran-KIND; a file DIRECTORY/stop ends the load, when every kind was made once.
DIRECTORY/tally then tells, as JSON, per kind how many inputs it gave, how many came back right, and
what the others raised. Anything that is wrong ends it with a traceback.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import notebook_ext as nb
from notebook_ext import inquiry, process

DIRECTORY = sys.argv[1]
INPUTS = 40
LINE_SECONDS = 30.0

app = nb.App("chaos")


def ran(kind: str, key: int) -> None:
    with Path(DIRECTORY, f"ran-{kind}").open("a") as file:
        file.write(f"{key}\n")


@app.function()
def triple(kind: str, key: int) -> int:
    ran(kind, key)
    time.sleep(0.01)
    return key * 3


@app.function(retries=nb.Retries(10, initial_delay=0.0))
def second_try(key: int) -> int:
    ran("retried", key)
    mark = Path(DIRECTORY, f"mark-{key}")
    if not mark.exists():
        mark.touch()
        raise ValueError(key)
    mark.unlink()
    return key * 3


@app.function()
def tree(key: int) -> int:
    """Give three times the sum of two keys, each worked on by a call of its own."""
    ran("nested", key)
    return sum(triple.starmap([("leaf", 2 * key), ("leaf", 2 * key + 1)]))


@app.function()
def count(key: int, items: int) -> Iterator[int]:
    ran("streamed", key)
    for item in range(items):
        time.sleep(0.002)
        yield key + item


@app.function(rerun_on_crash=False, scaledown_window=1)
def once(key: int) -> int:
    ran("once", key)
    time.sleep(0.01)
    return key * 3


@app.function()
def sleeper(key: int) -> None:
    print("sleeps", flush=True)  # noqa: T201  it is kept with the call
    ran("cancelled", key)
    time.sleep(600)


@app.function()
def fails(key: int) -> None:
    ran("kept", key)
    raise ValueError(key)


shop = nb.App("chaos-shop")


@shop.function()
def price(key: int) -> int:
    return key * 3


class Tally:
    """What became of the inputs of one kind."""

    def __init__(self) -> None:
        self.given = 0
        self.right = 0
        self.failures: dict[str, int] = {}

    def keys(self, number: int = INPUTS) -> range:
        self.given += number
        return range(self.given - number, self.given)

    def check(self, keys: range, values: list[object]) -> None:
        assert len(values) == len(keys), f"{len(values)} outcomes of {len(keys)} inputs"
        for key, value in zip(keys, values, strict=True):
            if isinstance(value, BaseException):
                self.note(value)
            else:
                assert value == key * 3, f"{value} of {key}"
                self.right += 1

    def note(self, error: BaseException) -> None:
        cause = getattr(error, "exc", error)
        assert isinstance(cause, nb.exception.InternalFailure), repr(error)
        reason = next(
            (word for word in ("3 times", "twice", "given", "in a row") if word in str(cause)), "?"
        )
        assert reason != "?", str(cause)
        self.failures[reason] = self.failures.get(reason, 0) + 1


def attached(tally: Tally) -> None:
    keys = tally.keys()
    pairs = [("attached", key) for key in keys]
    tally.check(keys, list(triple.starmap(pairs, return_exceptions=True)))


def spawned(tally: Tally) -> None:
    keys = tally.keys()
    call = triple.spawn_map(["spawned"] * len(keys), keys)
    found = nb.FunctionCall.from_id(call.object_id)
    tally.check(keys, _results(found, len(keys)))


def retried(tally: Tally) -> None:
    keys = tally.keys(10)
    tally.check(keys, list(second_try.map(keys, return_exceptions=True)))
    keys = tally.keys(10)
    tally.check(keys, _results(second_try.spawn_map(keys), len(keys)))


def nested(tally: Tally) -> None:
    for key in tally.keys(5):
        try:
            value = tree.spawn(key).get()
        except nb.exception.InternalFailure as error:
            tally.note(error)
            continue
        assert value == 3 * (4 * key + 1), value
        tally.right += 1


def streamed(tally: Tally) -> None:
    for key in tally.keys(2):
        _stream(tally, key)


def _stream(tally: Tally, key: int) -> None:
    items: list[int] = []
    try:
        items.extend(count.remote_gen(key, 50) if key % 2 else count.spawn(key, 50).get_gen())
    except nb.exception.InternalFailure as error:
        tally.note(error)
    else:
        tally.right += 1
        assert len(items) == 50
    assert items == list(range(key, key + len(items)))


def at_most_once(tally: Tally) -> None:
    keys = tally.keys(20)
    if keys.start % 40:
        tally.check(keys, list(once.map(keys, return_exceptions=True)))
    else:
        tally.check(keys, _results(once.spawn_map(keys), len(keys)))


def cancelled(tally: Tally) -> None:
    """Cancel calls that run, asking the worker and killing it in turn."""
    for key in tally.keys(2):
        call = sleeper.spawn(key)
        seen = Path(DIRECTORY, "ran-cancelled")
        while not (seen.exists() and str(key) in seen.read_text().split()):
            time.sleep(0.02)
        call.cancel(terminate_containers=bool(key % 2))
        try:
            call.get()
        except nb.exception.CallCancelledError:
            tally.right += 1


def deployed(tally: Tally) -> None:
    (key,) = tally.keys(1)
    shop.deploy()
    assert nb.Function.from_name("chaos-shop", "price").remote(key) == key * 3
    _stop_shop()
    tally.right += 1


def _stop_shop() -> None:
    """Ask until it is said: a question that a broker took along when it died has no answer."""
    while True:
        try:
            inquiry.stop_app("chaos-shop")
        except nb.exception.ConnectionError:
            continue
        except nb.exception.NotFoundError:
            pass
        return


def rejected(tally: Tally) -> None:
    (key,) = tally.keys(1)
    try:
        triple.with_options(gpu="none-such").spawn("rejected", key).get()
    except nb.exception.Error:
        tally.right += 1


def kept(tally: Tally) -> None:
    """Have workers keep the frames of what failed: of a pool the last one does."""
    nb.config.keep_failed_seconds = 60
    for key in tally.keys(2):
        try:
            fails.remote(key)
        except ValueError:
            tally.right += 1
    nb.config.keep_failed_seconds = 0


def lined(tally: Tally) -> None:
    """Call in a row until there was a direct line, while nobody else waits, and after its end."""
    used, until = 0, time.monotonic() + LINE_SECONDS
    while used < 10 and time.monotonic() < until:
        used += _priced(tally)
    while process.current().lines.count:
        time.sleep(0.02)
    _priced(tally)


def _priced(tally: Tally) -> int:
    """Call once; return how many lines there are then."""
    (key,) = tally.keys(1)
    assert price.remote(key) == key * 3
    tally.right += 1
    return process.current().lines.count


def shelved(tally: Tally) -> None:
    """Put into a queue and a dict and take it all out: nothing is lost, nothing is there twice."""
    keys = tally.keys(10)
    queue = nb.Queue.from_name("chaos-queue", create_if_missing=True)
    book = nb.Dict.from_name("chaos-dict", create_if_missing=True)
    queue.put_many(list(keys))
    book.update({key: key * 3 for key in keys})
    assert queue.get_many(len(keys), block=False) == list(keys)
    assert queue.len() == 0
    tally.check(keys, [book.pop(key) for key in keys])
    assert book.len() == 0


def _results(call: nb.FunctionCall[int], number: int) -> list[object]:
    results: list[object] = []
    for index in range(number):
        try:
            results.append(call.get(index=index))
        except nb.exception.InternalFailure as error:
            results.append(error)
    return results


KINDS = (
    attached,
    spawned,
    retried,
    nested,
    streamed,
    at_most_once,
    cancelled,
    deployed,
    rejected,
    lined,
    shelved,
)


def main() -> int:
    tallies = {kind.__name__: Tally() for kind in (*KINDS, kept)}
    broken: list[str] = []

    def go_on(kind: Callable[[Tally], None]) -> None:
        try:
            kind(tallies[kind.__name__])
            while not Path(DIRECTORY, "stop").exists() and not broken:
                kind(tallies[kind.__name__])
        except BaseException:  # noqa: BLE001  is shown at the end
            broken.append(traceback.format_exc())

    threads = [threading.Thread(target=go_on, args=(kind,)) for kind in KINDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    go_on(kept)  # after the others: what it sets would hold for their calls too
    print("\n".join(broken), file=sys.stderr)  # noqa: T201  a script
    told = {name: vars(tally) for name, tally in tallies.items()}
    Path(DIRECTORY, "tally").write_text(json.dumps(told))
    return bool(broken)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
