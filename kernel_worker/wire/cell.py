"""A cell on the wire: what a worker is to run (`Cell`), and what it has left (`CellResult`).

Theory. A cell travels as code that was compiled where it was typed, so its lines are those of the
notebook; what it reads travels with the function that runs it. What it leaves is a pickle of its
own (see `leaving`), and unpickling a result *is* its arrival: `receive_with` says what becomes of
it, so names come wherever the call is asked (`get`, `gather`, an exception that carries them).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


CARRIED: Final = "_remote_cell"
"""The attribute in which the exception of a cell carries what it has left."""


class NoLast:
    """Stands for the value of a cell that does not end in an expression, or shows it itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a worker is to run."""

    body: bytes
    """Its statements, `marshal`led code; empty where there are none …"""
    last: bytes
    """… and its last expression."""
    file: str
    """The name of the file that the code claims to be from …"""
    source: str
    """… and its text, for tracebacks."""
    back: tuple[str, ...]
    """The names that come back, as far as they are there in the end."""
    asked: bool = False
    """These were asked for by name: one that is not there is an error."""
    held: tuple[str, ...] = ()
    """Those among them that may stay behind: closed files and the like."""
    deleted: tuple[str, ...] = ()
    """Names that the cell may have deleted."""
    has_stars: bool = False
    """It imports names that only the worker knows; they come back too."""
    uses_shell: bool = False
    number: int = 0
    """That of `In[number]`."""
    is_quiet: bool = False
    """The last expression is not to be shown."""
    stays: bool = False
    """What cannot come back is kept where it is, and is no error."""


@dataclass(frozen=True, slots=True)
class SessionCell:
    """A cell for a worker that keeps the names of those before it."""

    name: str
    """The session's."""
    begins: bool
    """It is the first: there are no names yet."""
    code: bytes
    """The code of a function that reads what is sent; see `wire.bundle` …"""
    snapshot: bytes
    """… and its values."""
    kept: tuple[str, ...]
    """Names that are to stay as they are there."""
    cell: Cell


class Packed(NamedTuple):
    """What a cell has left, as bytes."""

    data: bytes
    buffers: tuple[Any, ...]
    gone: tuple[str, ...]
    """Names that the cell has deleted."""
    kept: tuple[str, ...]
    """Names that it has bound and that did not come along."""


class CellResult:
    """What a cell has left; arrives where it is unpickled."""

    def __init__(self, packed: Packed) -> None:
        """Hold `packed`."""
        self.packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle as whatever the receiver makes of it."""
        data, buffers, gone, kept = self.packed
        return _arrived, (data, tuple(map(pickle.PickleBuffer, buffers)), gone, kept)


_receivers: list[Callable[[Packed], Any]] = []


def receive_with(receiver: Callable[[Packed], Any] | None) -> None:
    """Let `receiver` say what a result unpickles as; None: as `leaving.as_object` says."""
    _receivers[:] = [] if receiver is None else [receiver]


def _arrived(data: bytes, buffers: Any, gone: Any, kept: Any) -> Any:
    packed = Packed(data, buffers, gone, kept)
    if _receivers:
        return _receivers[-1](packed)
    from kernel_worker.wire import leaving  # noqa: PLC0415  cloudpickle: 20 ms

    return leaving.as_object(packed)
