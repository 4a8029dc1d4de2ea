"""The command line looks at dicts, queues and volumes, and changes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import notebook_ext as nb
from notebook_ext.cli import main

Run = Callable[..., str]


@pytest.fixture
def run(live: nb.App) -> Run:
    """Run a command of the command line, and return what it prints."""
    assert live.name

    def invoke(line: str, code: int = 0) -> str:
        result: Result = CliRunner().invoke(main, line.split())
        assert result.exit_code == code, result.output
        return result.output

    return invoke


def test_dicts(run: Run) -> None:
    run("dict create cli-d")
    run("dict put cli-d a b")
    run("dict put --literal cli-d 1 [1,2]")
    assert run("dict get cli-d a") == "b\n"
    assert run("dict get -l cli-d 1") == "[1, 2]\n"
    assert "there is no key 'z' in <Dict cli-d>" in run("dict get cli-d z", 1)
    assert run("dict items cli-d") == "'a'\t'b'\n1\t[1, 2]\n"
    assert run("dict items cli-d 1").splitlines() == ["'a'\t'b'", "…"]
    assert run("dict len cli-d") == "2\n"
    assert ["cli-d", "2"] in [line.split()[:2] for line in run("dict list").splitlines()]
    assert run("dict pop cli-d a") == "b\n"
    run("dict pop cli-d a", 1)
    assert "reads as a literal" in run("dict put -l cli-d a b", 2)
    run("dict clear --yes cli-d")
    assert run("dict len cli-d") == "0\n"
    run("dict delete --yes cli-d")
    assert run("dict len cli-d", 1).startswith("Error: there is no dict 'cli-d'")


def test_queues(run: Run) -> None:
    run("queue create cli-q")
    run("queue put cli-q a b")
    run("queue put -l -p p cli-q 1")
    assert run("queue peek cli-q").splitlines() == ["a", "…"]
    assert run("queue next cli-q") == "a\n"
    assert run("queue next -p p cli-q") == "1\n"
    assert "there is nothing in <Queue cli-q>" in run("queue next -p p cli-q", 1)
    assert (run("queue len cli-q"), run("queue len --total cli-q")) == ("1\n", "1\n")
    assert ["cli-q", "1"] in [line.split()[:2] for line in run("queue list").splitlines()]
    run("queue clear -y --all cli-q")
    assert run("queue len cli-q") == "0\n"
    run("queue delete -y cli-q")
    assert "cli-q" not in run("queue list")


def test_volumes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    assert "cli-v" not in run("volume list")
    path = run("volume create cli-v").strip()
    assert run("volume path cli-v").strip() == path
    run(f"volume put cli-v {tmp_path}/in/a.txt /")
    run(f"volume put cli-v {tmp_path}/in /tree")
    assert "is there already" in run(f"volume put cli-v {tmp_path}/in/a.txt", 1)
    run(f"volume put -f cli-v {tmp_path}/in/a.txt")
    assert [line.split()[-1] for line in run("volume ls cli-v").splitlines()] == ["a.txt", "tree/"]
    assert run("volume get cli-v tree/a.txt -") == "text"
    run(f"volume get cli-v a.txt {tmp_path}")
    run(f"volume get cli-v a.txt {tmp_path}", 1)
    run(f"volume get cli-v none {tmp_path}/none", 1)
    run(f"volume get -f cli-v none {tmp_path}/a.txt", 1)
    assert not (tmp_path / "none").exists()
    assert (tmp_path / "a.txt").read_text() == "text"
    assert "and then to where" in run("volume cp cli-v a.txt", 2)
    run("volume cp cli-v a.txt b.txt")
    run("volume rm cli-v a.txt")
    run("volume rm -r cli-v tree")
    assert "No such file" in run("volume rm cli-v a.txt", 1)
    assert [line.split()[-1] for line in run("volume ls cli-v").splitlines()] == ["b.txt"]
    odd = Path(path, os.fsdecode(b"x\n\x1b[2J\xff"))
    odd.touch()
    assert run("volume ls cli-v").splitlines()[1].endswith(r"  x\n\x1b[2J\udcff")
    odd.unlink()
    run("volume rename cli-v cli-w")
    assert "cli-w" in run("volume list").split()
    run("volume delete -y cli-w")
