"""The items of a generator go by a line to the loop that reads them: all promises hold there."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

DEFINE = """
import os, time

@app.function(max_containers=1, timeout=60)
def gives(n, at=-1, what='', path=''):
    try:
        for i in range(n):
            if i == at:
                if path:
                    with open(path, 'w') as file:
                        file.write(str(os.getpid()))
                    while what == 'wait' and not os.path.exists(path + '-gate'):
                        time.sleep(0.01)
                if what == 'print':
                    print('said before', i)
                if what == 'look':
                    breakpoint()
                if what == 'raise':
                    raise KeyError('mine')
            if what == 'log':
                open(path, 'a').write(f'{i}\\n')
            yield i
    finally:
        if path:
            open(path + '-closed', 'w').close()

def by_line():
    return items.gi_frame.f_locals['run']._by_line

got = []
def read(*args, say=()):
    global items
    got.clear()
    items = iter(gives.remote_gen(*args))
    for item in items:
        got.append(item)
        if item in say:
            print('got', item, 'of the line:', by_line() > 0, flush=True)
"""


@pytest.fixture(scope="module")
def lined(notebook: PlainKernel) -> PlainKernel:
    """Return the kernel in which `read(...)` does."""
    typed(notebook, DEFINE)
    typed(notebook, "read(10)")
    return notebook


def test_items_go_by_the_line_in_order(lined: PlainKernel) -> None:
    cell = typed(lined, "read(5_000, say=(4_000,))")
    assert cell.stdout == "got 4000 of the line: True\n"
    assert value(lined, "got == list(range(5_000))") is True


def test_what_is_printed_is_shown_before_the_items_behind_it(lined: PlainKernel) -> None:
    cell = typed(lined, "read(5_000, 2_000, 'print', say=(2_000, 4_900))")
    assert cell.stdout.startswith("said before 2000\ngot 2000 of the line: True\n")
    assert value(lined, "got == list(range(5_000))") is True


def test_an_exception_comes_behind_the_items_of_the_line(lined: PlainKernel) -> None:
    cell = lined.run("read(5_000, 3_000, 'raise')")
    assert cell.error is not None
    assert (cell.error.name, cell.error.value) == ("KeyError", "'mine'")
    assert "raise KeyError('mine')" in cell.error.traceback
    assert value(lined, "got == list(range(3_000))") is True


def test_a_breakpoint_opens_in_the_cell_that_reads(lined: PlainKernel) -> None:
    cell = lined.begin("read(500, 300, 'look')", with_input=True)
    assert lined.answer("p i", "c") == ["(Pdb) ", "(Pdb) "]
    lined.finish(cell)
    assert cell.error is None
    assert "300" in cell.stdout
    assert value(lined, "got == list(range(500))") is True


def test_it_is_at_most_64_items_ahead_far_behind_the_first(
    lined: PlainKernel, tmp_path: Path
) -> None:
    path = tmp_path / "made"
    typed(lined, f"items = iter(gives.remote_gen(10**6, -1, 'log', {str(path)!r}))")
    for taken in (1_000, 1_500):
        typed(lined, f"while next(items) < {taken - 1}: pass")
        assert value(lined, "by_line() > 0") is True
        wait_until(partial(_has_made, path, taken + 1), what="it is ahead")
        assert value(lined, "sum(gives.with_options(max_containers=2).remote_gen(9))") == 36
        assert path.read_text().count("\n") <= taken + 64
    typed(lined, "del items")
    wait_until(Path(f"{path}-closed").exists, what="it is closed")


def test_the_stop_button_closes_it(lined: PlainKernel, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    cell = lined.begin(f"read(1_000, 500, 'wait', {str(path)!r})")
    wait_until(path.exists, what="it has given 500")
    lined.interrupt()
    lined.finish(cell, 10)
    assert cell.error is not None
    assert cell.error.name == "KeyboardInterrupt"
    wait_until(Path(f"{path}-closed").exists, what="it is closed")
    assert value(lined, "read(100)\nlen(got)") == 100


def test_a_killed_worker_fails_the_loop_behind_its_items(
    lined: PlainKernel, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    cell = lined.begin(f"read(1_000, 500, 'wait', {str(path)!r})")
    wait_until(lambda: path.exists() and path.read_text(), what="it has given 500")
    os.kill(int(path.read_text()), signal.SIGKILL)
    lined.finish(cell, 20)
    assert cell.error is not None
    assert cell.error.name == "InternalFailure"
    count = value(lined, "len(got)")
    assert f"had given {count} items when its worker died under it" in cell.error.value
    assert 450 < count <= 500
    assert value(lined, "got == list(range(len(got)))") is True
    assert value(lined, "read(100)\nlen(got)") == 100


def _has_made(path: Path, count: int) -> bool:
    return path.read_text().count("\n") >= count
