"""`%%remote_run` and `%%remote_spawn` in a real kernel, with real workers; one kernel for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cells import begun, typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1]);"


@pytest.fixture(scope="module")
def notebook(
    own_directories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlainKernel]:
    kernel = PlainKernel(tmp_path_factory.mktemp("notebook"))
    try:
        typed(kernel, "%load_ext notebook_ext\nimport os\nimport notebook_ext as nb")
        yield kernel
    finally:
        kernel.close()


def test_a_cell_runs_elsewhere_and_its_names_come_back(notebook: PlainKernel) -> None:
    typed(notebook, "here, factor = os.getpid(), 3\ndef scaled(x): return x * factor")
    cell = typed(
        notebook,
        """%%remote_run
        import os
        print("on a worker")
        y = scaled(2)
        elsewhere = os.getpid() != here
        y + 1""",
    )
    assert cell.stdout == "on a worker\n"
    assert cell.result == "7"
    assert value(notebook, "y, elsewhere, _") == (6, True, 7)


def test_functions_and_classes_of_the_cell_are_the_notebooks(notebook: PlainKernel) -> None:
    typed(notebook, "class Base: pass\nshift = 1")
    typed(
        notebook,
        "%%remote_run\ndef moved(x): return x + shift\n"
        "class Derived(Base):\n    def go(self): return moved(1)\nmade = Derived()",
    )
    typed(notebook, "shift = 10")
    shown = "moved(1), made.go(), type(made) is Derived, isinstance(made, Base)"
    assert value(notebook, shown) == (11, 11, True, True)


def test_a_changed_object_and_a_deleted_name_are_seen(notebook: PlainKernel) -> None:
    typed(notebook, "table, gone, same = {'a': 1}, 1, []")
    typed(notebook, "%%remote_run\ntable['b'] = table['a'] + gone\ndel gone\nsame.append(1)")
    assert value(notebook, "table, 'gone' in globals(), same") == ({"a": 1, "b": 2}, False, [])
    typed(notebook, "%%remote_run -o same\nsame.append(1)")
    assert value(notebook, "same") == [1]


def test_an_error_shows_the_cell_alone_and_leaves_what_was_assigned(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run\nbefore = 1\n\ndef fails():\n    1 / 0\nfails()\nafter = 1")
    assert cell.error is not None
    assert cell.error.name == "ZeroDivisionError"
    assert "line 6" in cell.error.traceback
    assert "----> 5     1 / 0" in cell.error.traceback
    assert "line 1\n" not in cell.error.traceback
    for ours in ("kernel_worker", "notebook_ext", "__remote", "cell()"):
        assert ours not in cell.error.traceback
    assert value(notebook, "before, 'after' in globals()") == (1, False)


def test_ipythons_syntax_works_there(notebook: PlainKernel) -> None:
    typed(notebook, "word = 'hello'")
    cell = typed(
        notebook,
        "%%remote_run\n!echo {word} from $word\nlines = !printf 'a\\nb\\n'\n"
        "%time timed = len(word)\n%env NOTEBOOK_EXT_WORKER",
    )
    assert "hello from hello" in cell.stdout
    assert "Wall time" in cell.stdout
    assert "ta-" in (cell.result or "")
    assert value(notebook, "list(lines), timed") == (["a", "b"], 5)
    cell = typed(notebook, "%%remote_run\n%%time\nbelow = word * 2")
    assert "Wall time" in cell.stdout
    assert value(notebook, "below") == "hellohello"
    assert "Signature" in typed(notebook, "%%remote_run\nlen?").stdout


def test_a_plain_cell_needs_no_ipython_there(notebook: PlainKernel) -> None:
    typed(notebook, "%%remote_run\nimport sys\nloaded = 'IPython' in sys.modules")
    assert value(notebook, "loaded") is False


def test_await_works_at_the_top(notebook: PlainKernel) -> None:
    cell = "%%remote_run\nimport asyncio\nslept = await asyncio.sleep(0.01, 5)\n"
    assert value(notebook, f"{cell}await asyncio.sleep(0, slept + 1)") == 6


def test_displays_and_figures_are_shown_once(notebook: PlainKernel) -> None:
    cell = typed(
        notebook,
        "%%remote_run\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n"
        "line = ax.plot([1, 2])\ndisplay({'shown': 1})",
        timeout=60,
    )
    assert [sorted(each) for each in cell.displays] == [
        ["text/plain"],
        ["image/png", "text/plain"],
    ]
    typed(notebook, "plt.close('all')")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (f"%matplotlib inline\n{PLOT}", "image/png"),
        (
            f"%config InlineBackend.figure_format = 'svg'\n{PLOT}",
            "image/svg+xml",
        ),
        (
            "!true\nfrom IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))",
            "text/html",
        ),
    ],
)
def test_displays_beside_ipythons_syntax_are_rich(
    notebook: PlainKernel, cell: str, shown: str
) -> None:
    ended = typed(notebook, f"%%remote_run\n{cell}", timeout=60)
    assert [sorted(each) for each in ended.displays] == [[shown, "text/plain"]]
    assert ended.stdout == ""


def test_displays_of_a_session_are_rich_before_and_after_ipythons_syntax(
    notebook: PlainKernel,
) -> None:
    line = "%%remote_run --session shown"
    plot = f"{line}\n{PLOT}"
    for cell, kind in (
        (plot, "image/png"),
        (f"{line}\n%config InlineBackend.figure_format = 'svg'\nplt.plot([1]);", "image/svg+xml"),
        (plot, "image/svg+xml"),
    ):
        ended = typed(notebook, cell, timeout=60)
        assert [sorted(each) for each in ended.displays] == [[kind, "text/plain"]]
    typed(notebook, "%remote_sessions --end shown\nplt.close('all')")


def test_a_value_that_cannot_travel_is_shown_all_the_same(notebook: PlainKernel) -> None:
    cell = typed(notebook, "%%remote_run\n(x for x in range(3))")
    assert "<generator object" in json.dumps(cell.displays)


def test_what_cannot_come_back_is_named_and_the_rest_is_there(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run\nimport threading\nlock = threading.Lock()\nfine = 1")
    assert cell.error is not None
    assert cell.error.name == "SerializationError"
    assert "lock cannot come back" in cell.error.value
    assert value(notebook, "fine, 'lock' in globals()") == (1, False)
    cell = notebook.run("%%remote_run -o other\nif not fine: other = 1")
    assert cell.error is not None
    assert "other was asked for" in cell.error.value


def test_a_name_that_the_cell_never_assigns_is_told_before_it_runs(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run -o nope\nprint('ran')\nx = 1")
    assert cell.stderr == "UsageError: %%remote_run: -o nope: the cell never assigns nope\n"
    assert cell.stdout == ""
    typed(notebook, "%%remote_run -o made\nexec('made = 3')")
    assert value(notebook, "made") == 3


def test_a_death_is_told_in_words_of_the_cell(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run\nimport os\nos._exit(3)")
    assert cell.error is not None
    assert cell.error.name == "InternalFailure"
    assert "the worker of In[" in cell.error.value
    assert "died (exit code 3); a cell is not run again" in cell.error.value
    assert "rerun_on_crash" not in cell.error.traceback


def test_a_closed_file_may_stay_behind(notebook: PlainKernel) -> None:
    cell = typed(
        notebook, "%%remote_run\nwith open('/proc/self/stat') as f:\n    n = len(f.read())"
    )
    assert cell.stderr == ""
    assert value(notebook, "n > 0, 'f' in globals()") == (True, False)


def test_a_cell_that_takes_too_long_is_interrupted(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run --timeout 1\nimport time\nfirst = 1\ntime.sleep(600)")
    assert cell.error is not None
    assert cell.error.name == "FunctionTimeoutError"
    assert "In[" in cell.error.value


def test_what_cannot_go_is_named_and_nothing_runs(notebook: PlainKernel) -> None:
    typed(notebook, "import threading\nheld = threading.Lock()")
    cell = notebook.run("%%remote_run\nprint('ran')\nheld")
    assert cell.error is not None
    assert cell.error.name == "SerializationError"
    assert "held" in cell.error.value
    assert cell.stdout == ""
    typed(notebook, "del held")


def test_a_name_that_nobody_has_fails_where_it_is_read(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run\nif True:\n    found = 1\nfound\nnowhere")
    assert cell.error is not None
    assert cell.error.value == "name 'nowhere' is not defined"


def test_bad_options_and_bad_syntax_are_the_notebooks_own(notebook: PlainKernel) -> None:
    cell = notebook.run("%%remote_run --gpus 1\nran = 1")
    assert cell.stderr == ("UsageError: %%remote_run: unknown option --gpus; did you mean --gpu?\n")
    cell = notebook.run("%%remote_run\nx = = 1")
    assert cell.error is not None
    assert cell.error.name == "SyntaxError"
    assert "line 2" in cell.error.traceback


def test_a_spawned_cell_brings_its_names_when_it_is_asked(notebook: PlainKernel) -> None:
    typed(notebook, "start = 4")
    assert "fc-" in (
        typed(notebook, "%%remote_spawn\nspawned = start + 1\nspawned * 2").result or ""
    )
    assert value(notebook, "_.get(), spawned") == (10, 5)
    cell = typed(notebook, "%%remote_spawn --as job\nprint('behind')\nspawned = 1 / 0")
    assert cell.result is None
    error = notebook.run("job.get()").error
    assert error is not None
    assert error.name == "ZeroDivisionError"
    assert "behind" in typed(notebook, "%remote_logs job").stdout
    call = typed(notebook, "print(job.object_id)").stdout.strip()
    assert call in (typed(notebook, "%remote_calls --limit 5").result or "")
    cell = notebook.run("%remote_cancel job")
    assert cell.stderr.strip() == "UsageError: %remote_cancel: the call job has ended"


def test_a_session_keeps_what_cannot_travel(notebook: PlainKernel) -> None:
    typed(notebook, "rate = 1\ndef rated(): return rate\nclass Kind: pass")
    typed(
        notebook,
        "%%remote_run --session kept\nimport os, threading\nlock = threading.Lock()\n"
        "pid, mine = os.getpid(), Kind()\ndef ours(): return rated() + 1",
    )
    cell = "%%remote_run --session kept\nos.getpid() == pid, lock.locked(), ours(), "
    assert value(notebook, f"{cell}isinstance(mine, Kind)") == (True, False, 2, True)
    typed(notebook, "rate = 10\nkinds = [Kind()]")
    shown = f"{cell}isinstance(kinds[0], type(mine))"
    assert value(notebook, shown) == (True, False, 11, True)


def test_what_the_notebook_changes_in_place_goes_to_the_session_again(
    notebook: PlainKernel,
) -> None:
    line = "%%remote_run --session changed"
    typed(notebook, f"{line}\nimport numpy\nxs, grid, ours = [1], numpy.zeros(3), [1]\nalso = xs")
    typed(notebook, "xs.append(2)\ngrid[1] = 5\ndef total(): return sum(xs)")
    # What only the session has changed stays as it is there.
    typed(notebook, f"{line}\nours.append(2)")
    shown = f"{line}\nxs, grid.tolist(), total(), ours"
    assert value(notebook, shown) == ([1, 2], [0, 5, 0], 3, [1, 2])
    typed(notebook, f"{line}\nxs.append(3)")
    assert value(notebook, shown) == ([1, 2, 3], [0, 5, 0], 6, [1, 2])
    typed(notebook, "xs.append(4)")
    assert value(notebook, shown) == ([1, 2, 4], [0, 5, 0], 7, [1, 2])


def test_a_class_that_the_notebook_has_anew_changes_nothing_that_came(
    notebook: PlainKernel,
) -> None:
    line = "%%remote_run --session anew"
    kind = "class Counter:\n    n = 0\n    def up(self): self.n += 1"
    typed(notebook, kind)
    typed(notebook, f"{line}\ncounter = Counter()")
    typed(notebook, f"{line}\ncounter.up()")
    typed(notebook, kind)
    assert value(notebook, f"{line}\ncounter.n") == 1


def test_a_session_that_is_lost_says_so_and_begins_anew(notebook: PlainKernel) -> None:
    typed(notebook, "%%remote_run --session lost\nimport os\nthere, number = 1, os.getpid()")
    typed(notebook, "os.kill(number, 9)\ndel there")
    cell = notebook.run("%%remote_run --session lost\nprint('ran')")
    assert cell.error is not None
    assert cell.error.name == "InternalFailure"
    assert "there" in cell.error.traceback
    assert "empty namespace" in cell.error.traceback
    assert cell.stdout == ""
    assert value(notebook, "%%remote_run --session lost\n'there' in globals()") is False
    typed(notebook, "%remote_sessions --end lost")
    assert "lost" not in typed(notebook, "%remote_sessions").stdout


def test_a_session_has_its_options_until_it_is_begun_anew(notebook: PlainKernel) -> None:
    typed(notebook, "%%remote_run --session sized --cpu 0.5\nonce = 1")
    cell = notebook.run("%%remote_run --session sized --cpu 1\nonce")
    assert "was begun with --cpu 0.5" in cell.stderr
    typed(notebook, "del once")
    cell = notebook.run("%%remote_run --session sized --cpu 1 --restart\nonce")
    assert cell.error is not None
    assert cell.error.name == "NameError"


def test_the_stop_button_stops_it_and_the_notebook_goes_on(notebook: PlainKernel) -> None:
    cell = begun(notebook, "%%remote_run\nimport time\nprint('started')\ntime.sleep(600)")
    notebook.interrupt()
    notebook.finish(cell, 10)
    assert cell.error is not None
    assert cell.error.name == "KeyboardInterrupt"
    assert value(notebook, "%%remote_run\n1 + 1") == 2


def test_the_broker_of_this_machine_can_be_asked_for(notebook: PlainKernel) -> None:
    assert "Connected to the broker" in typed(notebook, "%remote_connect local").stdout


def test_no_worker_of_a_cell_is_left(notebook: PlainKernel) -> None:
    typed(notebook, "%%remote_run\nprint(1)")

    def idle() -> bool:
        return "In[" not in str(typed(notebook, "%remote_status").result)

    wait_until(idle, 20, "cells' workers to go")
