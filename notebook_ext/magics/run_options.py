"""The options of `%%remote_run` and `%%remote_spawn`, and their help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from notebook_ext.magics import sessions
from notebook_ext.magics.options import OF_ONE_RUN, Grammar, Option, checked

MONTH_SECONDS: Final = 30 * 86_400.0
"""A cell has no timeout where a month is enough."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """What stands behind `%%remote_run`."""

    given: dict[str, Any]
    """The decorator's options, by their names there."""
    sent: tuple[str, ...] | None
    """The names of `-i`; None: found in the cell."""
    back: tuple[str, ...] | None
    """The names of `-o`."""
    dry_run: bool
    session: str | None
    restart: bool
    variable: str | None
    """The name for the call, of `--as`."""


def _names(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not all(name.isidentifier() for name in found):
        raise ValueError(text)
    return found


def _variable(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(text)
    return text


def _session(text: str) -> str:
    if not text or "/" in text or text.startswith("-"):
        raise ValueError(text)
    return text


_SWITCH: Final = bool
_OWN: Final = (
    Option("-i", "sent", _names, "a,b", "names to send, instead of those that the cell reads"),
    Option("-o", "back", _names, "x,y", "names to bring back, instead of those that it assigns"),
    Option("--dry-run", "dry_run", _SWITCH, "", "show what would travel, and run nothing"),
    Option(
        "--session",
        "session",
        _session,
        "train",
        "a worker that keeps its names from cell to cell",
        sessions.names,
    ),
    Option("--restart", "restart", _SWITCH, "", "begin the session anew, with empty hands"),
)
_AS: Final = Option("--as", "variable", _variable, "fc", "the name for the call, instead of _")
RUN: Final = Grammar("%%remote_run", (*_OWN, *OF_ONE_RUN))
SPAWN: Final = Grammar("%%remote_spawn", (_AS, *_OWN, *OF_ONE_RUN))
GRAMMARS: Final = {"remote_run": RUN, "remote_spawn": SPAWN}

_NAMES_HELP: Final = """\
Names that the cell reads travel to the worker, names that it assigns come back; so does
an object of which it assigns a part (`df["x"] = ...`). What it changes by a method
(`xs.append(1)`) comes back where you name it: `-o xs`. An error in the cell leaves what was
assigned before it, as in a cell that runs here; one that is stopped, too slow or killed leaves
nothing.

IPython's syntax works there (`!nvidia-smi`, `%timeit f(x)`, `%%time` below the first line).
`--session NAME` keeps a worker and its names from cell to cell, so what cannot travel (a
connection, a model on a device) can stay there. A name of the notebook goes to it again where the
notebook has changed it. If the worker is lost, the next cell says so before anything runs.
"""
_RUN_HELP: Final = f"""Run this cell on a worker, wait for it, and show its output here.

    %%remote_run --gpu any
    model = fit(data)
    model.score(data)

{_NAMES_HELP}
Options:

"""
_SPAWN_HELP: Final = f"""Run this cell on a worker in the background; gives a FunctionCall.

    %%remote_spawn --as training
    model = fit(data)

    training.get()      # waits, brings `model`, returns the last expression's value

The call is kept for seven days: after a restart `nb.FunctionCall.from_id("fc-...").get()`
brings its names where this extension is loaded.

{_NAMES_HELP}
Options:

"""


def help_text(magic: str) -> str:
    """Return what `%%remote_run?` or `%%remote_spawn?` shows."""
    head = _RUN_HELP if magic == "remote_run" else _SPAWN_HELP
    return head + GRAMMARS[magic].help()


def parse(magic: str, line: str) -> RunLine:
    """Return what `line` asks for.

    Raises:
        UsageError: an unknown option or a value that cannot be, in one line.
    """
    grammar = GRAMMARS[magic]
    given = grammar.read(line)
    own = {
        name: given.pop(name, None)
        for name in ("sent", "back", "dry_run", "session", "restart", "variable")
    }
    if own["restart"] is not None and own["session"] is None:
        raise grammar.error("--restart needs --session NAME: it begins a session anew")
    checked(grammar, line, given)
    return RunLine(
        given=given,
        sent=own["sent"],
        back=own["back"],
        dry_run=own["dry_run"] is not None,
        session=own["session"],
        restart=own["restart"] is not None,
        variable=own["variable"],
    )
