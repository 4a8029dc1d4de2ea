"""`%remote_progress`: the progress of a call, shown where it is asked for."""

from __future__ import annotations

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class

from kernel_worker.errors import Error, NotFoundError
from kernel_worker.model import CallId
from kernel_worker.wire import messages


@magics_class
class ProgressMagics(Magics):
    """The line magic."""

    @line_magic
    def remote_progress(self, line: str) -> None:
        """Show the progress of a spawned call: `%remote_progress fc-…`, or a name that holds one.

        Without an argument: of the call that was made last. It shows the state of every input and
        has a button to cancel the call.
        """
        # What it needs is loaded with the first call, not with the extension.
        from notebook_ext import process, widgets  # noqa: PLC0415
        from notebook_ext.followed import CallControls, CallFacts  # noqa: PLC0415

        call = self._named(line.strip())
        session = process.current()
        try:
            info = session.ask("call", call, messages.CallInfo).join()
        except NotFoundError as error:
            raise UsageError(f"%remote_progress: nobody knows the call {call}") from error
        except Error as error:
            raise UsageError(f"%remote_progress: {error}") from error
        followed = CallFacts(session, info)
        widgets.show_again(followed, CallControls(session, call, followed))

    def _named(self, word: str) -> CallId:
        from notebook_ext.call import FunctionCall  # noqa: PLC0415

        if not word:
            return self._newest()
        named = self.shell.user_ns.get(word) if self.shell is not None else None
        if isinstance(named, FunctionCall):
            return CallId(named.object_id)
        if not word.startswith("fc-") or len(word.split()) != 1:
            raise UsageError(
                f"%remote_progress: {word!r} is no call; give the id of one, such as fc-…, or a "
                "name that holds one"
            )
        return CallId(word)

    @staticmethod
    def _newest() -> CallId:
        from notebook_ext import inquiry  # noqa: PLC0415
        from notebook_ext.calls import call_filter  # noqa: PLC0415

        found = inquiry.calls(call_filter(None, None, 1))
        if not found:
            raise UsageError("%remote_progress: no call was spawned yet; give the id of one, fc-…")
        return CallId(found[0].call)
