"""What the broker has sent to a host: the code, environments and parameters that templates need.

What came sealed is opened here, on the workers' side, and from then on is what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.errors import Error
from kernel_worker.host import log
from kernel_worker.wire.frames import is_sealed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.model import Digest, FunctionSpec
    from kernel_worker.wire.seals import Seals


class Contents:
    """The objects of one host, by digest."""

    def __init__(self, seals: Seals) -> None:
        """Start with none; `seals` opens those that are sealed."""
        self.opened: dict[Digest, bytes] = {}
        self._seals = seals
        self._unclaimed: set[Digest] = set()
        """Those that came for a worker that is about to be asked for."""
        self._sealed: dict[Digest, str] = {}
        """Those that came sealed; and why one could not be opened."""

    def keep(self, digest: Digest, content: bytes) -> None:
        """Keep an object."""
        self.opened.pop(digest, None)
        if is_sealed(content):
            self._sealed[digest] = ""
            try:
                content = self._seals.content(digest, content)
            except Error as error:
                log.say(f"{error}")
                self._sealed[digest] = str(error)
                return
        self.opened[digest] = content
        self._unclaimed.add(digest)

    def claim(self, spec: FunctionSpec) -> str:
        """Note that a function needs its objects from now on; return why it cannot, or nothing."""
        missing = [digest for digest in spec.objects if digest not in self.opened]
        if missing:
            return self._sealed.get(missing[0]) or f"the host was not sent {missing}"
        self._unclaimed -= set(spec.objects)
        return ""

    def came_sealed(self, spec: FunctionSpec) -> bool:
        """Return whether something of a function was sealed: so is what is said of it, then."""
        return any(digest in self._sealed for digest in spec.objects)

    def drop_others(self, specs: Iterable[FunctionSpec]) -> None:
        """Drop what none of these needs; the broker will send it again."""
        needed = {digest for spec in specs for digest in spec.objects} | self._unclaimed
        self.opened = {d: content for d, content in self.opened.items() if d in needed}
        self._sealed = {d: why for d, why in self._sealed.items() if d in needed}
