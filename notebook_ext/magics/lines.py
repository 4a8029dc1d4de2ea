"""The magics of one line about the broker and its calls.

`%remote_status`, `%remote_calls` and Tab show, and start no broker where none has been; the others
act. Whatever cannot be is a `UsageError`, in one line.
"""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, Any, Final

from IPython import get_ipython
from IPython.core.error import UsageError

from kernel_worker.errors import Error, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from notebook_ext.attaching import AttachedWorker
    from notebook_ext.call import FunctionCall
    from notebook_ext.widgets.status import CallsReport, StatusReport

_SHOWN_CALLS: Final = 100
_PATIENCE_SECONDS: Final = 0.5
"""A Tab may take no longer."""
_TERMINATE: Final = "--terminate-containers"
_LIMIT: Final = "--limit"


def remote_status(line: str) -> StatusReport:
    """Show the broker, its hosts, pools and workers, and what waits.

        %remote_status

    Starts nothing: where no broker runs it says so.
    """
    from notebook_ext import inquiry  # noqa: PLC0415  zmq, only where it is used
    from notebook_ext.widgets.status import StatusReport  # noqa: PLC0415  likewise

    words("remote_status", line, "no argument")
    return StatusReport(inquiry.status())


def remote_calls(line: str) -> CallsReport:
    """Show recent calls, also ended ones, with the ids that `FunctionCall.from_id` takes.

        %remote_calls
        %remote_calls --limit 20

    The newest come first. The ids hold after a restart of the kernel and of the broker:
    `nb.FunctionCall.from_id("fc-...").get()`.
    """
    from notebook_ext import inquiry  # noqa: PLC0415  zmq, only where it is used
    from notebook_ext.call_status import call_filter  # noqa: PLC0415  likewise
    from notebook_ext.widgets.status import CallsReport  # noqa: PLC0415  likewise

    given = line.replace("=", " ").split()
    limit = _SHOWN_CALLS
    if given:
        if given[0] != _LIMIT:
            raise UsageError(f"%remote_calls: {_unknown(given[0], (_LIMIT,))}")
        if len(given) != 2 or not given[1].isdecimal() or not int(given[1]):  # noqa: PLR2004  it and its value
            raise UsageError(f"%remote_calls: {_LIMIT} needs a number, such as {_LIMIT} 20")
        limit = int(given[1])
    return CallsReport(inquiry.calls(call_filter(None, None, limit)))


def remote_logs(line: str) -> None:
    """Show what a call has written, so far or in all.

        %remote_logs fc-01J...
        %remote_logs training        # a variable that holds the call

    Up to 64 MiB of a call are kept, for as long as its results.
    """
    (word,) = words("remote_logs", line, "one call: its id, or a variable that holds it")
    call = call_of("remote_logs", word)
    try:
        for record in call.logs():
            sys.stdout.write(f"{record}\n")
    except NotFoundError as error:
        raise UsageError(f"%remote_logs: nobody knows the call {word}") from error
    except Error as error:
        raise UsageError(f"%remote_logs: {_one_line(error)}") from error


def remote_cancel(line: str) -> None:
    """Cancel a call: what has not started never does, what has is interrupted.

    %remote_cancel fc-01J...
    %remote_cancel training                          # a variable that holds the call
    %remote_cancel training --terminate-containers   # also kill its workers
    """
    given = line.split()
    kills = _TERMINATE in given
    left = " ".join(word for word in given if word != _TERMINATE)
    (word,) = words(
        "remote_cancel", left, "one call: its id, or a variable that holds it", (_TERMINATE,)
    )
    call = call_of("remote_cancel", word)
    try:
        if call.status().done:
            raise UsageError(f"%remote_cancel: the call {word} has ended")
        call.cancel(terminate_containers=kills)
    except NotFoundError as error:
        raise UsageError(f"%remote_cancel: nobody knows the call {word}") from error
    except Error as error:
        raise UsageError(f"%remote_cancel: {_one_line(error)}") from error


def remote_connect(line: str) -> None:
    """Connect this notebook to a broker, or let machines of a cluster run its functions.

        %remote_connect local
        %remote_connect ~/gpu-box.json     # a connection file of that broker
        %remote_connect ssh://gpu-box      # whatever `ssh gpu-box` reaches without a password
        %remote_connect ray://auto         # the Ray cluster that this machine is a part of
        %remote_connect ray://head:10001?max_hosts=4
        %remote_connect dask://scheduler:8786
        %remote_connect slurm://gpu?account=physics&walltime=90

    Nobody needs it on one machine: the first call connects by itself. On the other machine,
    `notebook-ext broker invite NAME` makes a connection file; by ssh the broker there is found, or
    started, and nothing has to be open but ssh. Calls that are waited for on the broker before
    end; spawned ones go on there. The options of a cluster are those of `nb.connect`.
    """
    from notebook_ext import connecting  # noqa: PLC0415  zmq, only where it is used

    (target,) = words("remote_connect", line, "`local`, a connection file, ssh://HOST or a cluster")
    try:
        said = connecting.connect(target)
    except Error as error:
        raise UsageError(f"%remote_connect: {_one_line(error)}") from error
    sys.stdout.write(f"{said}\n")


def remote_attach(line: str) -> AttachedWorker:
    """Open a console on a live worker, by its id or by a call that it runs.

        %remote_attach ta-01J...
        %remote_attach fc-01J...
        %remote_attach training      # a variable that holds the call

    The worker becomes a Jupyter kernel too, and goes on with its calls. What is shown says how to
    attach: with `jupyter console`, or in JupyterLab. Tab offers the workers and calls.
    """
    from notebook_ext.attaching import attach  # noqa: PLC0415  only where it is used

    (word,) = words("remote_attach", line, "one worker (ta-…) or call (fc-…)")
    subject = _subject_of("remote_attach", word, "of a worker (ta-…) or a call (fc-…)")
    try:
        return attach(subject)
    except Error as error:
        raise UsageError(f"%remote_attach: {_one_line(error)}") from error


def remote_debug(line: str) -> None:
    """Look at the frames of an input that failed, in the worker that kept them.

        %remote_debug                # the last that failed
        %remote_debug fc-01J...
        %remote_debug training       # a variable that holds the call

    A worker keeps them for `nb.config.keep_failed_seconds`, which has to be set before the call:
    `nb.config.keep_failed_seconds = 300`. The commands are those of pdb (p, w, u, d, l, …) and
    `locals`; q quits, and the worker goes on with other inputs.
    """
    from notebook_ext.console import debug  # noqa: PLC0415  only where it is used

    word = "".join(words("remote_debug", line, "one call (fc-…)") if line.strip() else ())
    subject = _subject_of("remote_debug", word, "of a call (fc-…)") if word else ""
    try:
        debug(subject)
    except Error as error:
        raise UsageError(f"%remote_debug: {_one_line(error)}") from error


def remote_sessions(line: str) -> None:
    """List the sessions of `%%remote_run --session NAME`, or end one.

        %remote_sessions
        %remote_sessions --end train

    Ending one gives its worker, with the memory and the device that it holds, back.
    """
    from notebook_ext.magics import sessions  # noqa: PLC0415  only where it is used

    given = line.replace("=", " ").split()
    if not given:
        for name in sessions.names():
            sys.stdout.write(f"{name}: {sessions.described(name)}\n")
        if not sessions.names():
            sys.stdout.write("There are no sessions.\n")
        return
    if given[0] != "--end":
        raise UsageError(f"%remote_sessions: {_unknown(given[0], ('--end',))}")
    if len(given) != 2 or given[1] not in sessions.names():  # noqa: PLR2004  it and its value
        there = ", ".join(sessions.names()) or "none"
        raise UsageError(f"%remote_sessions: --end needs the name of a session; there are: {there}")
    sessions.end(given[1])


# ---- words and completions, for every magic of one line -------------------------------------


def words(magic: str, line: str, allowed: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the words of a line that takes one argument, or none.

    Raises:
        UsageError: there are more or fewer, or an option that it does not have.
    """
    found = tuple(line.split())
    for word in found:
        if word.startswith("-"):
            raise UsageError(f"%{magic}: {_unknown(word, options)}")
    if len(found) != (0 if allowed.startswith("no ") else 1):
        raise UsageError(f"%{magic}: takes {allowed}; %{magic}? shows an example")
    return found


def call_of(magic: str, word: str) -> FunctionCall[Any]:
    """Return the call that a word names: by its id, or as a variable that holds it.

    Raises:
        UsageError: it names none.
    """
    from notebook_ext.call import FunctionCall  # noqa: PLC0415  only where it is used

    held = _held(word)
    if held is not None:
        return held
    if not word.startswith("fc-"):
        raise _nothing_of_ours(magic, word, "of a call (fc-…)")
    return FunctionCall.from_id(word)


def _subject_of(magic: str, word: str, kinds: str) -> str:
    """Return the id of a call or a worker that a word names; raise `UsageError` for none."""
    held = _held(word)
    if held is None and not word.startswith(("fc-", "ta-")):
        raise _nothing_of_ours(magic, word, kinds)
    return word if held is None else held.object_id


def _held(word: str) -> FunctionCall[Any] | None:
    from notebook_ext.call import FunctionCall  # noqa: PLC0415  only where it is used

    shell = get_ipython()
    held = shell.user_ns.get(word) if shell is not None else None
    return held if isinstance(held, FunctionCall) else None


def _nothing_of_ours(magic: str, word: str, kinds: str) -> UsageError:
    return UsageError(f"%{magic}: {word} is no id {kinds}, and no variable holds one")


def call_words(_line: str, symbol: str) -> list[str]:
    """Return what Tab offers where a call is asked for: variables, then ids of recent calls."""
    from notebook_ext import inquiry  # noqa: PLC0415  zmq, only where it is used
    from notebook_ext.call import FunctionCall  # noqa: PLC0415  likewise
    from notebook_ext.call_status import call_filter  # noqa: PLC0415  likewise

    shell = get_ipython()
    names = dict(shell.user_ns) if shell is not None else {}
    found = [n for n, v in names.items() if isinstance(v, FunctionCall) and n[:1] != "_"]
    try:
        connection = inquiry.find()
        if connection is not None:
            with inquiry.Inquiry(connection, _PATIENCE_SECONDS) as asked:
                found += [info.call for info in asked.calls(call_filter(None, None, 20))]
    except Error:  # nothing to offer then
        pass
    return [word for word in found if word.startswith(symbol)]


def subject_words(line: str, symbol: str) -> list[str]:
    """Return what Tab offers where a worker or a call that runs is asked for."""
    from notebook_ext import inquiry  # noqa: PLC0415  zmq, only where it is used

    if len(line.split()) > bool(symbol):
        return []
    try:
        connection = inquiry.find()
        if connection is None:
            return []
        with inquiry.Inquiry(connection, _PATIENCE_SECONDS) as asked:
            status = asked.status()
    except Error:  # nothing to offer then
        return []
    running = [call.call for call in status.calls if call.running]
    return offered([*(each.worker for each in status.workers), *running], symbol)


def cancel_words(line: str, symbol: str) -> list[str]:
    """Return what Tab offers for `%remote_cancel`."""
    if symbol.startswith("-"):
        return offered((_TERMINATE,), symbol)
    return call_words(line, symbol)


def calls_words(line: str, symbol: str) -> list[str]:
    """Return what Tab offers for `%remote_calls`."""
    return [] if _LIMIT in line.split()[:-1] else offered((_LIMIT,), symbol)


def connect_words(_line: str, symbol: str) -> list[str]:
    """Return what Tab offers for `%remote_connect`."""
    return offered(("local", "ssh://"), symbol)


def session_words(line: str, symbol: str) -> list[str]:
    """Return what Tab offers for `%remote_sessions`."""
    from notebook_ext.magics import sessions  # noqa: PLC0415  only where it is used

    return offered(sessions.names() if "--end" in line.split() else ("--end",), symbol)


def offered(choice: Iterable[str], symbol: str) -> list[str]:
    """Return those that begin with `symbol`."""
    return [word for word in choice if word.startswith(symbol)]


def _unknown(word: str, options: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1)
    has = f"it takes {', '.join(options)}" if options else "it takes none"
    return f"unknown option {word}; {f'did you mean {near[0]}?' if near else has}"


def _one_line(error: Error) -> str:
    return " ".join(str(error).split())
