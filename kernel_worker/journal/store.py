"""The journal's file: facts about spawned calls and their payloads, in SQLite.

Theory: a fact is a row; the rows of one `write` are one transaction. Nothing is ever updated but
the end of a call. Payload frames lie beside their record, small ones in its row; the `objects` that
calls need are kept once, and so are those of `deployments`.

Environments of functions, variables of calls, and code with the text of its cell may hold secrets,
and are sealed (`seal`).

Guarantees: what `write` returned from is on the disk; what else holds of the `file` is said there.
Not guaranteed: anything about threads. `journal.thread` has the one that uses this.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from kernel_worker import records
from kernel_worker.journal.deployments import Deployed, Deployments, Undeployed
from kernel_worker.journal.file import opened, pieces
from kernel_worker.journal.objects import Objects, secret_among
from kernel_worker.journal.seal import Sealer, hidden, shown
from kernel_worker.model import CallId, Digest, app_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from kernel_worker.journal.shelves import Shelves

INLINE_BYTES = 16 * 1024
_OUTCOMES = ("range_succeeded", "input_ended")
_GRAPH = (*_OUTCOMES, "inputs_added", "inputs_closed", "attempt_failed", "attached_call_ended")
_ITEMS = "items_yielded"
_log = logging.getLogger(__name__)
_decoder: msgspec.msgpack.Decoder[records.Record] = msgspec.msgpack.Decoder(records.Record)

Frame = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Fact:
    """A record to keep, with its payload and the objects that its call needs from now on."""

    record: records.Record
    frames: Sequence[Frame] = ()
    objects: Mapping[Digest, Frame] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """Every input of the call is terminal: from `at` (Unix seconds) on it ages."""

    call: CallId
    at: float
    tally: tuple[int, ...] = ()
    """How many inputs ended in each `Outcome`, by its value."""


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A spawned call whose inputs have all ended, as it is remembered."""

    call: CallId
    name: str
    app: str
    submitted_at: float
    ended_at: float
    expired: bool
    tally: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredFact:
    """A record as it was kept. `position` orders all facts."""

    position: int
    record: records.Record
    frames: list[bytes]


@dataclass(frozen=True, slots=True)
class Written:
    """What inputs of a call have written: a msgpack array of `messages.LogEntry`."""

    call: CallId
    body: bytes


@dataclass(slots=True)
class Step:
    """Something that is done in the transaction; `found` is what came of it, once it is written."""

    act: Callable[[Shelves], Any]
    found: Any = None


Entry = Fact | Finished | Deployed | Undeployed | Written | Step


class Store:
    """An open journal file."""

    def __init__(self, connection: sqlite3.Connection, sealer: Sealer) -> None:
        self._db = connection
        self._sealer = sealer
        self._ids: dict[CallId, int] = {}
        self.objects = Objects(connection, sealer)
        self.deployments = Deployments(connection, self.objects)
        self._shelves: Shelves | None = None

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the journal at `path`, or begin it.

        Raises:
            VersionError: It was written by a newer version.
            ConnectionError: Another process has it open, or it cannot be written.
        """
        return cls(*opened(path))

    def close(self) -> None:
        """Write everything back into the one file and let go of it."""
        self._db.close()

    # ---- writing ----------------------------------------------------------------------------

    def write(self, entries: Iterable[Entry]) -> None:
        """Keep all of `entries`, or none."""
        with self._transaction():
            for entry in entries:
                match entry:
                    case Finished():
                        self._finish(entry)
                    case Deployed():
                        self.deployments.deploy(entry)
                    case Undeployed(app=app, at=at):
                        self.deployments.undeploy(app, at)
                    case Step(act=act):
                        entry.found = act(self._opened_shelves())
                    case Written(call=call, body=body):
                        self._db.execute(
                            "INSERT INTO logs (call, body) VALUES (?, ?)",
                            (self._call_id(call), body),
                        )
                    case _:
                        self._keep(entry)

    def _opened_shelves(self) -> Shelves:
        if self._shelves is None:
            from kernel_worker.journal.shelves import Shelves  # noqa: PLC0415  where there are any

            self._shelves = Shelves(self._db)
        return self._shelves

    def expire(self, before: float, limit: int = 200) -> list[CallId]:
        """Drop the records of up to `limit` calls that ended before `before` (Unix seconds).

        Returns:
            The calls whose records went. Objects that nobody refers to any more went with them.
        """
        rows = self._db.execute(
            "SELECT id, call FROM calls WHERE expired = 0 AND finished_at < ? LIMIT ?",
            (before, limit),
        ).fetchall()
        with self._transaction():
            for call_id, call in rows:
                self._drop(call_id)
                self._db.execute("UPDATE calls SET expired = 1 WHERE id = ?", (call_id,))
                self._ids.pop(CallId(call), None)
        return [CallId(call) for _, call in rows]

    def forget(self, before: float) -> list[CallId]:
        """Forget all calls that have expired and ended before `before` (Unix seconds).

        Returns:
            Which those are: nobody is told any more that they were there.
        """
        rows = self._db.execute(
            "DELETE FROM calls WHERE expired = 1 AND finished_at < ? RETURNING call", (before,)
        ).fetchall()
        return [CallId(call) for (call,) in rows]

    def _keep(self, fact: Fact) -> None:
        record = fact.record
        if isinstance(record, records.AttachedCallEnded) and not self._remembers(record.call):
            return
        call_id, frames = self._call_id(record.call), fact.frames
        secret: set[Digest] = set()
        if isinstance(record, records.CallSubmitted):
            self._describe(call_id, record)
            specs = (record.spec, *record.nested_specs)
            secret = secret_among(fact.objects, specs, record.shared)
            record, frames = hidden(record, self._sealer)
        small = sum(map(len, frames)) <= INLINE_BYTES
        inline = msgspec.msgpack.encode(frames) if small and frames else None
        kind = type(record).__struct_config__.tag
        cursor = self._db.execute(
            "INSERT INTO records (call, kind, body, payload) VALUES (?, ?, ?, ?)",
            (call_id, kind, msgspec.msgpack.encode(record), inline),
        )
        if not small:
            self._db.executemany(
                "INSERT INTO frames (record, position, piece) VALUES (?, ?, ?)",
                (
                    (cursor.lastrowid, position, piece)
                    for position, frame in enumerate(frames)
                    for piece in pieces(frame)
                ),
            )
        self.objects.keep("call", call_id, fact.objects, secret)

    def _remembers(self, call: CallId) -> bool:
        """Whether the records of a call are kept (still)."""
        row = self._db.execute("SELECT expired FROM calls WHERE call = ?", (call,)).fetchone()
        return row is not None and not row[0]

    def _describe(self, call_id: int, record: records.CallSubmitted) -> None:
        spec, parent = record.spec, record.parent
        place = ("", 0) if parent is None else (parent.call, parent.index)
        root = record.root or record.call
        self._db.execute(
            "UPDATE calls SET name = ?, app = ?, submitted_at = ?, module = ?, root = ?,"
            " parent = ?, parent_index = ? WHERE id = ?",
            (spec.name, app_of(spec.key), record.submitted_at, spec.module, root, *place, call_id),
        )

    def _finish(self, entry: Finished) -> None:
        call_id = self._call_id(entry.call)
        self._db.execute(
            "UPDATE calls SET finished_at = ?, tally = ? WHERE id = ?",
            (entry.at, msgspec.msgpack.encode(entry.tally), call_id),
        )
        self._delete_records(call_id, "kind IN ('inputs_added', 'inputs_leased')")
        self.objects.release("call", call_id)
        self._ids.pop(entry.call, None)

    def _drop(self, call_id: int) -> None:
        self._db.execute("DELETE FROM logs WHERE call = ?", (call_id,))
        self._delete_records(call_id, "1")
        self.objects.release("call", call_id)

    def _delete_records(self, call_id: int, which: str) -> None:
        chosen = f"SELECT id FROM records WHERE call = ? AND {which}"  # noqa: S608  our own words
        self._db.execute(f"DELETE FROM frames WHERE record IN ({chosen})", (call_id,))  # noqa: S608
        self._db.execute(f"DELETE FROM records WHERE id IN ({chosen})", (call_id,))  # noqa: S608

    def _call_id(self, call: CallId) -> int:
        call_id = self._ids.get(call)
        if call_id is None:
            self._db.execute("INSERT OR IGNORE INTO calls (call) VALUES (?)", (call,))
            row = self._db.execute("SELECT id FROM calls WHERE call = ?", (call,)).fetchone()
            call_id = self._ids[call] = int(row[0])
        return call_id

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # What a rolled back transaction taught us is not so.
            self._ids.clear()
            self.objects.doubt()
            self._shelves = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # ---- reading ----------------------------------------------------------------------------

    def open_facts(self) -> Iterator[StoredFact]:
        """Yield the facts of all calls that have open inputs, in order; of items no payloads.

        What is only remembered for the call graph is left out.
        """
        rows = self._db.execute(
            "SELECT records.id, kind, body, payload FROM records"
            " JOIN calls ON calls.id = records.call"
            " WHERE calls.finished_at IS NULL AND kind != 'attached_call_ended'"
            " ORDER BY records.id"
        )
        for position, kind, body, payload in rows:
            frames = [] if kind == _ITEMS else self._frames(position, payload)
            record = _decoder.decode(body)
            if isinstance(record, records.CallSubmitted):
                record, frames = self._shown(record, frames), []
            yield StoredFact(position, record, frames)

    def _shown(self, record: records.CallSubmitted, frames: list[bytes]) -> records.CallSubmitted:
        opened = shown(record, frames, self._sealer)
        if opened is None:  # nor does the key open the environment, without which nothing runs
            _log.error("the journal's key does not open the variables of %s", record.call)
            return record
        return opened

    def ended_calls(self) -> Iterator[tuple[CallId, bool]]:
        """Yield the calls whose inputs have all ended, and whether their results have expired."""
        rows = self._db.execute("SELECT call, expired FROM calls WHERE finished_at IS NOT NULL")
        return ((CallId(call), bool(expired)) for call, expired in rows)

    def ended_call(self, call: CallId) -> EndedCall | None:
        """Return what is remembered of a call that has ended, or None."""
        row = self._db.execute(f"{_SELECT_ENDED} AND call = ?", (call,)).fetchone()
        return None if row is None else _ended_call(row)

    def recent_calls(self, app: str = "") -> Iterator[EndedCall]:
        """Yield the calls that have ended (of `app`, if not empty), the newest first."""
        rows = self._db.execute(
            f"{_SELECT_ENDED} AND ? IN ('', app) ORDER BY submitted_at DESC, id DESC", (app,)
        )
        return map(_ended_call, rows)

    def root_of(self, call: CallId) -> CallId | None:
        """Return the root of the tree that a call belongs to; None if it is not known."""
        row = self._db.execute("SELECT root FROM calls WHERE call = ?", (call,)).fetchone()
        return None if row is None else CallId(row[0])

    def tree(self, root: CallId) -> list[tuple[str, str, int, str, str, float]]:
        """Return the calls of a tree that are kept here.

        Each is (call, parent, index in the parent, name, module, submitted at).
        """
        return self._db.execute(
            "SELECT call, parent, parent_index, name, module, submitted_at FROM calls"
            " WHERE root = ? ORDER BY id",
            (root,),
        ).fetchall()

    def tree_facts(self, root: CallId, after: int, limit: int) -> tuple[list[bytes], int]:
        """Return up to `limit` records (encoded) of a tree's calls beyond position `after`.

        Those that say how many inputs there are and what became of them. Calls that have expired
        have none.

        Returns:
            The records, and the position of the last one; 0 where there are no more.
        """
        marks = ", ".join("?" * len(_GRAPH))
        rows = self._db.execute(
            "SELECT id, body FROM records"  # noqa: S608  question marks
            " WHERE call IN (SELECT id FROM calls WHERE root = ?)"
            f" AND kind IN ({marks}) AND id > ? ORDER BY id LIMIT ?",
            (root, *_GRAPH, after, limit),
        ).fetchall()
        return [body for _, body in rows], rows[-1][0] if len(rows) == limit else 0

    def call_facts(self, call: CallId, after: int, limit: int) -> tuple[list[bytes], int, bool]:
        """Return up to `limit` records (encoded) of a call beyond position `after`.

        Those that say how many inputs there are and what became of them.

        Returns:
            The records, the position of the last one (`after` where there are none), and whether
            there may be more.
        """
        marks = ", ".join("?" * len(_GRAPH))
        rows = self._db.execute(
            "SELECT id, body FROM records"  # noqa: S608  question marks
            " WHERE call = (SELECT id FROM calls WHERE call = ?)"
            f" AND kind IN ({marks}) AND id > ? ORDER BY id LIMIT ?",
            (call, *_GRAPH, after, limit),
        ).fetchall()
        last = rows[-1][0] if rows else after
        return [body for _, body in rows], last, len(rows) == limit

    def outcomes(
        self, call: CallId, after: int, limit_bytes: int, *, items: bool = False
    ) -> tuple[list[StoredFact], bool]:
        """Return the outcomes of `call` beyond position `after`, as many as `limit_bytes` allow.

        With `items`: and what its generator gave. Those of a call that is unknown or expired are
        an empty list.

        Returns:
            The outcomes, and whether there may be more.
        """
        kinds = (*_OUTCOMES, _ITEMS) if items else _OUTCOMES
        marks = ", ".join("?" * len(kinds))
        rows = self._db.execute(
            "SELECT records.id, body, payload FROM records"  # noqa: S608  question marks
            " JOIN calls ON calls.id = records.call"
            f" WHERE calls.call = ? AND records.id > ? AND kind IN ({marks}) ORDER BY records.id",
            (call, after, *kinds),
        )
        found: list[StoredFact] = []
        for position, body, payload in rows:
            frames = self._frames(position, payload)
            found.append(StoredFact(position, _decoder.decode(body), frames))
            limit_bytes -= sum(map(len, frames)) + len(body)
            if limit_bytes <= 0:
                return found, True
        return found, False

    def logs(self, call: CallId, after: int, limit_bytes: int) -> tuple[list[bytes], int, bool]:
        """Return what `call` wrote beyond position `after`, as much as `limit_bytes` allow.

        Returns:
            The bodies, the position of the last one, and whether there may be more.
        """
        rows = self._db.execute(
            "SELECT logs.id, body FROM logs JOIN calls ON calls.id = logs.call"
            " WHERE calls.call = ? AND logs.id > ? ORDER BY logs.id",
            (call, after),
        )
        bodies: list[bytes] = []
        for position, body in rows:
            bodies.append(body)
            after = position
            limit_bytes -= len(body)
            if limit_bytes <= 0:
                return bodies, after, True
        return bodies, after, False

    def _frames(self, record: int, payload: bytes | None) -> list[bytes]:
        if payload is not None:
            return msgspec.msgpack.decode(payload, type=list[bytes])
        rows = self._db.execute(
            "SELECT position, piece FROM frames WHERE record = ? ORDER BY id", (record,)
        )
        pieces: dict[int, list[bytes]] = {}
        for position, piece in rows:
            pieces.setdefault(position, []).append(piece)
        return [each[0] if len(each) == 1 else b"".join(each) for each in pieces.values()]


_SELECT_ENDED = (
    "SELECT call, name, app, submitted_at, finished_at, expired, tally FROM calls"
    " WHERE finished_at IS NOT NULL"
)


def _ended_call(row: tuple[str, str, str, float, float, int, bytes | None]) -> EndedCall:
    call, name, app, submitted_at, ended_at, expired, tally = row
    counts = msgspec.msgpack.decode(tally, type=tuple[int, ...]) if tally is not None else ()
    return EndedCall(CallId(call), name, app, submitted_at, ended_at, bool(expired), counts)
