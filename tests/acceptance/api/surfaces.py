"""Where a line of API.md is tried: a cell, an `await` cell, a script; with the same answers."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import IO, Any, Protocol, cast

from tests.acceptance.api.awaited import awaited
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE

_MARK = "the value is: "


@dataclass(frozen=True)
class Raised:
    """The exception that lines ended with, as the user sees it."""

    name: str
    message: str
    traceback: str


class Surface(Protocol):
    """Where lines are executed, one lot after the other, as in the cells of one notebook."""

    def run(self, source: str) -> str | Raised:
        """Execute lines; return what they printed, or how they failed."""


class Lines:
    """What tests use of a surface."""

    def __init__(self, surface: Surface) -> None:
        """Execute on `surface`."""
        self._surface = surface

    def run(self, source: str) -> str:
        """Execute lines that must not fail; return what they printed."""
        ended = self._surface.run(dedent(source))
        assert isinstance(ended, str), ended.traceback
        return ended

    def value(self, expression: str) -> Any:
        """Return the literal that an expression gives."""
        printed = self.run(f"print({_MARK!r} + repr(({expression})))")
        return ast.literal_eval(printed.rpartition(_MARK)[2].strip())

    def fails(self, source: str) -> Raised:
        """Execute lines that must fail; return how."""
        ended = self._surface.run(dedent(source))
        assert isinstance(ended, Raised), f"it did not fail and printed {ended!r}"
        return ended


class CellSurface:
    """Plain cells of a real kernel."""

    def __init__(self, kernel: PlainKernel) -> None:
        """Type into `kernel`."""
        self._kernel = kernel

    def run(self, source: str) -> str | Raised:
        """Execute a cell."""
        cell = self._kernel.run(source)
        if cell.error is None:
            return cell.stdout
        return Raised(cell.error.name, cell.error.value, cell.error.traceback)


class AwaitSurface(CellSurface):
    """Cells in which everything that waits is awaited."""

    def run(self, source: str) -> str | Raised:
        """Execute the cell's `.aio` twin."""
        return super().run(awaited(source))


_SCRIPT = """
import contextlib, io, json, sys, traceback
namespace = vars(sys.modules["__main__"])
answers = open(int(sys.argv[1]), "w")
for number, line in enumerate(sys.stdin):
    path = f"part_{number}.py"
    source = json.loads(line)
    with open(path, "w") as file:
        file.write(source)
    printed, raised = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, path, "exec"), namespace)
    except BaseException as error:
        raised = [type(error).__name__, str(error), "".join(traceback.format_exception(error))]
    print(json.dumps([printed.getvalue(), raised]), file=answers, flush=True)
"""


class ScriptSurface:
    """One long-lived interpreter without IPython or a loop, as of a script."""

    def __init__(self, directory: Path) -> None:
        """Start it in `directory`."""
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(write)],
            stdin=subprocess.PIPE,
            pass_fds=(write,),
            cwd=directory,
            text=True,
        )
        os.close(write)
        self._answers = os.fdopen(read)
        self._lines = cast("IO[str]", self._process.stdin)

    def run(self, source: str) -> str | Raised:
        """Execute lines."""
        print(json.dumps(source), file=self._lines, flush=True)
        answer = self._answers.readline()
        assert answer, f"the script died: {self._process.wait(30 * PATIENCE)}"
        printed, raised = json.loads(answer)
        return str(printed) if raised is None else Raised(*raised)

    def close(self) -> None:
        """End it."""
        self._lines.close()
        try:
            self._process.wait(30 * PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._answers.close()


def in_both_ways(define: str, lines: Mapping[str, tuple[str, str]]) -> str:
    """Return a script that asserts each of `lines`, written blocking and written awaited."""
    checks = "\n".join(f"    assert {sync}" for sync, _ in lines.values())
    awaits = "\n".join(f"    assert {aio}" for _, aio in lines.values())
    return (
        f"import asyncio\n{define}\n"
        f"def main():\n{checks}\nasync def main_aio():\n{awaits}\nmain()\nasyncio.run(main_aio())"
    )
