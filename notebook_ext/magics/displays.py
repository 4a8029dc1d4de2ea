"""The magics that show something live: `%remote_graph`, `%remote_pool`, `%remote_dashboard`.

What they name (a call, a function) is an id, or an expression that is looked up in the notebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython import get_ipython
from IPython.core.error import UsageError

from kernel_worker.errors import Error
from notebook_ext.magics.lines import words

if TYPE_CHECKING:
    from collections.abc import Callable


def remote_graph(line: str) -> object:
    """Show the live tree of a call: all calls that were made inside it, and how each stands.

        %remote_graph fc-01J...
        %remote_graph training       # a variable that holds the call
        %remote_graph                # the newest call; above a call in its cell: that one

    Calls that are alike are one node; a click on it shows ids, times, output and errors.
    """
    from notebook_ext import widgets  # noqa: PLC0415  widgets, only where they are shown

    named = _named("remote_graph", line, "one call: its id, or a variable that holds it")
    if named is not None and not str(getattr(named, "object_id", named)).startswith("fc-"):
        raise UsageError(
            f"%remote_graph: {line.strip()} is no id of a call (fc-…), and no variable holds one"
        )
    return _shown("remote_graph", lambda: widgets.graph(named))


def remote_pool(line: str) -> object:
    """Show the workers of a function, live, with sliders and buttons.

        %remote_pool score
        %remote_pool                 # all functions: as %remote_dashboard

    The sliders are the autoscaler's settings. They and the buttons act while a cell runs, too.
    """
    from notebook_ext import widgets  # noqa: PLC0415  likewise
    from notebook_ext.autoscaler import Pooled  # noqa: PLC0415  likewise

    named = _named("remote_pool", line, "one function, or nothing for all of them")
    if named is not None and not isinstance(named, Pooled):
        raise UsageError(
            f"%remote_pool: {line.strip()} is neither a Function nor a method of an instance of a "
            "Cls; %remote_dashboard shows all of them"
        )
    return _shown(
        "remote_pool", widgets.dashboard if named is None else lambda: widgets.pool(named)
    )


def remote_dashboard(line: str) -> object:
    """Show all hosts, functions and calls of the broker, live, with sliders and buttons.

    %remote_dashboard
    """
    from notebook_ext import widgets  # noqa: PLC0415  likewise

    words("remote_dashboard", line, "no argument")
    return _shown("remote_dashboard", widgets.dashboard)


def pool_words(_line: str, symbol: str) -> list[str]:
    """Return what Tab offers behind `%remote_pool`: the notebook's functions."""
    from notebook_ext.autoscaler import Pooled  # noqa: PLC0415  only where it is asked for

    shell = get_ipython()
    names = dict(shell.user_ns) if shell is not None else {}
    functions = (name for name, held in names.items() if isinstance(held, Pooled))
    return sorted(name for name in functions if name.startswith(symbol) and name[0] != "_")


def _shown(magic: str, show: Callable[[], object]) -> object:
    try:
        return show()
    except Error as error:
        raise UsageError(f"%{magic}: {' '.join(str(error).split())}") from error


def _named(magic: str, line: str, allowed: str) -> object:
    text = line.strip()
    if not text or text.startswith("fc-"):
        return text or None
    shell = get_ipython()
    assert shell is not None  # noqa: S101  a magic runs in its shell
    try:
        found: object = shell.ev(text)
    except SyntaxError as error:
        raise UsageError(f"%{magic}: takes {allowed}; %{magic}? shows an example") from error
    except NameError as error:
        raise UsageError(f"%{magic}: {text}: the notebook has no {error.name}") from error
    except Exception as error:
        raise UsageError(f"%{magic}: {text}: {type(error).__name__}: {error}") from error
    return found
