"""Objects that have travelled to another machine, so that each travels once.

Theory. Both ends of a link keep a depot and see the same objects in the same order: so both know
what is in it, and what has fallen out, and nobody has to say so. The one that sends keeps no
contents. An object that is in the depot is sent by its name alone.

Guarantees: what the sending end believes to be there, is. Not guaranteed: that an object travels
once, where there were more than fit in between.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kernel_worker.model import Digest

Frame = bytes | memoryview
DEPOT_BYTES: Final = 1 << 30
LEAST_BYTES: Final = 4096
"""What is smaller is sent each time."""


class Depot:
    """One end's depot."""

    def __init__(self, limit_bytes: int = DEPOT_BYTES) -> None:
        """Begin with nothing on it."""
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[Digest, int] = OrderedDict()
        self._contents: dict[Digest, Frame] = {}
        self._bytes = 0

    def has(self, digest: Digest) -> bool:
        """Whether an object is on it; it is the youngest then."""
        if digest not in self._sizes:
            return False
        self._sizes.move_to_end(digest)
        return True

    def put(self, digest: Digest, size: int, content: Frame | None = None) -> None:
        """Put an object on it, where it is worth that; the oldest fall out."""
        if not LEAST_BYTES <= size <= self._limit_bytes or self.has(digest):
            return
        self._sizes[digest] = size
        self._bytes += size
        if content is not None:
            self._contents[digest] = content
        while self._bytes > self._limit_bytes:
            oldest, gone = self._sizes.popitem(last=False)
            self._bytes -= gone
            self._contents.pop(oldest, None)

    def get(self, digest: Digest) -> Frame | None:
        """Return an object that is on it."""
        return self._contents.get(digest) if self.has(digest) else None
