"""A file without a name, for encoded batches that are too much for memory."""

from __future__ import annotations

import tempfile
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.wire.frames import is_stored, plain_bytes
from notebook_ext import dropping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.wire.frames import Frame


class Values(msgspec.Struct, frozen=True):
    """The values of `count` inputs, from `position` of a batch on."""

    count: int
    frames: Sequence[Frame]
    position: int

    @property
    def size_bytes(self) -> int:
        """How large the batch is."""
        return plain_bytes(self.frames)

    def read(self) -> Values:
        """Return it."""
        return self


class Spilled(msgspec.Struct, frozen=True):
    """Values that lie in a file."""

    count: int
    position: int
    spill: Spill
    offset: int
    size_bytes: int

    def read(self) -> Values:
        """Return what lies there."""
        return Values(self.count, self.spill.read(self.offset, self.size_bytes), self.position)


class Spill:
    """The file, safe for several threads; removed when nobody refers to it any more."""

    def __init__(self) -> None:
        """Start with no file."""
        self._lock = threading.Lock()
        self._file: Any = None
        self._unread = 0
        self._end = 0

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self._end

    def write(self, values: Values) -> Values | Spilled:
        """Append a batch; return what stands for it.

        That is itself where the disk does not take it, or it takes no memory here.
        """
        if is_stored(values.frames):
            return values
        data = msgspec.msgpack.encode(list(values.frames))
        with self._lock:
            offset = self._end
            try:
                self._append(data)
            except OSError:  # it is full, or there is no directory for temporary files
                return values
            self._end += len(data)
            self._unread += 1
        return Spilled(values.count, values.position, self, offset, len(data))

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="notebook-ext-", buffering=0)  # noqa: SIM115  kept open
            dropping.when_dropped(self, self._file.close)
        self._file.seek(self._end)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def read(self, offset: int, size_bytes: int) -> list[bytes]:
        """Return a batch."""
        with self._lock:
            parts: list[bytes] = []
            self._file.seek(offset)
            while size_bytes > 0:  # one read gives no more than 2 GiB
                parts.append(self._file.read(size_bytes))
                size_bytes -= len(parts[-1])
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return msgspec.msgpack.decode(data, type=list[bytes])

    def drop(self) -> None:
        """Say that a batch will not be read again; the file is emptied with the last of them."""
        with self._lock:
            self._unread -= 1
            if not self._unread:
                self._file.truncate(0)
                self._end = 0

    def close(self) -> None:
        """Remove the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._end = self._unread = 0
