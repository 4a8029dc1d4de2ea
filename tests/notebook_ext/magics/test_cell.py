import asyncio

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from notebook_ext.cls import Cls
from notebook_ext.function import Function
from notebook_ext.magics import cell
from tests.notebook_ext.magics.typing import Typed


def test_functions_become_remote_and_the_rest_runs_here(
    typed: Typed, shell: InteractiveShell
) -> None:
    last = typed(
        "%%remote --cpu 2\n"
        "def f(x):\n    return x * x\n"
        "async def g(x):\n    return x\n"
        "class C:\n    def method(self): return 1\n"
        "if True:\n    def inner(): return 2\n"
        "y = f.local(3)\n"
        "y + 1"
    )
    names = shell.user_ns
    assert isinstance(names["f"], Function)
    assert isinstance(names["g"], Function)
    assert isinstance(names["C"], type)
    assert names["inner"]() == 2
    assert not isinstance(names["inner"], Function)
    assert last == 10
    assert asyncio.run(names["g"].local(7)) == 7


def test_a_class_with_methods_of_ours_becomes_remote(typed: Typed, shell: InteractiveShell) -> None:
    typed("import notebook_ext as nb")
    typed(
        "%%remote --cpu 2\n"
        "class Model:\n    @nb.method()\n    def run(self): return 1\n"
        "class Value:\n    size = 1"
    )
    model = shell.user_ns["Model"]
    assert isinstance(model, Cls)
    assert model()._pool.read().spec.resources.cpu == 2
    assert model().run() == 1
    assert isinstance(shell.user_ns["Value"], type)
    with pytest.raises(UsageError, match=r"%%remote: Bad has both nb\.parameter\(\) and __init__"):
        typed("%%remote\nclass Bad:\n    x: int = nb.parameter()\n    def __init__(self): pass\n")


def test_what_stays_local_is_told(
    typed: Typed, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("import functools, notebook_ext as nb\napp = nb.App('own')")
    typed(
        "%%remote\n"
        "@functools.lru_cache\ndef h(x):\n    return x\n"
        "class K:\n    def run(self): return 1\n"
        "@app.function()\n@functools.lru_cache\ndef remote(x):\n    return x\n"
        "def f(x):\n    return x\n"
    )
    assert capsys.readouterr().err == (
        "%%remote: h stays local: its decorators make it a functools._lru_cache_wrapper, which is "
        "no plain function; put @app.function() (app = nb.App()) above them.\n"
        "%%remote: K stays a local class: none of its methods has @nb.method().\n"
    )
    assert isinstance(shell.user_ns["remote"], Function)


def test_classes_that_functions_of_the_cell_use_are_no_matter(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("import dataclasses, enum")
    typed(
        "%%remote\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n    def far(self): return self.x > 9\n"
        "class Colour(enum.Enum):\n    RED = 1\n    def shown(self): return 'red'\n"
        "class Bad(Exception):\n    def why(self): return 1\n"
        "class Used:\n    def run(self): return 1\n"
        "class Held:\n    size = 1\n"
        "def f(x):\n    return Used().run()\n"
    )
    assert capsys.readouterr().err == ""


def test_the_functions_line_is_that_of_its_def(typed: Typed, shell: InteractiveShell) -> None:
    typed("%%remote --cpu 2\n\nimport functools\n\n\ndef f(x):\n    return x\n")
    code = shell.user_ns["f"].get_raw_f().__code__
    assert code.co_firstlineno == 6
    assert shell.compile.format_code_name(code.co_filename) == ("Cell", "In[1]")


def test_an_already_remote_function_is_left_alone(typed: Typed, shell: InteractiveShell) -> None:
    typed("import notebook_ext as nb\napp = nb.App('own')")
    typed("%%remote --cpu 2\n@app.function(cpu=1)\ndef f(x):\n    return x\n")
    assert isinstance(shell.user_ns["f"], Function)
    assert "f" in shell.user_ns["app"].registered_functions


def test_the_app_is_the_notebooks_own_or_the_one_named(
    typed: Typed, shell: InteractiveShell
) -> None:
    typed("%%remote\ndef a(): pass\ndef b(): pass")
    typed("%%remote --app demo\ndef c(): pass")
    assert {"a", "b"} <= set(cell._apps[None].registered_functions)
    assert set(cell._apps["demo"].registered_functions) == {"c"}


def test_ipythons_syntax_works_in_the_cell(typed: Typed, shell: InteractiveShell) -> None:
    typed("%%remote\nout = !echo hello\nhere = %pwd\ndef f(): pass")
    assert shell.user_ns["out"] == ["hello"]
    assert isinstance(shell.user_ns["f"], Function)


def test_await_works_in_the_cell(typed: Typed, shell: InteractiveShell) -> None:
    assert typed("%%remote\nimport asyncio\ndef f(): pass\nawait asyncio.sleep(0, 7)") == 7


def test_names_of_the_notebook_stand_in_the_options(typed: Typed, shell: InteractiveShell) -> None:
    typed("n = 2")
    typed("%%remote --cpu {n}\ndef f(): pass")
    with pytest.raises(UsageError, match="--cpu"):
        typed("%%remote --cpu {n}x\ndef f(): pass")


def test_a_bad_option_is_one_line_and_nothing_runs(
    typed: Typed, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError):
        typed("%%remote --gpus 1\nran = True\ndef f(): pass")
    shown = capsys.readouterr()
    assert shown.err == "UsageError: %%remote: unknown option --gpus; did you mean --gpu?\n"
    assert "Traceback" not in shown.out
    assert "ran" not in shell.user_ns


def test_one_name_is_for_one_function(typed: Typed) -> None:
    with pytest.raises(UsageError, match="defines 2"):
        typed("%%remote --name x\ndef f(): pass\ndef g(): pass")


def test_a_syntax_error_is_one_with_the_cells_line(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SyntaxError):
        typed("%%remote --cpu 2\ndef f(x):\n    return x x\n")
    shown = capsys.readouterr().out
    assert "line 3" in shown
    assert "return x x" in shown
    assert shown.count("SyntaxError") == 1


def test_an_error_in_the_cell_shows_the_cell_alone(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        typed("%%remote --cpu 2\ndef f(x):\n    return x\n\n1 / 0\n")
    shown = capsys.readouterr().out
    assert "line 5" in shown
    assert "notebook_ext" not in shown
    assert "__remote__" not in shown


def test_a_traceback_shows_the_first_line_as_it_was_typed(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        typed("%%remote --cpu 2\n1 / 0\ndef f(x): pass")
    shown = capsys.readouterr().out
    assert "#%%remote --cpu 2" in shown
    assert "__remote__" not in shown


def test_a_cell_without_functions_says_so_and_runs(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("%%remote\n1 + 1") == 2
    assert "defines no function" in capsys.readouterr().err


def test_a_later_cell_is_an_ordinary_one(typed: Typed, shell: InteractiveShell) -> None:
    typed("%%remote\ndef f(): pass")
    typed("def g(): pass")
    assert not isinstance(shell.user_ns["g"], Function)


def test_what_only_looks_like_it_is_left_alone(shell: InteractiveShell) -> None:
    for source in ("%%remotely x\ndef f(): pass\n", "%%remote?\n"):
        cell = shell.transform_cell(source)  # type: ignore[no-untyped-call]
        assert "__remote__" not in cell


def test_a_program_may_run_it_too(typed: Typed, shell: InteractiveShell) -> None:
    typed("get_ipython().run_cell_magic('remote', '--cpu 1', 'def f(): pass\\n')")
    assert isinstance(shell.user_ns["f"], Function)


def test_in_a_terminal_the_cell_ends_at_an_empty_line(shell: InteractiveShell) -> None:
    assert shell.check_complete("%%remote --cpu 2")[0] == "incomplete"
    assert shell.check_complete("%%remote\ndef f(): pass\n\n")[0] == "complete"


def test_history_has_what_was_typed(shell: InteractiveShell) -> None:
    source = "%%remote --cpu 2\ndef f(): pass"
    seen = []
    shell.events.register("pre_run_cell", lambda info: seen.append(info.raw_cell))
    shell.run_cell(source, store_history=True)  # type: ignore[no-untyped-call]
    assert seen == [source]
