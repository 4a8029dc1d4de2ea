"""The magics of one line, and what stands for `%%remote` where IPython asks for a magic.

`%remote_status` and `%remote_calls` show, and start no broker where none has been; `%remote_cancel`
acts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from kernel_worker.errors import Error, NotFoundError
from notebook_ext import inquiry
from notebook_ext.call import FunctionCall
from notebook_ext.calls import call_filter
from notebook_ext.magics import options
from notebook_ext.widgets.status import CallsReport, StatusReport

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext

    from kernel_worker.wire.messages import Status
    from notebook_ext.attaching import AttachedWorker


@magics_class
class RemoteMagics(Magics):
    """What `%load_ext notebook_ext` adds."""

    @cell_magic
    def remote(self, line: str, cell: str) -> None:  # noqa: D102  the help is below
        # A typed cell never comes here (see `magics.cell`); `run_cell_magic` from a program does.
        assert self.shell is not None  # noqa: S101  a magic that runs has its shell
        source = f"%%remote {line}\n{cell}"
        result = self.shell.run_cell(source, store_history=False)  # type: ignore[no-untyped-call]
        result.raise_error()

    remote.__doc__ = options.help_text()

    @line_magic
    def remote_status(self, line: str) -> StatusReport:
        """Show the broker, its hosts, pools and workers, and what waits.

        Starts nothing: where no broker runs it says so.
        """
        _no_arguments("remote_status", line)
        return StatusReport(inquiry.status())

    @line_magic
    def remote_calls(self, line: str) -> CallsReport:
        """Show recent calls, also ended ones, with the ids that `FunctionCall.from_id` takes."""
        _no_arguments("remote_calls", line)
        return CallsReport(inquiry.calls(call_filter(None, None, 100)))

    @line_magic
    def remote_cancel(self, line: str) -> None:
        """Cancel a call: `%remote_cancel fc-…`. What has started is interrupted."""
        words = line.split()
        if len(words) != 1:
            raise UsageError("%remote_cancel: give the id of one call, such as fc-…")
        try:
            call = FunctionCall.from_id(words[0])
            if call.status().done:
                raise UsageError(f"%remote_cancel: the call {words[0]} has ended")
            call.cancel()
        except NotFoundError as error:
            raise UsageError(f"%remote_cancel: nobody knows the call {words[0]}") from error
        except Error as error:
            raise UsageError(f"%remote_cancel: {error}") from error

    @line_magic
    def remote_attach(self, line: str) -> AttachedWorker:
        """Open a console on a live worker: `%remote_attach ta-…`, or `fc-…` for one that runs it.

        The worker becomes a Jupyter kernel too, and goes on with its calls. What is shown says how
        to attach: with `jupyter console`, or in JupyterLab. Tab offers the workers and calls.
        """
        from notebook_ext.attaching import attach  # noqa: PLC0415  rarely

        words = line.split()
        if len(words) != 1:
            raise UsageError(
                "%remote_attach: give one worker (ta-…) or call (fc-…): Tab lists them"
            )
        try:
            return attach(words[0])
        except Error as error:
            raise UsageError(f"%remote_attach: {error}") from error


@context_matcher()  # type: ignore[untyped-decorator]
def complete_subject(context: CompletionContext) -> SimpleMatcherResult:
    """Offer the workers and open calls behind `%remote_attach`."""
    name, _, typed = context.line_with_cursor[: context.cursor_position].lstrip().partition(" ")
    if name.lstrip("%") != "remote_attach" or " " in typed.strip():
        return SimpleMatcherResult(completions=[])
    typed = typed.strip()
    try:
        status = inquiry.status()
    except Error:
        status = None
    found = [] if status is None else [*(w.worker for w in status.workers), *_running(status)]
    completions = [SimpleCompletion(each, type="param") for each in found if each.startswith(typed)]
    return SimpleMatcherResult(completions=completions, matched_fragment=typed, suppress=True)


def _running(status: Status) -> list[str]:
    return [call.call for call in status.calls if call.running]


@context_matcher()  # type: ignore[untyped-decorator]
def complete_remote(context: CompletionContext) -> SimpleMatcherResult:
    """Offer the options, and nothing else, on the first line of a `%%remote` cell."""
    line = context.text_until_cursor
    if context.cursor_line or not line.startswith("%%remote "):
        return SimpleMatcherResult(completions=[])
    symbol = line.rpartition(" ")[2]
    found = options.complete(line.removeprefix("%%remote"), symbol)
    completions = [SimpleCompletion(each, type="param") for each in found]
    return SimpleMatcherResult(completions=completions, matched_fragment=symbol, suppress=True)


def _no_arguments(name: str, line: str) -> None:
    if line.strip():
        raise UsageError(f"%{name}: takes no argument")
