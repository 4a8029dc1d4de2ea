"""How a call stands (`CallStatus`), and which calls there were lately (`nb.calls()`).

What is open is told by the broker, what has ended by its journal: so calls are found again after a
restart of the kernel, of the broker, or from another process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from kernel_worker.errors import InvalidError
from kernel_worker.model import CallId
from kernel_worker.wire import messages
from kernel_worker.wire.messages import CallState
from notebook_ext import process
from notebook_ext.call_graph import InputStatus

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from notebook_ext.app import App
    from notebook_ext.call import FunctionCall
    from notebook_ext.twin import Waiting
    from notebook_ext.widgets.status import CallsReport

STATES: tuple[str, ...] = get_args(CallState)
"""What `CallStatus.state` can be, and `calls(status=)` takes."""
NO_CALL: Final = "no call was spawned yet; give the id of one, fc-…"
"""What is said where the newest call is asked for."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    """How a call stands; its inputs are counted."""

    object_id: str
    function_name: str
    app: str
    state: CallState
    """pending: nothing has started; running; succeeded: every input did; failed: some did not;
    cancelled: some were, and none failed; expired: the results were kept for their time and went.
    """
    num_inputs: int
    """So far, where more may come."""
    pending: int
    """Waiting for a worker, or for the time of a retry."""
    running: int
    succeeded: int
    failed: int
    """In whatever way: raised, timed out, its workers died, or could not be set up."""
    cancelled: int
    timed_out: int
    init_failed: int
    submitted_at: float
    """Unix seconds."""
    ended_at: float | None
    """Unix seconds; None while it is open."""

    @property
    def done(self) -> bool:
        """Whether every input has an outcome."""
        return self.state not in ("pending", "running")

    @property
    def counts(self) -> dict[InputStatus, int]:
        """How many inputs have each status; those that run are PENDING, as in a call graph."""
        return {
            InputStatus.PENDING: self.pending + self.running,
            InputStatus.SUCCESS: self.succeeded,
            InputStatus.FAILURE: self.failed - self.timed_out - self.init_failed,
            InputStatus.INIT_FAILURE: self.init_failed,
            InputStatus.TERMINATED: self.cancelled,
            InputStatus.TIMEOUT: self.timed_out,
        }

    @property
    def call(self) -> FunctionCall[Any]:
        """The call itself."""
        from notebook_ext.call import FunctionCall  # noqa: PLC0415  it needs this module

        return FunctionCall.from_id(self.object_id)

    @classmethod
    def of(cls, info: messages.CallInfo) -> CallStatus:
        """Return what the broker said of a call."""
        return cls(
            object_id=info.call,
            function_name=info.name,
            app=info.app,
            state=info.status,
            num_inputs=info.total,
            pending=info.pending,
            running=info.running,
            succeeded=info.succeeded,
            failed=info.failed,
            cancelled=info.cancelled,
            timed_out=info.timed_out,
            init_failed=info.init_failed,
            submitted_at=info.submitted_at,
            ended_at=info.ended_at,
        )


class RecentCalls(list[CallStatus]):
    """A list of `CallStatus`es that shows itself as a table."""

    def __init__(self, infos: list[messages.CallInfo]) -> None:
        """List what the broker said of some calls."""
        super().__init__(map(CallStatus.of, infos))
        self._infos = infos

    def __repr__(self) -> str:
        return repr(self._report())

    def _repr_html_(self) -> str:
        return self._report()._repr_html_()

    def _report(self) -> CallsReport:
        from notebook_ext.widgets.status import CallsReport  # noqa: PLC0415  only to be seen

        return CallsReport(self._infos)


class _Calls:
    """`calls()` and `await calls.aio()`."""

    def __call__(
        self, app: App | str | None = None, status: str | None = None, limit: int = 100
    ) -> RecentCalls:
        """Return the recent calls, newest first: those that are open, and spawned ones that ended.

        Args:
            app: those of this app alone, or of the app with this name.
            status: those in this state alone: pending, running, succeeded, failed, cancelled or
                expired (only listed where it is asked for).
            limit: how many at most.

        Raises:
            InvalidError: an argument that cannot be.
        """
        __tracebackhide__ = True
        return _asked(app, status, limit).join()

    def aio(
        self, app: App | str | None = None, status: str | None = None, limit: int = 100
    ) -> Coroutine[Any, Any, RecentCalls]:
        """Do the same in the running task."""
        return _asked(app, status, limit)

    def __repr__(self) -> str:
        return "<notebook_ext.calls, also as .aio>"


calls = _Calls()


def newest_known() -> CallId | None:
    """Return the newest call of whatever session, also an ended one; None where there is none.

    Raises:
        ConnectionError: the broker runs and did not answer in time.
    """
    from notebook_ext import inquiry  # noqa: PLC0415  loads ZeroMQ

    found = inquiry.calls(call_filter(None, None, 1))
    return CallId(found[0].call) if found else None


def call_filter(app: App | str | None, status: str | None, limit: int) -> messages.CallFilter:
    """Return what to ask for.

    Raises:
        InvalidError: an argument that cannot be.
    """
    if status is not None and status not in STATES:
        raise InvalidError(f"status={status!r}: allowed is one of {', '.join(STATES)}.")
    if type(limit) is not int or limit < 1:
        raise InvalidError(f"limit={limit!r}: allowed is a whole number from 1 on.")
    name = "" if app is None else app if isinstance(app, str) else app.key
    return messages.CallFilter(name, status or "", limit)


def _asked(app: App | str | None, status: str | None, limit: int) -> Waiting[RecentCalls]:
    wanted = call_filter(app, status, limit)
    return process.current().calls(wanted).then(RecentCalls)
