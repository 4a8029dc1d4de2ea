"""The console of a worker in the calling cell: a debugger there, its input and output here.

Theory. Whoever types has a connection of its own, so that the session's is not kept waiting. What
the worker shows is printed, its last line is the prompt of `input`, and what is typed goes back. In
a notebook that is the front end's input field, in a terminal the terminal.

`at_breakpoint` is called by the thread that waits for the call; `debug` by the user.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import ConnectionError, InvalidError, NotFoundError  # noqa: A004  ours
from kernel_worker.wire import messages
from notebook_ext import inquiry

if TYPE_CHECKING:
    from kernel_worker.model import WorkerId
    from notebook_ext.call import FunctionCall

AWAITED: Final = "its call is awaited, and a loop that types keeps all other tasks waiting"
_LOOK_SECONDS: Final = 1.0


def at_breakpoint(worker: WorkerId, *, is_awaited: bool = False) -> None:
    """Look at an input of a call that this thread waits for, or (`is_awaited`) let it go on."""
    connection = inquiry.find()
    if connection is None:
        return
    with inquiry.Inquiry(connection) as link:
        why = AWAITED if is_awaited else _why_no_input()
        if why:
            link.say(messages.ConsoleRefused(worker, why))
            return
        try:
            info = link.take_console(worker)
        except (NotFoundError, InvalidError):
            return  # it has gone on meanwhile
        _title(f"{info.name} ({info.call}#{info.index}) is at a breakpoint; c goes on, h helps")
        _talk(link, worker)


def debug(call: str | FunctionCall[Any] = "") -> None:
    """Look at the frames of an input that failed, in the worker that kept them.

    A worker keeps them where `nb.config.keep_failed_seconds` was set when the call was made: for
    so long, and until somebody has looked and quit. It takes no other input meanwhile, and uses no
    core. The commands are those of `pdb`: p, pp, w, u, d, l, and `locals`; q quits.

    Args:
        call: which one failed, or its id, or the id of a worker; else the last that did.

    Raises:
        NotFoundError: no frames are kept.
        InvalidError: it is no call, somebody looks at it already, or nobody can type here.
        ConnectionError: the broker is gone.
    """
    subject = getattr(call, "object_id", call)
    if not isinstance(subject, str) or (subject and not subject.startswith(("fc-", "ta-"))):
        raise InvalidError(f"debug({call!r}): give a call (fc-…, or the FunctionCall itself).")
    why = _why_no_input()
    if why:
        raise InvalidError(f"debug: {why}; call it in a notebook, a terminal or IPython.")
    connection = inquiry.find()
    if connection is None:
        raise NotFoundError("no frames are kept: no broker is running.")
    with inquiry.Inquiry(connection) as link:
        info = link.take_console(subject)
        _title(f"{info.name} ({info.call}#{info.index}) failed here; q quits, h helps")
        _talk(link, info.worker)


def _talk(link: inquiry.Inquiry, worker: WorkerId) -> None:
    """Show what comes and send what is typed, until the console is closed."""
    while True:
        heard = link.hear(_LOOK_SECONDS)
        if heard is None:
            if inquiry.find() is None:
                raise ConnectionError("The broker is gone, and the console with it.")
            continue
        match heard:
            case messages.ConsoleSaid(), [text]:
                link.say(messages.ConsoleLine(worker, _typed(text.decode())))
            case messages.ConsoleClosed(), _:
                return
            case _:
                pass


def _typed(text: str) -> str:
    shown, end, prompt = text.rpartition("\n")
    sys.stdout.write(shown + end)
    sys.stdout.flush()
    try:
        return input(prompt)
    except EOFError:
        return "EOF"


def _title(text: str) -> None:
    sys.stdout.write(f"notebook_ext: {text}\n")


def _why_no_input() -> str:
    """Return why nobody can type where this thread runs; empty where somebody can."""
    interactive: Any = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return "" if kernel._allow_stdin else "this front end takes no input"  # noqa: SLF001  no other way to ask
    if sys.stdin is None or not sys.stdin.isatty():
        return "standard input is no terminal"
    return ""
