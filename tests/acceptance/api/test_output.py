"""API.md section 5: what a worker writes, and where it is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.cells import begun, typed, until_printed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.acceptance.places import Place
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE, wait_until

WAYS = {
    "print": ("print('said')", "stdout"),
    "sys.stderr": ("import sys; sys.stderr.write('said\\n')", "stderr"),
    "C-level writes": (
        "import ctypes; c = ctypes.CDLL(None); c.puts(b'said'); c.fflush(None)",
        "stdout",
    ),
    "descriptors": ("import os; os.write(2, b'said\\n')", "stderr"),
    "child processes": ("import subprocess; subprocess.run(['echo', 'said'])", "stdout"),
    "their stderr": ("import os; os.system('echo said >&2')", "stderr"),
    "logging": ("import logging; logging.getLogger('mine').warning('said')", "stderr"),
    "warnings": ("import warnings; warnings.warn('said')", "stderr"),
    "threads": (
        "import threading as t; x = t.Thread(target=print, args=['said']); x.start(); x.join()",
        "stdout",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_is_seen_in_the_calling_cell(notebook: PlainKernel, way: str) -> None:
    """Line: `print`, `sys.stderr`, C-level writes, child processes, `logging` and `warnings`."""
    body, stream = WAYS[way]
    typed(notebook, f"@app.function()\ndef says():\n    {body}\nsays.local")
    cell = typed(notebook, "says.remote()")
    until_printed(notebook, cell, "said", stream=stream)


def test_every_way_of_writing_is_seen_in_a_script(run_script: ScriptRunner) -> None:
    """The same, in a script, whose stdout and stderr are files."""
    bodies = "\n".join(f"    {body}" for body, stream in WAYS.values() if stream == "stdout")
    source = f"{HEAD}\n@app.function()\ndef says():\n{bodies}\nsays.remote()\n"
    assert run_script(source).split() == ["said"] * bodies.count("said")


def test_aio_calls_write_too(run_script: ScriptRunner) -> None:
    """The same, awaited."""
    source = f"""{HEAD}
import asyncio
@app.function()
async def says(x):
    print('said', x)
async def main():
    await asyncio.gather(*[says.remote.aio(x) for x in range(3)])
asyncio.run(main())
"""
    assert sorted(run_script(source).splitlines()) == ["said 0", "said 1", "said 2"]


def test_output_lands_in_its_own_cell_also_after_that_has_ended(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    """Line: live in the cell that made the call, also after that cell has ended."""
    gate = tmp_path / "gate"
    typed(
        notebook,
        """
        import os, sys, time
        @app.function()
        def talks(gate):
            print('first words', flush=True)
            while not os.path.exists(gate):
                time.sleep(0.01)
            print('last words')
            print('an error', file=sys.stderr)
        """,
    )
    spawning = typed(notebook, f"talks.spawn({str(gate)!r}); None")  # nobody keeps the call
    until_printed(notebook, spawning, "first words")
    other = begun(notebook, "print('other', flush=True)", word="other")
    gate.touch()
    until_printed(notebook, spawning, "last words")
    until_printed(notebook, spawning, "an error", stream="stderr")
    notebook.finish(other)
    assert other.stdout == "other\n"
    assert other.stderr == ""


def test_a_thread_that_outlives_its_input_still_writes_to_its_call(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    """Output of what an input left behind goes to its call while that is open."""
    gate = tmp_path / "gate"
    typed(
        notebook,
        """
        import os, threading, time
        @app.function(max_containers=1)
        def leaves_a_thread(x, gate):
            def later():
                while not os.path.exists(gate):
                    time.sleep(0.01)
                print('late words')
                open(gate + '2', 'w').close()
            if x == 0:
                threading.Thread(target=later, daemon=True).start()
            else:
                while not os.path.exists(gate + '2'):
                    time.sleep(0.01)
        """,
    )
    cell = notebook.begin(f"list(leaves_a_thread.map([0, 1], kwargs={{'gate': {str(gate)!r}}}))")
    gate.touch()
    assert notebook.finish(cell).error is None
    assert "late words" in cell.stdout


def test_progress_bars_of_a_worker_are_seen_as_they_grow(notebook: PlainKernel) -> None:
    """Tqdm and its like: text that ends with no line, drawn again and again."""
    typed(
        notebook,
        r"""
        import sys, time
        @app.function()
        def bar():
            for n in range(1, 6):
                sys.stderr.write(f'\r{n * 20}%')
                sys.stderr.flush()
                time.sleep(0.03)
            sys.stderr.write('\n')
        """,
    )
    cell = typed(notebook, "bar.remote()")
    until_printed(notebook, cell, "100%\n", stream="stderr")
    assert cell.stderr == "\r20%\r40%\r60%\r80%\r100%\n"


@pytest.mark.clock
def test_lines_of_many_workers_stay_whole_and_in_order(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    """Interleaving: whole lines, and the order of each worker."""
    typed(
        notebook,
        f"""
        import pathlib, time
        begun = pathlib.Path({str(tmp_path)!r})
        @app.function(min_containers=50, max_containers=50, cpu=0.02)
        def many(x):
            for n in range(60):
                print('input', x, 'line', n, 'end')
                (begun / str(x)).touch()
                while len(list(begun.iterdir())) < 50:
                    time.sleep(0.05)  # so that all of them write at once, however busy it is here
                time.sleep(0.01)
        while many.get_current_stats().num_total_runners < 50:
            time.sleep(0.01)
        """,
    )
    cell = typed(notebook, "many.for_each(range(50))")
    lines = cell.stdout.splitlines()
    assert len(lines) == 3_000
    for x in range(50):
        mine = [line for line in lines if line.startswith(f"input {x} ")]
        assert mine == [f"input {x} line {n} end" for n in range(60)]
    first = [line.split()[1] for line in lines[:200]]
    assert len(set(first)) > 10, "they write at once"


def test_lines_can_carry_the_function_and_the_input(notebook: PlainKernel) -> None:
    """Line: each line can carry the function and input (`nb.config.log_prefix`)."""
    typed(notebook, "@app.function()\ndef says(x): print('one'); print('two')\nsays.local")
    typed(notebook, "nb.config.log_prefix = True")
    try:
        cell = typed(notebook, "says.for_each(range(2))")
    finally:
        typed(notebook, "nb.config.log_prefix = False")
    expected = [f"[says #{x}] {word}" for x in range(2) for word in ("one", "two")]
    assert sorted(cell.stdout.splitlines()) == sorted(expected)
    assert typed(notebook, "says.remote(0)").stdout == "one\ntwo\n"


FLOOD = """
@app.function()
def floods(x, count):
    for n in range(count):
        print('line', n, 'of', x)
    return count
"""


@pytest.mark.clock
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.large)])
def test_a_flood_of_lines_leaves_the_notebook_responsive(notebook: PlainKernel, count: int) -> None:
    """Line: a flood is capped per call (10,000 lines shown), with a notice; bytes are bounded."""
    typed(notebook, FLOOD)
    typed(notebook, "floods.remote(0, 1)")
    typed(notebook, "import resource\nusage = lambda: resource.getrusage(resource.RUSAGE_SELF)")
    before = value(notebook, "usage().ru_maxrss")
    flooding = typed(notebook, f"flood = floods.spawn(1, {count})")
    slowest = 0.0
    while True:
        asked = time.monotonic()
        done = value(notebook, "flood.status().done")
        slowest = max(slowest, time.monotonic() - asked)
        if done:
            break
        notebook.listen(0.05)
    assert value(notebook, "flood.get()") == count
    until_printed(notebook, flooding, "lines of floods were not shown", stream="stderr")
    assert flooding.stdout.splitlines() == [f"line {n} of 1" for n in range(10_000)]
    notice, total = flooding.stderr.splitlines()
    assert notice.startswith("notebook_ext: floods has written 10,000 lines; the rest is not shown")
    assert total == f"notebook_ext: {count - 10_000:,} lines of floods were not shown."
    assert slowest < 5.0 * PATIENCE
    grown_kib = value(notebook, "usage().ru_maxrss") - before
    assert grown_kib < 40 * 1024


def test_a_flood_before_the_outcome_says_so_before_the_next_line(notebook: PlainKernel) -> None:
    """The notice and the count come before the call returns."""
    typed(notebook, FLOOD)
    cell = typed(notebook, "floods.remote(2, 15_000)")
    assert cell.stdout.count("\n") == 10_000
    until_printed(notebook, cell, "5,000 lines of floods were not shown.", stream="stderr")
    mapped = typed(notebook, "list(floods.map([3, 4], kwargs={'count': 8_000}))")
    assert mapped.stdout.count("\n") == 10_000
    until_printed(notebook, mapped, "6,000 lines of floods were not shown.", stream="stderr")


DISPLAYS = """
@app.function()
def displays(what):
    from IPython.display import HTML, clear_output, display
    print('before')
    if what == 'html':
        display(HTML('<b>bold</b>'), metadata={'text/html': {'isolated': True}})
    elif what == 'table':
        class Table:
            def _repr_html_(self): return '<table></table>'
            def __repr__(self): return 'a table'
        display(Table())
    elif what == 'update':
        handle = display('one', display_id=True)
        handle.update('two')
    elif what == 'clear':
        clear_output(wait=True)
    elif what == 'raw':
        display({'image/png': b'PNG', 'text/plain': 'picture', 'x/y': object()}, raw=True)
    print('after')
"""


def test_displays_come_back_as_displays_of_the_calling_cell(notebook: PlainKernel) -> None:
    """Line: rich displays (`display(fig)`, a DataFrame) come back as displays."""
    typed(notebook, DISPLAYS)
    cell = typed(notebook, "displays.remote('html')")
    assert cell.displays[0]["text/html"] == "<b>bold</b>"
    assert cell.stdout == "before\nafter\n"
    assert typed(notebook, "displays.remote('table')").displays[0] == {
        "text/html": "<table></table>",
        "text/plain": "a table",
    }
    cell = typed(notebook, "displays.remote('update')")
    assert [each["text/plain"] for each in (*cell.displays, *cell.updates)] == ["'one'", "'two'"]
    cell = typed(notebook, "displays.remote('raw')")
    assert cell.displays[0] == {"image/png": "UE5H", "text/plain": "picture"}
    assert typed(notebook, "displays.remote('clear')").stdout.endswith("after\n")


def test_display_is_a_builtin_there_as_it_is_here(notebook: PlainKernel) -> None:
    """The same, where the cell imports nothing."""
    typed(notebook, "@app.function()\ndef shows(x): display(x)\nshows.local")
    spawning = typed(notebook, "shown = shows.spawn(41)")
    typed(notebook, "shown.get()")
    wait_until(lambda: (notebook.listen(0.02), spawning.displays)[1])
    assert spawning.displays[0]["text/plain"] == "41"


def test_a_script_prints_the_text_of_a_display(run_script: ScriptRunner) -> None:
    """In a script: text/plain is printed."""
    source = f"{HEAD}\n{DISPLAYS}\ndisplays.remote('table')\ndisplays.remote('html')\n"
    expected = [
        "before",
        "a table",
        "after",
        "before",
        "<IPython.core.display.HTML object>",
        "after",
    ]
    assert run_script(source).splitlines() == expected


def test_figures_come_back(notebook: PlainKernel) -> None:
    """Line: matplotlib figures: shown, displayed, and those that a function leaves open."""
    typed(
        notebook,
        """
        @app.function()
        def plots(how):
            import matplotlib.pyplot as plt
            figure = plt.figure(figsize=(1, 1))
            figure.gca().plot([1, 2])
            if how == 'show':
                plt.show()
            elif how == 'display':
                from IPython.display import display
                display(figure)
                plt.close(figure)
            return plt.get_fignums()
        """,
    )
    for how in ("show", "display", "left open"):
        cell = typed(notebook, f"plots.remote({how!r})", timeout=60)
        assert len(cell.displays) == 2  # and the result
        assert cell.displays[0]["image/png"].startswith("iVBOR"), how
        assert cell.result == ("[1]" if how == "left open" else "[]")


def test_a_worker_that_displays_nothing_imports_no_ipython(notebook: PlainKernel) -> None:
    """Idle workers stay light."""
    typed(notebook, "@app.function()\ndef has(): import sys; return 'IPython' in sys.modules")
    assert value(notebook, "has.remote()") is False


LOGS = """
import sys
@app.function(max_containers=1)
def writes(x):
    print('one', x)
    print('two', x, file=sys.stderr)
    sys.stdout.write('three')
    sys.stdout.flush()
    sys.stdout.write(f' {x}\\n')
    return x
"""
READ = "[(r.text, r.stream, r.index) for r in call.logs()]"


def lines_of(*inputs: int) -> list[tuple[str, str, int]]:
    found = []
    for x in inputs:
        found += [(f"one {x}", "stdout", x), (f"two {x}", "stderr", x), (f"three {x}", "stdout", x)]
    return sorted(found)


def test_logs_of_a_call_in_the_cell(notebook: PlainKernel) -> None:
    """Line: all in `fc.logs()`: while it runs, after it has ended, as records and as text."""
    typed(notebook, LOGS)
    typed(notebook, "call = writes.spawn_map(range(3))\ncall.get(index=2)")
    assert sorted(value(notebook, READ)) == lines_of(0, 1, 2)
    text = value(notebook, "str(call.logs())")
    assert sorted(text.splitlines()) == sorted(line for line, _, _ in lines_of(0, 1, 2))
    assert value(notebook, "[r.text async for r in call.logs.aio() if r.index == 1][0]") == "one 1"
    cell = typed(notebook, "print(next(iter(call.logs())), repr(call.logs()))")
    assert cell.stdout.startswith("one 0 <logs of fc-")


def test_displays_are_in_the_logs_too(notebook: PlainKernel) -> None:
    """Records hold what was displayed."""
    typed(notebook, "@app.function()\ndef shows(x): display(x)\ncall = shows.spawn(41)\ncall.get()")
    read = "[(r.text, r.stream, r.data) for r in call.logs()]"
    assert value(notebook, read) == [("41", "display", {"text/plain": "41"})]


def test_logs_of_a_call_that_runs_end_where_it_is(notebook: PlainKernel, tmp_path: Path) -> None:
    """While it runs: all that it has written so far."""
    gate = tmp_path / "gate"
    typed(
        notebook,
        f"""
        import os, time
        @app.function()
        def half():
            print('first half')
            print('sec', end='', flush=True)
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.01)
            print('ond half')
        call = half.spawn()
        """,
    )
    read = "[r.text for r in call.logs()]"
    wait_until(lambda: value(notebook, read) == ["first half", "sec"])
    gate.touch()
    typed(notebook, "call.get()")
    assert value(notebook, read) == ["first half", "second half"]


def test_logs_are_read_by_other_processes_after_a_restart_and_by_the_command_line(
    own_place: Place, run_script: ScriptRunner
) -> None:
    """Up to its time to live: from another process, after the broker was killed."""
    spawning = f"{HEAD}\n{LOGS}\ncall = writes.spawn(0)\ncall.get()\nprint('id', call.object_id)"
    spawned = run_script(spawning, own_place.variables)
    call = spawned.split()[-1]
    wait = f"{HEAD}\ncall = nb.FunctionCall.from_id({call!r})\n"
    lines = f"{wait}print(sorted({READ}))"
    assert run_script(lines, own_place.variables) == f"{lines_of(0)}\n"
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    wait_until(lambda: own_place.broker() is None)
    assert run_script(lines, own_place.variables) == f"{lines_of(0)}\n"
    shown = subprocess.run(
        [sys.executable, "-m", "notebook_ext.cli", "logs", "--prefix", call],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | own_place.variables,
    )
    assert shown.stdout == "[#0] one 0\n[#0] three 0\n"
    assert shown.stderr == "[#0] two 0\n"


def test_logs_of_nobody_knows_what(run_script: ScriptRunner) -> None:
    """Errors: a call that nobody knows, and one that was only waited for and is over."""
    source = f"""{HEAD}
@app.function()
def mine():
    call = nb.FunctionCall.from_id(nb.current_function_call_id())
    print('words', flush=True)
    return call.object_id, [r.text for r in call.logs()]
call, during = mine.remote()
print(during)
for each in (call, 'fc-nobody'):
    try:
        list(nb.FunctionCall.from_id(each).logs())
    except nb.exception.NotFoundError as error:
        print(error)
"""
    words, during, *errors = run_script(source).splitlines()
    assert (words, during) == ("words", "['words']")
    assert len(errors) == 2
    assert all("nobody knows the call fc-" in error for error in errors)


def test_a_flood_is_in_the_logs_to_their_end(notebook: PlainKernel) -> None:
    """Line: all in `fc.logs()` up to 64 MiB: then a notice."""
    typed(notebook, FLOOD)
    typed(notebook, "call = floods.spawn(5, 100_000)\ncall.get()")
    read = "sum(r.stream == 'stdout' for r in call.logs()), [r.text for r in call.logs()][-1]"
    assert value(notebook, read) == (100_000, "line 99999 of 5")
    typed(
        notebook,
        """
        @app.function()
        def large():
            for _ in range(70):
                print('x' * 1024 * 1024)
        call = large.spawn()
        call.get()
        """,
    )
    last = value(notebook, "[(r.stream, r.text[:20], len(r.text)) for r in call.logs()][-1]", 60)
    assert last[:2] == ("notice", "The log ends here: m")
    size = value(notebook, "sum(len(r.text) for r in call.logs())", timeout=60)
    assert 64 * 1024 * 1024 <= size < 66 * 1024 * 1024
