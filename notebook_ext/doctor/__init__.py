"""`notebook-ext doctor`: looks at an installation and a connection, and says what to do.

Each line is a finding: ok, a warning, or a problem with its remedy. What is looked at is real: the
directories are made and locked, a broker is asked or started, a worker runs a call. A broker that
was started for this is stopped again; what stays is one spawned call among the recent ones.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from kernel_worker.errors import InvalidError
from notebook_ext.doctor import installation, machine
from notebook_ext.doctor.finding import Finding, of_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_WIDTH = max(len(each) for each in _COLOURS)
_CHECK_WIDTH = 25


def run(*, as_json: bool, limit_seconds: float) -> int:
    """Look at everything, print what was found; return the exit status: 1 where there is a problem.

    Args:
        as_json: print one JSON object, instead of lines as they are found.
        limit_seconds: how long a worker may take.
    """
    found = []
    console = Console(highlight=False, soft_wrap=True)
    for each in findings(limit_seconds):
        found.append(each)
        if not as_json:
            console.print(drawn(each))
    problems = [each for each in found if each.grade == "problem"]
    if as_json:
        report = {"ok": not problems, "findings": [dataclasses.asdict(each) for each in found]}
        console.print(json.dumps(report, indent=2), markup=False)
    return 1 if problems else 0


def findings(limit_seconds: float) -> Iterator[Finding]:
    """Look at the installation, the machine, and, where these will do, the connection."""
    from kernel_worker import settings  # noqa: PLC0415  what is set now

    yield from installation.findings()
    try:
        configured = settings.load()
    except InvalidError as error:
        yield of_error("settings", error)
        return
    is_sound = True
    for each in machine.findings(configured):
        is_sound &= each.grade != "problem"
        yield each
    if is_sound:
        from notebook_ext.doctor import connection  # noqa: PLC0415  loads all that makes calls

        yield from connection.findings(limit_seconds)
    else:
        yield Finding("broker", "warning", "not tried", "solve the problems above first")


def drawn(finding: Finding) -> Text:
    """Return a finding as a line."""
    line = Text(f"{finding.grade:{_WIDTH}}", style=_COLOURS[finding.grade])
    line.append(f"  {finding.check:{_CHECK_WIDTH}}  {finding.said}", style="default")
    if finding.remedy:
        line.append(f"; {finding.remedy}", style="default")
    return line
