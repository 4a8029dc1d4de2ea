"""API.md section 9, the command line: `notebook-ext run`, `deploy`, `app list|stop|history`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.waiting import PATIENCE

SHOP = """
import asyncio
import datetime
import notebook_ext as nb

app = nb.App("shop")
factor = 10

@app.function()
def price(x: int, plus: int = 0):
    print("pricing", x)
    return factor * x + plus

@app.local_entrypoint()
def main(n: int, name: str = "it", loud: bool = False, day: datetime.datetime | None = None):
    text = f"{name} costs {price.remote(n)}"
    print(text.upper() if loud else text, day and day.year)

@app.local_entrypoint(name="later")
async def in_a_loop(n: int = 1):
    async with app.run(detach=True) as running:
        assert running is app
        print(await price.remote.aio(n))

@app.local_entrypoint()
def fails():
    raise KeyError("mine")

if __name__ == "__main__":
    raise SystemExit("not from the command line")
"""
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shop(tmp_path: Path) -> str:
    (tmp_path / "shop.py").write_text(SHOP)
    return "shop.py"


@pytest.fixture
def command(tmp_path: Path) -> CommandLine:
    """Run the command line in the test's folder, which is where its scripts are."""
    program = str(Path(sys.executable).with_name("notebook-ext"))

    def run(
        *arguments: str, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | (variables or {}),
            timeout=60 * PATIENCE,
        )

    return run


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """Return the message of a command that ended with an error of one line."""
    assert (done.returncode, done.stdout) == (code, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
    return last


def test_run_an_entrypoint_with_typed_arguments(command: CommandLine, shop: str) -> None:
    words = ("--n", "3", "--name", "tea", "--loud", "--day", "2026-01-02")
    out = succeeded(command("run", f"{shop}::main", *words))
    assert sorted(out.splitlines()) == ["TEA COSTS 30 2026", "pricing 3"]


def test_run_an_async_entrypoint_by_its_name(command: CommandLine, shop: str) -> None:
    assert "20\n" in succeeded(command("run", f"{shop}::later", "--n", "2"))


def test_run_a_function_on_a_worker_with_its_arguments(command: CommandLine, shop: str) -> None:
    out = succeeded(command("run", f"{shop}::price", "--x", "4", "--plus", "2"))
    assert sorted(out.splitlines()) == ["42", "pricing 4"]


def test_run_a_module(command: CommandLine, shop: str) -> None:
    assert shop
    assert "it costs 20" in succeeded(command("run", "-m", "shop::main", "--n", "2"))


def test_run_says_what_is_wrong(command: CommandLine, shop: str) -> None:
    which = one_line(command("run", shop))
    assert "say which: shop.py::main, shop.py::later, shop.py::fails" in which
    assert "no entrypoint or function 'mian'" in one_line(command("run", f"{shop}::mian"))
    assert "there is no file gone.py" in one_line(command("run", "gone.py"))
    assert "Missing option '--n'" in one_line(command("run", f"{shop}::main"), 2)
    wrong = one_line(command("run", f"{shop}::main", "--n", "three"), 2)
    assert "'three' is not a valid integer" in wrong
    shown = succeeded(command("run", f"{shop}::main", "--help"))
    assert "--loud / --no-loud" in shown


def test_an_exception_of_the_users_has_the_users_traceback(command: CommandLine, shop: str) -> None:
    done = command("run", f"{shop}::fails")
    assert done.returncode == 1
    assert 'File "shop.py", line ' in done.stderr
    assert done.stderr.splitlines()[-1] == "KeyError: 'mine'"
    assert "notebook_ext" not in done.stderr


def test_what_is_no_python_is_shown_where_it_stands(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "torn.py").write_text("x = 1\ndef f(:\n")
    done = command("run", "torn.py")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == '  File "torn.py", line 2'
    assert done.stderr.splitlines()[-1].startswith("SyntaxError: ")


def test_deploy_list_history_stop(command: CommandLine, shop: str, own_place: Place) -> None:
    there = own_place.variables
    assert succeeded(command("app", "list", variables=there)) == "Nothing is deployed.\n"
    first = succeeded(command("deploy", shop, "--tag", "first", variables=there))
    assert first == "Deployed shop v1: price\n"
    assert "v2" in succeeded(command("deploy", f"{shop}::app", variables=there))
    assert "stall v1" in succeeded(command("deploy", shop, "--name", "stall", variables=there))
    listed = succeeded(command("app", "list", variables=there)).splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["stall", "v1"], ["shop", "v2"]]
    history = succeeded(command("app", "history", "shop", variables=there)).splitlines()
    assert [line.split()[1] for line in history[1:]] == ["v2", "v1"]
    assert "first" in history[2]
    assert succeeded(command("app", "stop", "shop", variables=there)) == "Stopped: shop v2\n"
    again = one_line(command("app", "stop", "shop", variables=there))
    assert "no app 'shop' is deployed" in again
    assert "nearest: " in one_line(command("app", "history", "shp", variables=there))
    assert "shop" not in succeeded(command("app", "list", variables=there))


def test_an_environment_is_a_profile(command: CommandLine, shop: str, own_place: Place) -> None:
    there = own_place.variables
    assert "v1" in succeeded(command("deploy", "--env", "staging", shop, variables=there))
    assert "shop" in succeeded(command("app", "list", "-e", "staging", variables=there))
    assert succeeded(command("app", "list", variables=there)) == "Nothing is deployed.\n"
