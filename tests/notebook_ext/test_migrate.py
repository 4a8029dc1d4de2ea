"""What `notebook-ext migrate` finds in scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from notebook_ext.cli import main
from notebook_ext.exception import InvalidError
from notebook_ext.migrate import lines, look

SCRIPTS = sorted((Path(__file__).parents[1] / "acceptance" / "scripts").glob("*.py"))


def found(source: str) -> list[tuple[int, str]]:
    return [(each.line, each.used) for each in look(source, "s.py").findings]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_that_run_are_covered(path: Path) -> None:
    source = path.read_text().replace("import notebook_ext as modal", "import modal")
    report = look(source, path.name)
    assert report.findings == []
    assert report.uses > 3
    ((line, text),) = report.imports
    assert source.splitlines()[line - 1] == "import modal"
    assert text == "import notebook_ext as modal"


def test_names_that_are_not_there_are_named_with_what_to_do() -> None:
    source = """
import modal
import modal as m

stub = modal.Stub("old")
box = modal.Sandbox.create("ls")
with m.forward(8000) as tunnel:
    print(modal.nothing_like_it, modal.Retries)
"""
    report = look(source, "s.py")
    assert [(each.line, each.used) for each in report.findings] == [
        (5, "modal.Stub"),
        (6, "modal.Sandbox"),
        (7, "m.forward"),
        (8, "modal.nothing_like_it"),
    ]
    assert "write App" in report.findings[0].instead
    assert "subprocess" in report.findings[1].instead
    assert report.imports == [
        (2, "import notebook_ext as modal"),
        (3, "import notebook_ext as m"),
    ]


def test_names_that_are_imported_by_themselves() -> None:
    source = """
from modal import App, Sandbox as Box, method
from modal.exception import TimeoutError, NotThere
from modal.gpu import A100
from os import path
from . import modal as mine
app = App("x")
"""
    assert found(source) == [
        (2, "modal.Sandbox"),
        (3, "modal.exception.NotThere"),
        (4, "modal.gpu.A100"),
    ]
    report = look(source, "s.py")
    assert report.imports[0] == (2, "from notebook_ext import App, Sandbox as Box, method")
    assert report.imports[1][1] == "from notebook_ext.exception import TimeoutError, NotThere"


def test_options_of_functions_and_classes() -> None:
    source = """
import modal
app = modal.App("x", proxy=None)

@app.function(
    timeout=3, keep_warm=1, region="eu",
    proxy=modal.Retries(1), block_network=True,
)
def f(): ...

@app.cls(ephemeral_disk=3, **more)
class C: ...

g = f.with_options(cpu=2, checkpointing_enabled=True)
f.remote(1); f.map([1]); f.no_such_way(2)
app.set_description("x")
modal.Retries(max_retries=1, jitter=2)
other.function(anything=1)
"""
    assert found(source) == [
        (3, "modal.App(proxy=…)"),
        (7, "app.function(block_network=…)"),
        (7, "app.function(proxy=…)"),
        (11, "app.cls(ephemeral_disk=…)"),
        (14, "f.with_options(checkpointing_enabled=…)"),
        (15, "f.no_such_way"),
        (16, "app.set_description"),
        (17, "modal.Retries(jitter=…)"),
    ]


def test_a_name_that_is_given_to_something_else_is_not_modals_any_more() -> None:
    assert found("import modal\napp = modal.App('x')\napp = object()\napp.whatever") == []


def test_what_is_read() -> None:
    def said(source: str) -> list[str]:
        return list(lines(look(source, "s.py"), "s.py"))

    assert said("x = 1") == ["s.py does not use modal."]
    assert said("import modal\nmodal.App") == [
        "s.py:1: write import notebook_ext as modal",
        "All 1 uses of modal are covered.",
    ]
    uncovered, counted = said("import modal\nmodal.Sandbox, modal.App")[1:]
    assert uncovered.startswith("s.py:2: modal.Sandbox is not covered: run the command in a func")
    assert counted == "1 uses of modal are not covered."
    with pytest.raises(InvalidError, match=r"s.py: .*allowed is a file of Python"):
        look("def", "s.py")


def test_the_command_ends_with_1_where_something_is_not_covered(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import modal\napp = modal.App()")
    bad.write_text("import modal\nmodal.Tunnel")
    run = CliRunner()
    assert run.invoke(main, ["migrate", str(good)]).exit_code == 0
    ended = run.invoke(main, ["migrate", str(bad)])
    assert ended.exit_code == 1
    assert f"{bad}:2: modal.Tunnel is not covered" in ended.output
    assert run.invoke(main, ["migrate", str(tmp_path / "none.py")]).exit_code == 2


def test_what_an_image_cannot_be_is_found_in_chains() -> None:
    source = """
import modal

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git")
    .pip_install("numpy")
)
other = image.run_commands("ls").env({"A": "1"})
app = modal.App("a", image=modal.Image.from_registry("x"))

@app.function(image=image)
def f():
    return other.apt_install
"""
    report = look(source, "s.py")
    assert [(each.line, each.used) for each in report.findings] == [
        (6, "Image.apt_install"),
        (9, "Image.run_commands"),
        (10, "Image.from_registry"),
    ]
    assert "use .run_function" in report.findings[1].instead
