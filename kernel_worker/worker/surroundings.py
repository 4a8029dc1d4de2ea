"""What a lease brings besides its inputs: objects that it names, its directory and variables."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tempfile
from typing import TYPE_CHECKING, Any, cast

from kernel_worker.borrowing import IMAGE_FILES
from kernel_worker.errors import ProtocolError
from kernel_worker.store import blobs
from kernel_worker.wire import payload

if TYPE_CHECKING:
    from kernel_worker.context import WorkerIdentity
    from kernel_worker.model import CallContext, Digest
    from kernel_worker.wire.messages import Lease
    from kernel_worker.wire.seals import Seals

_KEPT_TABLES = 8


class Objects:
    """The objects that the broker sent, by the role in which the last lease named them."""

    def __init__(self, identity: WorkerIdentity) -> None:
        """Show the tables to nested clients through `identity`."""
        self.snapshot = b""
        self.table = b""
        self.shared = b""
        self._identity = identity
        self._named = {"snapshot": "", "table": "", "shared": ""}
        self._arrived: dict[Digest, bytes] = {}
        self._seals: Seals | None = None
        self._reader: payload.BatchReader | None = None
        """Of shared arguments whose buffers lie in a store."""

    def store(self, digest: Digest, content: bytes, seals: Seals | None = None) -> None:
        """Keep an object for the lease that will name it, which opens it if it is sealed."""
        self._arrived[digest] = content
        self._seals = seals

    def take(self, lease: Lease) -> None:
        """Make the objects that `lease` names the current ones.

        Raises:
            ProtocolError: one was not sent.
        """
        used = [
            digest
            for role, digest in (
                ("snapshot", lease.snapshot),
                ("table", lease.table),
                ("shared", lease.shared),
            )
            if digest and digest != self._named[role]
            if self._take(role, digest)
        ]
        for digest in used:
            self._arrived.pop(digest, None)

    def shared_arguments(self, store: str) -> dict[str, Any]:
        """Return the arguments that all inputs share: one's own, with buffers in `store`."""
        if not blobs.is_content(self.shared):
            found: dict[str, Any] = pickle.loads(self.shared)
            return found
        if self._reader is None:
            self._reader = payload.BatchReader(blobs.opened(store, self.shared))
        return cast("dict[str, Any]", self._reader[0])

    def _take(self, role: str, digest: Digest) -> bool:
        content = self._arrived.get(digest)
        if content is None:
            raise ProtocolError(f"a lease names the {role} {digest}, which was not sent")
        if self._seals is not None:
            content = self._seals.content(digest, content)
        setattr(self, role, content)
        self._named[role] = digest
        if role == "shared":
            self._reader = None
        if role == "table":
            self._keep_table(digest, content)
        return True

    def _keep_table(self, digest: Digest, content: bytes) -> None:
        tables = self._identity.objects
        tables.pop(digest, None)
        tables[digest] = content
        while len(tables) > _KEPT_TABLES:
            del tables[next(iter(tables))]


def _somewhere() -> str:
    """Go to a directory that there is, and return it: the caller's may be another machine's."""
    for place in (os.path.expanduser("~"), tempfile.gettempdir(), "/"):  # noqa: PTH111  a string
        with contextlib.suppress(OSError):
            os.chdir(place)
            return place
    return "no directory"


class Surroundings:
    """The working directory and the environment variables of the call that runs."""

    def __init__(self) -> None:
        """Start from how the process is."""
        self._variables: tuple[tuple[str, str | None], ...] = ()
        self._before: dict[str, str | None] = {}
        self._missing = ""

    def enter(self, context: CallContext) -> None:
        """Be where `context` says."""
        if context.directory:
            self._change_directory(context.directory)
        if context.variables != self._variables:
            self._set(self._before)
            self._before = {name: os.environ.get(name) for name, _ in context.variables}
            self._set(dict(context.variables))
            self._variables = context.variables

    def _change_directory(self, directory: str) -> None:
        if not directory.startswith("/"):  # of an image
            directory = os.path.join(os.environ.get(IMAGE_FILES, "/"), directory)  # noqa: PTH118  at every call
        try:
            os.chdir(directory)
        except OSError as error:
            if self._missing != directory:
                self._missing = directory
                place = _somewhere()
                sys.stderr.write(
                    f"the caller's working directory cannot be entered: {error}; this runs in "
                    f"{place}\n"
                )

    @staticmethod
    def _set(variables: dict[str, str | None]) -> None:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
