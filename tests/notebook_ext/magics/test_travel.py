import re
import threading
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from tests.notebook_ext.magics.typing import Typed


def table(report: Any) -> list[list[str]]:
    """Return the rows, their words apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in repr(report).splitlines()[2:]]


def test_it_names_what_would_travel_in_the_order_of_the_cell(typed: Typed) -> None:
    typed("k = 2\nxs = list(range(1000))\ndef f(x): return x * k")
    report = typed("%%remote_run --dry-run\nys = [f(x) for x in xs]\nxs[0] = len(ys)\n")
    assert [row[:3] for row in table(report)] == [
        ["xs", "out", "list"],
        ["f", "out", "function"],
        ["k", "out", "int"],
        ["ys", "back"],
        ["xs", "back", "list"],
    ]
    assert table(report)[0][3].endswith("kB")
    assert table(report)[1][3] == "code"
    assert table(report)[2][4] == "for f"
    assert "<table" in report._repr_html_()


def test_a_module_is_found_by_its_name(typed: Typed) -> None:
    typed("import textwrap")
    (row,) = table(typed("%%remote_run --dry-run\ntextwrap.dedent('')"))
    assert row == ["textwrap", "out", "module", "by name"]


def test_it_runs_nothing(typed: Typed, shell: InteractiveShell) -> None:
    typed("%%remote_run --dry-run\nran = 1")
    assert "ran" not in shell.user_ns


def test_what_cannot_travel_is_in_the_table(typed: Typed, shell: InteractiveShell) -> None:
    shell.user_ns["lock"] = threading.Lock()
    (row,) = table(typed("%%remote_run --dry-run\nlock"))
    assert row[:4] == ["lock", "out", "lock", "-"]
    assert "cannot be pickled" in row[4]


def test_the_line_narrows_it(typed: Typed) -> None:
    typed("a = b = 1")
    report = typed("%%remote_run --dry-run -i a -o c --session s\nc = d = a + b")
    assert [row[:2] for row in table(report)] == [["a", "out"], ["c", "back"]]
    assert "session 's'" in repr(report)


def test_a_cell_that_needs_nothing_has_an_empty_table(typed: Typed) -> None:
    assert repr(typed("%%remote_run --dry-run\nprint(1)")).endswith("a worker: none")


def test_a_second_look_is_the_same(typed: Typed) -> None:
    typed("p, q = {1: 2}, {3, 4}")
    cell = "%%remote_run --dry-run\nr = p, q"
    assert repr(typed(cell)) == repr(typed(cell))
