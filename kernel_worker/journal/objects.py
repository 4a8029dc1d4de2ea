"""Objects in the journal: each kept once, by content address, while anything needs it.

Each call and deployment refers to what it needs in a table of its kind (`call_objects`,
`deployment_objects`); what nothing refers to is dropped. What may hold a secret is sealed (`seal`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from kernel_worker.journal.file import pieces
from kernel_worker.model import Digest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping

    from kernel_worker.journal.seal import Sealer
    from kernel_worker.model import FunctionSpec

    Frame = bytes | memoryview
    Owner = Literal["call", "deployment"]

MOST_SEALED_BYTES = 1024 * 1024
"""An object that is larger is data, and lies there as it is."""
_log = logging.getLogger(__name__)


class Objects:
    """Those of one open file."""

    def __init__(self, db: sqlite3.Connection, sealer: Sealer) -> None:
        """Keep them in `db`, sealed by `sealer` where they may hold secrets."""
        self._db = db
        self._sealer = sealer
        self._known: set[Digest] = set()

    def keep(
        self, owner: Owner, key: int, objects: Mapping[Digest, Frame], secret: set[Digest]
    ) -> None:
        """Keep objects for the call, or the deployment, whose row is `key`."""
        for digest, content in objects.items():
            self._keep_content(digest, content, is_secret=digest in secret)
            self._db.execute(
                f"INSERT OR IGNORE INTO {owner}_objects VALUES (?, ?)",  # noqa: S608  our own words
                (key, digest),
            )

    def _keep_content(self, digest: Digest, content: Frame, *, is_secret: bool) -> None:
        if digest not in self._known:
            found = self._db.execute("SELECT 1 FROM objects WHERE digest = ? LIMIT 1", (digest,))
            if found.fetchone() is None:
                if is_secret:
                    content = self._sealer.seal(content)
                self._db.executemany(
                    "INSERT INTO objects (digest, piece) VALUES (?, ?)",
                    ((digest, piece) for piece in pieces(content)),
                )
            self._known.add(digest)

    def release(self, owner: Owner, key: int) -> None:
        """Let go of the objects of one owner; those that nobody else needs are dropped."""
        rows = self._db.execute(
            f"DELETE FROM {owner}_objects WHERE {owner} = ? RETURNING digest",  # noqa: S608  as above
            (key,),
        ).fetchall()
        for (digest,) in rows:
            used = (
                "SELECT 1 FROM call_objects WHERE digest = ?"
                " UNION ALL SELECT 1 FROM deployment_objects WHERE digest = ? LIMIT 1"
            )
            if self._db.execute(used, (digest, digest)).fetchone() is None:
                self._db.execute("DELETE FROM objects WHERE digest = ?", (digest,))
                self._known.discard(Digest(digest))

    def doubt(self) -> None:
        """What was learned in a transaction that is rolled back is not so."""
        self._known.clear()

    def needed(self) -> Iterator[tuple[Digest, bytes]]:
        """Yield the objects that calls with open inputs and deployments in force need."""
        rows = self._db.execute(
            "SELECT digest FROM call_objects UNION SELECT digest FROM deployment_objects"
        ).fetchall()
        for (digest,) in rows:
            pieces = self._db.execute(
                "SELECT piece FROM objects WHERE digest = ? ORDER BY id", (digest,)
            )
            opened = self._sealer.open(b"".join(piece for (piece,) in pieces))
            if opened is None:
                _log.error("the journal's key does not open %s; what needs it cannot run", digest)
            else:
                yield Digest(digest), opened


def secret_among(
    objects: Mapping[Digest, Frame], specs: Iterable[FunctionSpec], shared: Digest | None = None
) -> set[Digest]:
    """Return which objects may hold secrets: environments, and code, with the text of its cell.

    What is large, or an argument (`shared`), is neither.
    """
    small = {digest for digest, content in objects.items() if len(content) <= MOST_SEALED_BYTES}
    return {spec.environment for spec in specs} | (small - {shared})
