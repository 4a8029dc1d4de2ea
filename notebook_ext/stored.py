"""`put`: an object that is shipped once, however many inputs use it.

Theory. `put` pickles the object at once and returns a handle that holds the pickle. Whatever the
handle is pickled into (arguments, captured globals, closures) holds its digest alone, and notes
that the call needs the object: the client sends it to a broker once, before the first call that
names it, and a worker asks for it once. Unpickled there, the handle *is* the object: each time
another copy, whose large buffers are private mappings of the one that the worker keeps: they cost
nothing until they are written to, and no input sees what another one wrote. Where nobody sends
objects along (results, parameters of a class, another object that is put, users' own pickles) the
pickle of a handle holds the object.

Guarantees: the object arrives as it was when it was put. It is kept while its handle lives or an
open call names it, then it goes.
Not guaranteed: that workers of one host share its memory.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import threading
from collections import Counter, OrderedDict
from functools import partial
from typing import Any, Generic, TypeVar

from kernel_worker.errors import NotFoundError
from kernel_worker.model import Digest, digest_of
from kernel_worker.wire import payload
from notebook_ext import companions, dropping, process

T = TypeVar("T")

KEPT_BYTES = 512 * 1024 * 1024
"""A worker keeps so much of objects that were put, and always the one that it used last …"""
KEPT_COUNT = 256
"""… and no more than these: each is a file that is open."""
_FILE_BYTES = 64 * 1024
"""What is smaller is copied at each use instead."""
_ALIGNED = 64
_COUNT = struct.Struct("<Q")

alive: Counter[Digest] = Counter()
"""How many handles of this process name an object; those are not taken back from a broker."""
_lock = threading.Lock()


class Stored(Generic[T]):
    """The handle of an object that was put; in a remote function it is the object itself."""

    __slots__ = ("__weakref__", "_content", "_digest", "_label")

    def __init__(self, content: bytes, label: str) -> None:
        """Use `put`."""
        self._content = content
        self._digest = digest_of(content)
        self._label = label
        with _lock:
            alive[self._digest] += 1
        dropping.when_dropped(self, partial(_dropped, self._digest))

    def get(self) -> T:
        """Return a copy of the object here."""
        found: T = opened(self._content)
        return found

    @property
    def nbytes(self) -> int:
        """How large the object is, pickled, in bytes."""
        return len(self._content)

    def __stored_object__(self) -> tuple[Digest, bytes]:
        """Return the name and the content of what whoever captures this needs."""
        return self._digest, self._content

    def __stored_reference__(self) -> tuple[Any, ...]:
        """Return how it is rebuilt where the object has been sent."""
        return arrive, (self._digest, self._label)

    def __reduce__(self) -> tuple[Any, ...]:
        if companions.note_object(self._digest, self._content):
            return self.__stored_reference__()
        return opened, (self._content,)

    def __copy__(self) -> Stored[T]:
        return self

    def __deepcopy__(self, memo: object) -> Stored[T]:
        return self

    def __repr__(self) -> str:
        return f"<put: {self._label}, {self.nbytes:,} bytes>"


def put(value: T) -> Stored[T]:
    """Return a handle that ships `value` once; passed to any call it arrives as the object.

    It may be an argument, a part of one, or a global that a function reads; what is shipped is the
    object as it is now. (Of a call that runs here, with `.local`, it may be an argument alone.) It
    is kept for as long as the handle lives, or an open call names it.

    Args:
        value: anything that can be pickled.

    Raises:
        SerializationError: it cannot; the message has the path to the culprit.
    """
    return Stored(packed(payload.pickled(value)), type(value).__qualname__)


def packed(value: payload.Pickled) -> bytes:
    """Return a pickle and its buffers as one block: sizes, then each at a multiple of 64 bytes."""
    frames = [memoryview(part) for part in (value.data, *value.buffers)]
    sizes = [frame.nbytes for frame in frames]
    head = b"".join(map(_COUNT.pack, (len(sizes), *sizes)))
    parts: list[Any] = [head]
    position = len(head)
    for frame, size in zip(frames, sizes, strict=True):
        gap = -position % _ALIGNED
        parts += (bytes(gap), frame)
        position += gap + size
    return b"".join(parts)


def opened(content: bytes | mmap.mmap) -> Any:
    """Return the object in a block; its buffers are parts of `content` where that is writable."""
    view = memoryview(content)
    (count,) = _COUNT.unpack_from(view)
    sizes = struct.unpack_from(f"<{count}Q", view, _COUNT.size)
    position = _COUNT.size * (1 + count)
    parts = []
    for size in sizes:
        position += -position % _ALIGNED
        parts.append(view[position : position + size])
        position += size
    buffers: Any = parts[1:] if not view.readonly else map(bytearray, parts[1:])
    return pickle.loads(parts[0], buffers=buffers)


def objects_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return arguments of a call that runs here, copies of what was put instead of its handles.

    A handle inside another argument stays one: that argument is the caller's own, and not copied.
    """
    if any(isinstance(value, Stored) for value in (*args, *kwargs.values())):
        args = tuple(map(_object_of, args))
        kwargs = {name: _object_of(value) for name, value in kwargs.items()}
    return args, kwargs


def _object_of(value: Any) -> Any:
    return value.get() if isinstance(value, Stored) else value


def arrive(digest: Digest, label: str) -> Any:
    """Return the object whose handle was pickled: what unpickling a handle calls.

    Raises:
        NotFoundError: nobody keeps it any more.
    """
    return opened(_kept.mapped(digest, label))


class _Block:
    """One object that was fetched: in a file without a name, or in memory where no file may be."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content
        self._file = -1
        if self.size < _FILE_BYTES:
            return
        try:
            self._file = os.memfd_create("notebook-ext object", os.MFD_CLOEXEC)
            view = memoryview(content)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:  # `ulimit -f` and `-n` hold for it too: then each use costs a copy
            self.close()
        else:
            self._content = b""

    def mapped(self) -> mmap.mmap:
        """Return a private mapping of it: what is written to it nobody else sees."""
        if self._file >= 0:
            private = mmap.MAP_PRIVATE
            return mmap.mmap(self._file, self.size, private, mmap.PROT_READ | mmap.PROT_WRITE)
        copy = mmap.mmap(-1, self.size)
        copy.write(self._content)
        return copy

    def close(self) -> None:
        """Let go of the file; mappings of it stay."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Kept:
    """Objects that this process has fetched."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Digest, _Block] = OrderedDict()
        self._bytes = 0

    def mapped(self, digest: Digest, label: str) -> mmap.mmap:
        """Return a private mapping of an object."""
        with self._lock:
            if digest not in self._blocks:
                self._keep(digest, _fetched(digest, label))
            self._blocks.move_to_end(digest)
            return self._blocks[digest].mapped()

    def _keep(self, digest: Digest, content: bytes) -> None:
        block = self._blocks[digest] = _Block(content)
        self._bytes += block.size
        while len(self._blocks) > KEPT_COUNT or (
            self._bytes > KEPT_BYTES and len(self._blocks) > 1
        ):
            _, oldest = self._blocks.popitem(last=False)
            oldest.close()
            self._bytes -= oldest.size


_kept = _Kept()


def _fetched(digest: Digest, label: str) -> bytes:
    try:
        content: bytes = process.current().ask("object", digest, bytes).join()
    except NotFoundError as error:
        message = (
            f"the {label} that was put is not kept any more: keep its handle for as long as calls "
            "are made that use it"
        )
        raise NotFoundError(message) from error
    return content


def _dropped(digest: Digest) -> None:
    """Let the broker drop an object that no handle of this process names any more."""
    with _lock:
        alive[digest] -= 1
        if alive[digest] > 0:
            return
        del alive[digest]
    session = process.connected()
    if session is not None:
        session.drop_object(digest)
