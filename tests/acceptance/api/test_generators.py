"""API.md sections 2 and 3, generators: `remote_gen`, spawned ones, `get_gen`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

MAKERS = {
    "sync": """
        @app.function
        def count(n, log=None):
            try:
                for i in range(n):
                    if log:
                        print(i, file=open(log, 'a'), flush=True)
                    yield i
            except BaseException as error:
                if log:
                    print(type(error).__name__, file=open(log, 'a'), flush=True)
                raise
    """,
    "async": """
        import asyncio
        @app.function
        async def count(n, log=None):
            try:
                for i in range(n):
                    await asyncio.sleep(0)
                    if log:
                        print(i, file=open(log, 'a'), flush=True)
                    yield i
            except BaseException as error:
                if log:
                    print(type(error).__name__, file=open(log, 'a'), flush=True)
                raise
    """,
}
READERS = {
    "for": "list(count.remote_gen(1_000))",
    "async for": "[x async for x in count.remote_gen(1_000)]",
    "aio": "[x async for x in count.remote_gen.aio(1_000)]",
    "next": "g = count.remote_gen(1_000)\n[next(g), *g]",
    "thread": "import concurrent.futures as cf\n"
    "cf.ThreadPoolExecutor(1).submit(lambda: list(count.remote_gen(1_000))).result()",
    "async function": "async def reads():\n"
    "    return [x async for x in count.remote_gen(1_000)]\n"
    "await reads()",
}


@pytest.fixture(params=list(MAKERS))
def made(request: pytest.FixtureRequest, notebook: PlainKernel) -> str:
    """Define `count(n, log=None)`, whose body is sync or async."""
    typed(notebook, MAKERS[request.param])
    return str(request.param)


@pytest.fixture
def count(notebook: PlainKernel) -> None:
    """Define `count(n, log=None)`."""
    typed(notebook, MAKERS["sync"])


def _has_made(log: Path, count: int) -> bool:
    return len(lines(log)) >= count


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.usefixtures("made")
def test_items_are_yielded_in_order_in_a_cell(notebook: PlainKernel, reader: str) -> None:
    """`f.remote_gen(*a, **k)`: generator, sync or async body."""
    source = READERS[reader].rsplit("\n", 1)
    source[-1] = f"({source[-1]}) == list(range(1_000))"
    assert value(notebook, "\n".join(source)) is True


SCRIPT = """
import asyncio
import notebook_ext as nb

app = nb.App()

@app.function
def count(n, step=1):
    yield from range(0, n, step)

async def reads():
    return [x async for x in count.remote_gen.aio(10, step=2)]

print(list(count.remote_gen(5)), asyncio.run(reads()), list(count.local(3)), list(count(2)))
"""


def test_items_are_yielded_in_a_script(run_script: ScriptRunner) -> None:
    """`f.remote_gen(*a, **k)` in a script; `.local` and the call itself run it here."""
    assert run_script(SCRIPT).strip() == "[0, 1, 2, 3, 4] [0, 2, 4, 6, 8] [0, 1, 2] [0, 1]"


def test_the_first_item_comes_while_the_second_is_made(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    """Items stream as they are made."""
    gate = tmp_path / "gate"
    typed(
        notebook,
        f"""
        import os, time
        @app.function
        def slow():
            yield 'first'
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
            yield 'second'
        items = iter(slow.remote_gen())
        """,
    )
    assert value(notebook, "next(items)") == "first"
    gate.touch()
    assert value(notebook, "list(items)") == ["second"]


@pytest.mark.usefixtures("made")
def test_the_producer_is_at_most_64_items_ahead(notebook: PlainKernel, tmp_path: Path) -> None:
    """The producer is at most 64 items ahead of the consumer."""
    log = tmp_path / "log"
    typed(notebook, f"items = iter(count.remote_gen(1_000, {str(log)!r}))")
    for taken in (1, 33, 100):
        typed(notebook, f"while next(items) < {taken - 1}: pass")
        least = taken + 1  # a quick loop gives credit by the 64
        wait_until(partial(_has_made, log, least), what=f"{least} items are made")
        typed(notebook, "list(count.remote_gen(200)) and None")
        assert len(lines(log)) <= taken + 64
    assert value(notebook, "list(items) == list(range(100, 1_000))") is True


def test_the_producer_is_at_most_16_mib_ahead(notebook: PlainKernel, tmp_path: Path) -> None:
    """… or 16 MiB; and 1 MB items arrive whole."""
    log = tmp_path / "log"
    typed(
        notebook,
        f"""
        @app.function
        def big(n):
            for i in range(n):
                print(i, file=open({str(log)!r}, 'a'), flush=True)
                yield bytes([i]) * 1_048_576
        items = iter(big.remote_gen(60))
        first = next(items)
        """,
    )
    wait_until(lambda: len(lines(log)) >= 13, what="the producer is ahead")
    typed(notebook, "list(big.remote_gen(0))")
    assert len(lines(log)) <= 18
    rest = "[(len(item), item[0]) for item in items] == [(1_048_576, i) for i in range(1, 60)]"
    assert value(notebook, rest) is True


LEAVES = {
    "break": "for x in count.remote_gen(10**9, log):\n    break",
    "exception": "try:\n    for x in count.remote_gen(10**9, log):\n        1 / 0\n"
    "except ZeroDivisionError:\n    pass",
    "collection": "items = iter(count.remote_gen(10**9, log))\nnext(items)\ndel items",
    "close": "items = count.remote_gen(10**9, log)\nnext(items)\nitems.close()",
    "async break": "async for x in count.remote_gen(10**9, log):\n    break",
}


@pytest.mark.parametrize("way", list(LEAVES))
@pytest.mark.usefixtures("made")
def test_leaving_the_loop_closes_the_remote_generator(
    notebook: PlainKernel, tmp_path: Path, way: str
) -> None:
    """Leaving the loop closes the remote generator (its `finally` runs); its worker is free."""
    log = tmp_path / "log"
    typed(notebook, f"log = {str(log)!r}\n{LEAVES[way]}")
    ended = {"GeneratorExit", "InputCancellation", "CancelledError"}
    wait_until(lambda: ended & set(lines(log)), what="the generator is closed")
    assert value(notebook, "list(count.remote_gen(3))") == [0, 1, 2]


def test_the_stop_button_closes_it(notebook: PlainKernel, tmp_path: Path) -> None:
    """Leaving by ■: one short KeyboardInterrupt, the generator is closed, the session goes on."""
    log = tmp_path / "log"
    typed(
        notebook,
        f"""
        import time
        @app.function
        def waits():
            try:
                yield 1
                time.sleep(60)
            finally:
                open({str(log)!r}, 'w').close()
        """,
    )
    cell = notebook.begin("for x in waits.remote_gen():\n    print('got', x, flush=True)")
    wait_until(lambda: notebook.listen(0.05) and "got 1" in cell.stdout)
    notebook.interrupt()
    notebook.finish(cell, 10)
    assert cell.error is not None
    assert cell.error.name == "KeyboardInterrupt"
    wait_until(log.exists, what="its finally has run")
    assert value(notebook, "next(iter(waits.remote_gen()))") == 1


@pytest.mark.parametrize("kind", ["", "async "])
def test_an_exception_comes_behind_the_items(notebook: PlainKernel, kind: str) -> None:
    """An exception after k items delivers the k items first, with the cell's line."""
    typed(
        notebook,
        f"""
        @app.function
        {kind}def fails(n):
            for i in range(n):
                yield i
            raise ValueError('after all')  # the cell's line
        """,
    )
    cell = notebook.run("got = []\nfor x in fails.remote_gen(100):\n    got.append(x)")
    assert cell.error is not None
    assert (cell.error.name, cell.error.value) == ("ValueError", "after all")
    assert "raise ValueError('after all')  # the cell's line" in cell.error.traceback
    assert "notebook_ext" not in cell.error.traceback
    assert "kernel_worker" not in cell.error.traceback
    assert value(notebook, "got == list(range(100))") is True
    at_once = notebook.run("list(fails.remote_gen(0))")
    assert at_once.error is not None
    assert at_once.error.name == "ValueError"


@pytest.mark.usefixtures("made")
def test_an_empty_generator_is_an_empty_loop(notebook: PlainKernel) -> None:
    assert value(notebook, "list(count.remote_gen(0))") == []


@pytest.mark.usefixtures("count")
@pytest.mark.parametrize(
    "call",
    ["remote(3)", "map([3])", "starmap([(3,)])", "for_each([3])", "spawn_map([3])"],
)
def test_what_a_generator_cannot_says_what_to_call(notebook: PlainKernel, call: str) -> None:
    """`.remote`, `.map` … on a generator are an `InvalidError` that says what to call."""
    cell = notebook.run(f"count.{call}")
    assert cell.error is not None
    assert cell.error.name == "InvalidError"
    assert "count.remote_gen(...)" in cell.error.value


def test_what_is_no_generator_says_what_to_call(notebook: PlainKernel) -> None:
    """`.remote_gen` on another function is an `InvalidError` that says what to call."""
    cell = notebook.run("@app.function\ndef plain(x): return x\nplain.remote_gen(1)")
    assert cell.error is not None
    assert cell.error.name == "InvalidError"
    assert "plain.remote(...)" in cell.error.value


def test_retries_on_a_generator_are_refused_when_decorating(notebook: PlainKernel) -> None:
    """`retries` on a generator is an `InvalidError`."""
    for option in ("retries=2", "retries=nb.Retries(1)"):
        cell = notebook.run(f"@app.function({option})\ndef gives():\n    yield 1")
        assert cell.error is not None
        assert cell.error.name == "InvalidError"
        assert "retries=" in cell.error.value
    cell = notebook.run("@app.function\ndef gives():\n    yield 1\ngives.with_options(retries=1)")
    assert cell.error is not None
    assert cell.error.name == "InvalidError"


def test_is_generator_lets_a_function_return_an_iterator(notebook: PlainKernel) -> None:
    """Option `is_generator`."""
    typed(notebook, "@app.function(is_generator=True)\ndef gives(n):\n    return iter(range(n))")
    assert value(notebook, "list(gives.remote_gen(3))") == [0, 1, 2]


def test_a_worker_that_dies_before_the_first_item_costs_nothing(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    """A generator whose worker died runs again if no item was delivered; else it fails."""
    typed(
        notebook,
        f"""
        import os, signal
        mark = {str(tmp_path / "mark")!r}
        @app.function
        def dies(before):
            if before and not os.path.exists(mark):
                open(mark, 'w').close()
                os.kill(os.getpid(), signal.SIGKILL)
            yield os.getpid()
            if not before:
                yield 2
                time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGKILL)
        import time
        """,
    )
    assert value(notebook, "len(list(dies.remote_gen(True)))") == 1
    cell = notebook.run("got = []\nfor x in dies.remote_gen(False):\n    got.append(x)")
    assert cell.error is not None
    assert cell.error.name == "InternalFailure"  # after its items
    assert "had given 2 items" in cell.error.value
    assert value(notebook, "len(got)") == 2


@pytest.mark.usefixtures("made")
def test_a_spawned_generator_is_replayed_any_number_of_times(
    notebook: PlainKernel, run_script: ScriptRunner
) -> None:
    """`fc.get_gen()`: from the start, while it runs and after, in any process."""
    typed(notebook, "fc = count.spawn(5_000)")
    assert value(notebook, "list(fc.get_gen()) == list(range(5_000))") is True
    assert value(notebook, "[x async for x in fc.get_gen.aio()] == list(range(5_000))") is True
    call = value(notebook, "fc.object_id")
    text = f"""
import notebook_ext as nb
fc = nb.FunctionCall.from_id({call!r}, is_generator=True)
print(sum(fc.get_gen()))
by_id = nb.FunctionCall.from_id({call!r})
for get in (fc.get, by_id.get, lambda: list(by_id.iter())):
    try:
        get()
    except nb.exception.InvalidError as error:
        print(error)
print(sum(by_id.get_gen()))
"""
    shown = run_script(text)
    assert shown.count(str(sum(range(5_000)))) == 2
    assert shown.count("is a generator: its items are had with .get_gen().") == 3


def test_a_spawned_generator_is_read_whole_at_once(notebook: PlainKernel) -> None:
    """`fc.get_gen()` right behind `f.spawn(...)`: its outcome never overtakes its items."""
    typed(notebook, "@app.function\ndef three():\n    print('in')\n    yield from 'abc'")
    cell = typed(notebook, "[''.join(three.spawn().get_gen()) for _ in range(50)] == ['abc'] * 50")
    assert cell.result == "True"
    wait_until(lambda: notebook.listen(0.05) or cell.stdout.count("in\n") >= 50)
    assert cell.stdout.count("in\n") == 50  # once each, though two listen


def test_a_spawned_generator_is_read_while_it_runs(notebook: PlainKernel, tmp_path: Path) -> None:
    """… from the first item on, then live; it has no consumer limit; leaving leaves it alone."""
    gate = tmp_path / "gate"
    typed(
        notebook,
        f"""
        import os, time
        @app.function
        def half(n):
            yield from range(n)
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
            yield from range(n, 2 * n)
        fc = half.spawn(1_000)
        one, two = iter(fc.get_gen()), iter(fc.get_gen())
        """,
    )
    assert value(notebook, "[next(one) for _ in range(1_000)] == list(range(1_000))") is True
    assert value(notebook, "[next(two) for _ in range(500)] == list(range(500))") is True
    typed(notebook, "for x in fc.get_gen():\n    break")
    gate.touch()
    assert value(notebook, "list(one) == list(range(1_000, 2_000))") is True
    assert value(notebook, "list(two) == list(range(500, 2_000))") is True


def test_a_failed_spawned_generator_gives_its_items_first(notebook: PlainKernel) -> None:
    typed(notebook, "@app.function\ndef fails():\n    yield 1\n    raise KeyError('k')")
    typed(notebook, "fc = fails.spawn()")
    for _ in range(2):
        cell = notebook.run("got = []\nfor x in fc.get_gen():\n    got.append(x)")
        assert cell.error is not None
        assert cell.error.name == "KeyError"
        assert value(notebook, "got") == [1]


def test_cancelling_a_spawned_generator_closes_it(notebook: PlainKernel, tmp_path: Path) -> None:
    """`fc.cancel()`: `finally` runs, and who reads it gets `CallCancelledError`."""
    log = tmp_path / "log"
    typed(
        notebook,
        f"""
        import time
        @app.function
        def waits():
            try:
                yield 1
                time.sleep(60)
            finally:
                open({str(log)!r}, 'w').close()
        fc = waits.spawn()
        items = iter(fc.get_gen())
        got = next(items)
        fc.cancel()
        """,
    )
    cell = notebook.run("next(items)")
    assert cell.error is not None
    assert cell.error.name == "CallCancelledError"
    wait_until(log.exists, what="its finally has run")


def test_a_timeout_counts_the_functions_time_only(notebook: PlainKernel) -> None:
    """The function's timeout: time blocked for the reader does not count, its own does."""
    typed(
        notebook,
        """
        import time
        @app.function(timeout=1)
        def timed(n, seconds):
            for i in range(n):
                yield i
            time.sleep(seconds)
        """,
    )
    patient = "items = iter(timed.remote_gen(100, 0))\nnext(items)\ntime.sleep(2.5)\nlen([*items])"
    assert value(notebook, patient) == 99
    cell = notebook.run("for x in timed.remote_gen(3, 60):\n    got = x")
    assert cell.error is not None
    assert cell.error.name == "FunctionTimeoutError"
    assert value(notebook, "got") == 2


NESTED = """
import notebook_ext as nb

app = nb.App()

@app.function(max_containers=1)
def inner(n):
    for i in range(n):
        yield i

@app.function(max_containers=1)
def add(x, y):
    return x + y

@app.function(max_containers=1)
def outer(n, depth=0):
    if depth:
        yield from outer.remote_gen(n, depth - 1)
        return
    for x in inner.remote_gen(n):
        yield add.remote(x, 1)

@app.function(max_containers=1)
async def reads(n):
    return [x async for x in inner.remote_gen(n)]

print(list(outer.remote_gen(200, 2)) == list(range(1, 201)), len(reads.remote(300)))
"""


def test_generators_nest_however_small_the_pools(
    own_place: Place, run_script: ScriptRunner
) -> None:
    """Inside a function that runs on a worker; a wait for items, or for a reader, holds no slot."""
    one_cpu = own_place.variables | {"NOTEBOOK_EXT_MAX_WORKERS": "1"}
    assert run_script(NESTED, one_cpu).strip() == "True 300"


BROKER_DIES = """
import os, signal, time
import notebook_ext as nb

app = nb.App()

@app.function
def slow(n, after):
    for i in range(n):
        yield i
    while after and not os.path.exists(after):
        time.sleep(0.01)
    yield 'end'

def broker():
    from notebook_ext import inquiry
    return inquiry.find().pid

over = slow.spawn(1_000, "")
assert len(list(over.get_gen())) == 1_001
open_ = slow.spawn(1_000, os.environ["NOTEBOOK_EXT_DATA_DIR"] + ".never")
items = iter(open_.get_gen())
assert [next(items) for _ in range(1_000)] == list(range(1_000))
attached = iter(slow.remote_gen(10, os.environ["NOTEBOOK_EXT_DATA_DIR"] + ".never"))
assert [next(attached) for _ in range(10)] == list(range(10))
os.kill(broker(), signal.SIGKILL)
assert len(list(over.get_gen())) == 1_001
for one in (items, attached, iter(open_.get_gen())):
    got = []
    try:
        for x in one:
            got.append(x)
    except nb.exception.InternalFailure as error:
        print(len(got), error)
print(list(slow.remote_gen(2, "")))
"""


def test_a_spawned_generator_outlives_the_broker(
    own_place: Place, run_script: ScriptRunner
) -> None:
    """After `kill -9` of the broker: items that were given are there, those that ran end."""
    shown = run_script(BROKER_DIES, own_place.variables).splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["0", "0", "1000"]
    assert "had given 1000 items when the broker died" in shown[0]
    assert "had given 10 items when the broker died" in shown[1]
    assert shown[3] == "[0, 1, 'end']"
