"""The rules of the house, each held by a test: what a reviewer would otherwise have to look for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.conftest import KernelStarter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("kernel_worker", "notebook_ext")

SHOWN_BY = {
    "acceptance/test_deaths.py": "notebook_ext: link",
    "acceptance/test_failures.py": "kernel_worker: errors · notebook_ext: exception",
    "acceptance/test_magics.py": "notebook_ext/widgets: facts",
    "acceptance/test_progress_buttons.py": (
        "notebook_ext: followed · notebook_ext/magics: watching"
    ),
    "acceptance/test_remote_run.py": (
        "kernel_worker/worker: cell_session cell_shell cells "
        "· notebook_ext/magics: arrival cell_function running sessions"
    ),
    "acceptance/test_providers.py": ("kernel_worker/providers: asking · notebook_ext: providing"),
    "providers/test_conformance.py": "kernel_worker/providers: dask local provider ray",
    "acceptance/test_elsewhere.py": "notebook_ext: connecting",
    "acceptance/test_ssh.py": "notebook_ext/ssh: far_end passing tunnel",
    "acceptance/test_nesting.py": "kernel_worker: context · notebook_ext: arrival",
    "acceptance/test_plain_cells.py": "notebook_ext: autoscaler functions",
    "core/test_invariants.py": "kernel_worker/core: ending scheduler state",
    "core/test_transitions.py": "kernel_worker/core: effects events · kernel_worker: records",
    "host/test_templates.py": "kernel_worker/worker: surroundings template",
    "journal/test_shelves.py": "kernel_worker/journal: acts entries items",
    "notebook_ext/magics/test_cell_names.py": "notebook_ext/magics: cell_scopes cell_state",
    "notebook_ext/magics/test_init.py": "notebook_ext/magics: cells table",
    "notebook_ext/magics/test_lines.py": "notebook_ext/magics: completion",
    "notebook_ext/test_conversation.py": "notebook_ext: open_call submission told",
    "notebook_ext/widgets/test_call_view.py": "notebook_ext/widgets: call_details",
    "notebook_ext/widgets/test_ticker.py": "notebook_ext/widgets: watched",
    "acceptance/api/test_web.py": "notebook_ext/web: reloading",
    "notebook_ext/web/test_gateway.py": ("notebook_ext/web: function here"),
    "notebook_ext/test_controls.py": "notebook_ext: retrying",
    "notebook_ext/test_secret_store.py": "notebook_ext: secret_commands",
    "notebook_ext/test_function.py": "notebook_ext: arguments callee package source",
    "notebook_ext/test_maps.py": "notebook_ext: drain map_run",
    "test_capture.py": "notebook_ext/capture: *",
    "wire/test_messages.py": "kernel_worker/wire/messages: *",
    "acceptance/test_debug.py": "notebook_ext: console",
    "worker/test_consoles.py": "kernel_worker/worker: debugging",
    "acceptance/test_blobs.py": "kernel_worker/worker: arriving",
    "worker/test_run.py": "kernel_worker/worker: control coroutines main work",
}
"""Source files without a test file of their own, by the test that shows what they do."""

UNTESTED = {"__init__", "__main__"}

# Written in pieces, so that this file does not break its own rule.
FOREIGN = re.compile(r"/(?:work|root)/|py" r"pi\.|python" r"hosted\.|(?:extra-)?index" r"-url")
"""Paths of one machine, and addresses that packages come from: the user's environment has those."""

VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}


def sources() -> list[Path]:
    """Return every Python file of the packages, relative to the root."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found)


def kept_files() -> list[Path]:
    """Return the files of the project: what git keeps, or would keep."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("no git, or no repository: nothing says which files are kept")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def mirror(source: Path) -> Path:
    """Return where the tests of `source` belong: rooms below tests/, the client in a folder."""
    parts = source.parts[1:] if source.parts[0] == "kernel_worker" else source.parts
    return Path("tests", *parts[:-1], f"test_{source.name}")


def shown_by_others() -> set[str]:
    """Return the files that `SHOWN_BY` names."""
    shown: set[str] = set()
    for rooms in SHOWN_BY.values():
        for room, names in (each.split(": ") for each in rooms.split(" · ")):
            for name in names.split():
                files = [path.relative_to(ROOT) for path in (ROOT / room).glob(f"{name}.py")]
                assert files, f"{room}/{name}.py is not there any more"
                shown |= {str(path) for path in files if path.stem not in UNTESTED}
    return shown


def test_every_source_file_has_its_test_file_or_is_shown_by_another() -> None:
    plain = {str(path) for path in sources() if path.stem not in UNTESTED}
    tested = {path for path in plain if (ROOT / mirror(Path(path))).exists()}
    assert [path for path in SHOWN_BY if not (ROOT / "tests" / path).exists()] == []
    assert sorted(plain - tested - shown_by_others()) == []
    assert sorted(shown_by_others() & tested) == [], "have test files of their own now"


def test_files_are_named_by_their_noun() -> None:
    assert [path for path in sources() if VAGUE & set(path.with_suffix("").parts)] == []


def test_the_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_names_a_machine_or_a_package_index() -> None:
    found = {}
    for path in kept_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if hit := FOREIGN.search(text):
            found[str(path.relative_to(ROOT))] = hit.group()
    assert found == {}


def test_nothing_that_is_installed_or_made_is_kept() -> None:
    made = {".venv", "__pycache__", ".ipynb_checkpoints", "dist", "build"}
    assert [path for path in kept_files() if made & set(path.relative_to(ROOT).parts)][:3] == []


def test_the_readme_gives_the_reason_for_each_dependency() -> None:
    table = README.split("| package |")[1].split("\n\n")[0]
    explained = set(re.findall(r"^\| ([\w-]+) \| .{10,} \|$", table, re.MULTILINE))
    assert explained == {re.split(r"[<>=\[]", each)[0] for each in PROJECT["dependencies"]}


def test_the_readme_names_the_make_targets_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) - targets <= {"installs"}


def test_the_readme_shows_files_that_are_there() -> None:
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_gallery_shows_every_notebook_in_a_small_picture() -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        picture = ROOT / f"docs/pictures/{notebook.stem}.png"
        assert f"(docs/pictures/{notebook.stem}.png)" in README
        assert picture.stat().st_size < 150_000, picture


def test_the_blocks_of_the_readme_run(start_kernel: KernelStarter, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    place = Place(tmp_path / "p")  # what it deploys is nobody else's
    try:
        kernel = start_kernel(variables=place.variables)
        for block in blocks:
            error = kernel.run(block).error
            assert error is None, f"{block}\n{error.traceback}"
    finally:
        place.end()


def test_ci_runs_make_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test"]


SOON = re.compile(
    r"(?:monotonic|perf_counter)\(\) - \w+ <"
    r"|(?:seconds|took|slowest|asked|pressed\(.*\)|\(times\)) < "
)
"""How a test says that something was soon over."""

BESIDE = {
    "core",
    "wire",
    "suites",
    "documentation",
    "notebooks",
    "test_capture.py",
    "test_house.py",
}
"""What `make test` runs beside something else whatever it measures."""


def test_what_watches_the_clock_is_marked_so_and_runs_alone() -> None:
    watching, marked = set(), set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(ROOT / 'tests')}::{node.name}"
                if SOON.search(ast.get_source_segment(text, node) or ""):
                    watching.add(name)
                decorators = "".join(map(ast.unparse, node.decorator_list))
                if "pytestmark = pytest.mark.clock" in text or "mark.clock" in decorators:
                    marked.add(name)
    tests = {
        name for name in watching if "::test_" in name and re.split("/|::", name)[0] not in BESIDE
    }
    assert len(tests) > 20
    assert sorted(tests - marked) == []


API_TESTS = ROOT / "tests/acceptance/api"


API_TABLE = (API_TESTS / "README.md").read_text()


def functions_of(path: Path) -> set[str]:
    """Return the names of the test functions of a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_table_of_what_the_documentation_says_names_tests_that_exist() -> None:
    named = set(re.findall(r"`([\w./]*test_\w+\.py)::(\w+)`", API_TABLE))
    assert sorted(path for path, _ in named if not (API_TESTS / path).exists()) == []
    there = {path: functions_of(API_TESTS / path) for path, _ in named}
    assert sorted((path, name) for path, name in named if name not in there[path]) == []


def test_every_row_of_that_table_names_a_test_or_says_that_there_is_none_yet() -> None:
    rows = [line.strip("| ").split(" | ") for line in API_TABLE.splitlines() if line[:2] == "| "]
    rows = [row for row in rows if row != ["line", "shown by"]]
    assert len(rows) > 90
    assert [row for row in rows if len(row) != 2] == []
    shown = re.compile(r"(`[\w./]+\.py::test_\w+`(, )?)+|not yet.*")
    assert [line for line, by in rows if not shown.fullmatch(by)] == []


def test_every_test_file_of_the_documentations_lines_is_in_that_table() -> None:
    files = {path.name for path in API_TESTS.glob("test_*.py")}
    assert sorted(files - set(re.findall(r"`(test_\w+\.py)::", API_TABLE))) == []
