"""`%remote_progress`: the progress of a call, shown where it is asked for."""

from __future__ import annotations

from IPython.core.error import UsageError

from kernel_worker.errors import Error, NotFoundError
from kernel_worker.model import CallId
from notebook_ext.magics.lines import call_of

_SETTLED_SECONDS = 2.0
"""How long the outcomes of a call that has ended may take to come, before it is shown without."""


def remote_progress(line: str) -> None:
    """Show the progress of a spawned call, by its id or by a variable that holds it.

        %remote_progress fc-01J...
        %remote_progress training
        %remote_progress              # of the call that was made last

    It shows the state of every input and has a button to cancel the call.
    """
    # What it needs is loaded with the first call, not with the extension.
    from kernel_worker.wire import messages  # noqa: PLC0415
    from notebook_ext import process, widgets  # noqa: PLC0415
    from notebook_ext.followed import CallControls, CallFacts  # noqa: PLC0415

    call = _named(line.strip())
    session = process.current()
    try:
        info = session.ask("call", call, messages.CallInfo).join()
    except NotFoundError as error:
        raise UsageError(f"%remote_progress: nobody knows the call {call}") from error
    except Error as error:
        raise UsageError(f"%remote_progress: {error}") from error
    followed = CallFacts(session, info)
    followed.settle(_SETTLED_SECONDS)
    widgets.show_again(followed, CallControls(session, call, followed))


def _named(word: str) -> CallId:
    return CallId(call_of("remote_progress", word).object_id) if word else _newest()


def _newest() -> CallId:
    from notebook_ext.call_status import NO_CALL, newest_known  # noqa: PLC0415

    found = newest_known()
    if found is None:
        raise UsageError(f"%remote_progress: {NO_CALL}")
    return found
