"""Large captured values: each an object of its own, beside the snapshot that names it.

Theory. A snapshot is sent anew when any value in it has changed, so a large one does not lie in it:
it becomes an object such as `put` makes, and the snapshot has a pickle that asks for that object by
its digest when it is bound. Equal values of several functions, and of one function that is read
again, are one object; it is kept while some function that was read with it is.

What a large value costs at every call is the look whether it has changed in place; one notice says
so, where that is to be felt, and how to do without.

Guarantees: a large value is sent once to a broker and once to a worker, whatever else changes.
Not guaranteed: the same for what a class captures: templates, which bind it, ask for nothing.
"""

from __future__ import annotations

import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from kernel_worker.model import Digest, digest_of
from kernel_worker.wire import payload
from notebook_ext.companions import gathering
from notebook_ext.stored import Stored, packed

if TYPE_CHECKING:
    from notebook_ext.capture.picklers import Encoded

LARGE_BYTES = 1024 * 1024
"""A value whose pickle and buffers are as large together is an object of its own."""
FELT_SECONDS = 0.01
"""What costs a call less is not worth a notice."""

_lock = threading.Lock()
_known: WeakValueDictionary[Digest, Stored[Any]] = WeakValueDictionary()
_noticed: set[str] = set()


class Apart:
    """The large values of one reading, each made an object."""

    def __init__(self) -> None:
        """Start with none."""
        self.handles: list[Stored[Any]] = []

    def data(self, label: str, encoded: Encoded) -> bytes:
        """Return the pickle that stands in the snapshot for a large value."""
        content = digest_of(encoded.data, *encoded.buffer_digests)
        with _lock:
            handle = _known.get(content)
            if handle is None:
                block = packed(payload.Pickled(encoded.data, list(encoded.buffers)))
                handle = _known[content] = Stored(block, label)
        self.handles.append(handle)
        return gathering({}, pickle.dumps, handle, 5)  # `handles` are who sends it


def notice(function: str, label: str, size: int, seconds: float) -> None:
    """Say once what a large value that may change in place costs at every call."""
    if seconds < FELT_SECONDS or label in _noticed:
        return
    _noticed.add(label)
    name = label.rpartition(" ")[2].strip("'\"")
    handle = name if name.isidentifier() else "it"
    sys.stderr.write(
        f"notebook_ext: {function} captures {label}, {_megabytes(size)}: to see whether it has "
        f"changed takes {seconds:.2f} s at every call. {handle} = nb.put({handle}) ships it as it "
        "is now and costs nothing; in the function it is the object as before.\n"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
