"""The error tree, by whose fault it is. `notebook_ext.exception` is its public face.

BaseException
├── InputCancellation              raised *inside* a running input that is cancelled
└── Exception
    └── Error                      everything that we raise
        ├── InvalidError           the caller asked for something that cannot be
        ├── NotFoundError          a name or id that nobody knows
        ├── AuthError              not allowed
        ├── ConnectionError        the broker cannot be reached (not the builtin)
        ├── ClientClosed           the session was closed under the call
        ├── ExecutionError         a remote exception that cannot be had here; says why
        ├── RemoteError            what happened to the input, not in it
        │   └── CallCancelledError
        ├── InternalFailure        workers died under the input
        ├── SerializationError     a value cannot travel: names the path to the culprit
        ├── DeserializationError   a value cannot be had on the other side
        ├── VersionError           two sides do not fit; names both versions
        ├── RequestSizeError       more than a limit allows
        ├── ProtocolError          bytes that are no message of ours
        └── TimeoutError           something took too long (not the builtin)
            ├── FunctionTimeoutError   an attempt over its `timeout`
            ├── OutputExpiredError     a result older than its time to live
            └── StillPendingError      (also the builtin TimeoutError) no result yet
"""

from __future__ import annotations

import builtins
from pathlib import Path
from types import TracebackType

_PACKAGE = Path(__file__).resolve().parent
OUR_FILES = tuple(f"{_PACKAGE.parent / name}/" for name in ("kernel_worker", "notebook_ext"))
"""How the names of our source files begin."""


class Error(Exception):
    """Everything that this project raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows, which asks for it: the user's frames alone.

        By itself it would show the last frame, hidden or not, and that is one of ours.
        """
        from IPython import get_ipython  # noqa: PLC0415  nobody else calls this

        cause = self.__cause__
        while cause is not None:
            cause.__traceback__ = _without_ours(cause.__traceback__) or cause.__traceback__
            cause = cause.__cause__
        formatter = get_ipython().InteractiveTB
        shown = _without_ours(self.__traceback__)
        found: list[str] = formatter.structured_traceback(type(self), self, shown)
        return found


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    if traceback is None:
        return None
    rest = _without_ours(traceback.tb_next)
    if traceback.tb_frame.f_code.co_filename.startswith(OUR_FILES):
        return rest
    return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


class InvalidError(Error):
    """The caller asked for something that cannot be; the message says what is allowed."""


class NotFoundError(Error):
    """A name or id that nobody knows."""


class AuthError(Error):
    """Not allowed."""


class ConnectionError(Error):  # noqa: A001  the documented public name
    """The broker cannot be reached."""


class ClientClosed(Error):  # noqa: N818  the documented public name
    """The session was closed while a call waited on it."""


class ExecutionError(Error):
    """A remote exception that could not be rebuilt here; the message says why and quotes it."""


class RemoteError(Error):
    """Something happened to the input, not in it."""


class CallCancelledError(RemoteError):
    """The call, or this input of it, was cancelled."""


class InternalFailure(Error):  # noqa: N818  the documented public name
    """The workers that ran the input died; the message says how."""


class SerializationError(Error):
    """A value cannot be pickled; the message has the path to the culprit."""


class DeserializationError(Error):
    """A value cannot be unpickled on the receiving side."""


class VersionError(Error):
    """Two sides have versions that do not fit; the message names both and the remedy."""

    lack: str = ""
    """What the machine that refuses has, for people (`box has no numpy`): another one may do."""


class RequestSizeError(Error):
    """A request is larger than a limit allows."""


class ProtocolError(Error):
    """Bytes that are no message of ours."""


class TimeoutError(Error):  # noqa: A001  the documented public name
    """Something took longer than it was allowed to."""


class FunctionTimeoutError(TimeoutError):
    """An attempt ran longer than the function's `timeout`."""


class OutputExpiredError(TimeoutError):
    """The result was kept for its time to live and is gone."""


class StillPendingError(TimeoutError, builtins.TimeoutError):
    """There is no result yet."""


class InputCancellation(BaseException):
    """Raised inside a running input when it is cancelled; `finally` blocks run."""
