"""What travels once and is named by its content address: code, environments, snapshots, tables.

An object stays for as long as somebody owns it: the client that sent it, a pool, an open call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.errors import ProtocolError
from kernel_worker.model import Digest, digest_of
from kernel_worker.wire.frames import is_sealed

if TYPE_CHECKING:
    from collections.abc import Iterable

Frame = bytes | memoryview


class ObjectStore:
    """Objects by digest, each with its owners (ids of clients, pools and calls)."""

    def __init__(self) -> None:
        self._contents: dict[Digest, Frame] = {}
        self._owners: dict[Digest, set[str]] = {}
        self._owned: dict[str, set[Digest]] = {}

    def add(self, digest: Digest, content: Frame, owner: str) -> None:
        """Keep `content` for `owner`.

        What is sealed is bound to its digest, which whoever opens it checks. The last one counts:
        one before may be sealed with a key that nobody has any more.

        Raises:
            ProtocolError: It has another digest.
        """
        if digest not in self._contents or is_sealed(self._contents[digest]):
            if not is_sealed(content) and digest_of(content) != digest:
                message = f"an object of {len(content)} bytes is not what its digest {digest} says"
                raise ProtocolError(message)
            self._contents[digest] = content
        self.own(owner, (digest,))

    def get(self, digest: Digest) -> Frame | None:
        """Return the object, or None."""
        return self._contents.get(digest)

    def missing(self, digests: Iterable[Digest]) -> Digest:
        """Return the first of `digests` that is not here, or the empty digest."""
        for digest in digests:
            if digest and digest not in self._contents:
                return digest
        return Digest("")

    def own(self, owner: str, digests: Iterable[Digest]) -> None:
        """Keep `digests` (that are here) for `owner` too."""
        for digest in digests:
            if digest in self._contents:
                self._owners.setdefault(digest, set()).add(owner)
                self._owned.setdefault(owner, set()).add(digest)

    def disown(self, owner: str, digests: Iterable[Digest]) -> None:
        """Drop `digests` that nobody but `owner` needs."""
        owned = self._owned.get(owner, set())
        for digest in digests:
            if digest in owned:
                owned.discard(digest)
                self._release(digest, owner)

    def forget(self, owner: str) -> None:
        """Drop everything that nobody but `owner` needs."""
        for digest in self._owned.pop(owner, ()):
            self._release(digest, owner)

    def __len__(self) -> int:
        return len(self._contents)

    def _release(self, digest: Digest, owner: str) -> None:
        owners = self._owners[digest]
        owners.discard(owner)
        if not owners:
            del self._owners[digest]
            del self._contents[digest]
