"""The journal's SQLite file: opened, begun, brought to this version's schema, or set aside.

Guarantees: what a transaction has brought is on the disk (`synchronous=FULL`). A file of a newer
schema is refused with a message that names both versions; a damaged one is set aside under another
name, never deleted, and a new one begun. One process at a time (`locking_mode=EXCLUSIVE`).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_worker.errors import ConnectionError, VersionError  # noqa: A004  ours
from kernel_worker.journal.migrations import SCHEMA_VERSION, migrate
from kernel_worker.journal.seal import Sealer

if TYPE_CHECKING:
    from collections.abc import Iterator

    Frame = bytes | memoryview

APPLICATION_ID = 0x4E42584A
PIECE_BYTES = 256 * 1024 * 1024
"""A row holds no more of what may be large."""
_log = logging.getLogger(__name__)


def opened(path: Path) -> tuple[sqlite3.Connection, Sealer]:
    """Open the file at `path`, or begin it, and return it with what seals what is in it.

    Raises:
        VersionError: It was written by a newer version.
        ConnectionError: Another process has it open, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sealer = Sealer.beside(path)
        return _begin(path, sealer), sealer
    except (OSError, sqlite3.OperationalError) as error:
        is_busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
        message = (
            f"the journal {path} cannot be opened: "
            f"{error.strerror if isinstance(error, OSError) else error}; "
            f"{'end the process that has it open' if is_busy else 'make room there'}, or set "
            "NOTEBOOK_EXT_DATA_DIR to another directory"
        )
        raise ConnectionError(message) from error


def pieces(frame: Frame) -> Iterator[Frame]:
    """Yield parts of a frame, each of which a row can hold."""
    if len(frame) <= PIECE_BYTES:
        yield frame
        return
    view = memoryview(frame)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def _begin(path: Path, sealer: Sealer) -> sqlite3.Connection:
    """Open the file; one that is damaged is set aside, and a new one begun."""
    try:
        return _connect(path, sealer)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        aside = _set_aside(path)
        _log.error("the journal %s is damaged (%s); it is now %s", path, error, aside)
        return _connect(path, sealer)


def _connect(path: Path, sealer: Sealer) -> sqlite3.Connection:
    path.touch(mode=0o600)  # what SQLite puts beside it is no more open than it
    db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            message = (
                f"the journal {path} has schema {version}, this version knows {SCHEMA_VERSION}:"
                " use the newer notebook-ext, or set NOTEBOOK_EXT_DATA_DIR to another directory"
            )
            raise VersionError(message)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables:
            schema = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
            db.executescript(f"BEGIN IMMEDIATE;\n{schema}\nCOMMIT;")
        (ours,) = db.execute("PRAGMA application_id").fetchone()
        if ours != APPLICATION_ID:
            message = "it is some other program's"
            raise sqlite3.DatabaseError(message)
        if tables and version < SCHEMA_VERSION:
            migrate(db, version, sealer)
        db.execute("SELECT count(*) FROM calls WHERE finished_at IS NULL").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}{path.suffix}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
