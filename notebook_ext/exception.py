"""What can be raised: the public face of the error tree, which `kernel_worker.errors` draws.

`UserCodeException` is made here: it stands in the results of
`f.map(..., return_exceptions=True)` where the function raised.
"""

from __future__ import annotations

from kernel_worker.errors import (
    AuthError,
    CallCancelledError,
    ClientClosed,
    ConnectionError,  # noqa: A004  the documented public name
    DeserializationError,
    Error,
    ExecutionError,
    FunctionTimeoutError,
    InputCancellation,
    InternalFailure,
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    ProtocolError,
    RemoteError,
    RequestSizeError,
    SerializationError,
    StillPendingError,
    TimeoutError,  # noqa: A004  the documented public name
    VersionError,
)

__all__ = [
    "AuthError",
    "CallCancelledError",
    "ClientClosed",
    "ConnectionError",
    "DeserializationError",
    "Error",
    "ExecutionError",
    "FunctionTimeoutError",
    "InputCancellation",
    "InternalFailure",
    "InvalidError",
    "NotFoundError",
    "OutputExpiredError",
    "ProtocolError",
    "RemoteError",
    "RequestSizeError",
    "SerializationError",
    "StillPendingError",
    "TimeoutError",
    "UserCodeException",
    "VersionError",
]


class UserCodeException(Exception):  # noqa: N818  the documented public name
    """Stands in a map's results for what the function raised.

    Attributes:
        exc: the exception itself, with its type, arguments and traceback.
    """

    def __init__(self, exc: BaseException) -> None:
        super().__init__(exc)
        self.exc = exc


def named(name: str) -> type[Error]:
    """Return the class of the tree that a broker named; `Error` for one that is not known here."""
    from kernel_worker import errors  # noqa: PLC0415  only on the way to a failure

    found = getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, Error) else Error
