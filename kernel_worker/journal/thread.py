"""The journal's thread: whoever writes goes on at once and is told when it is on the disk.

Theory: everything that came in while one transaction was being written is the next one (group
commit). Reads take their turn between writes, so that a read sees whatever was submitted before it.
What is done is put on a list and a descriptor becomes readable; `collect` empties both.

Guarantees: completions come in the order of the submissions. A full disk delays them: the
transaction is tried again until it succeeds (what has expired waits for the next time). Any other
error of SQLite ends the thread, and `collect` raises it: nothing that was not written was told to
anybody.
Not guaranteed: how long anything takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kernel_worker import records
    from kernel_worker.journal.store import Entry, Store, StoredFact
    from kernel_worker.model import CallId, Digest

EXPIRY_SECONDS = 3600.0
TOMBSTONE_TTLS = 10
"""A call that expired is remembered this many times as long as its results were kept."""
OUTCOME_BYTES = 4 * 1024 * 1024
"""About how much of a call's outcomes one answer holds."""
_RETRY_SECONDS = 1.0
_LOOKS_PER_TTL = 10
"""What has expired is looked for so often in a time to live, at least every hour."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything that was submitted under `token` or an earlier one is on the disk."""

    token: int


@dataclass(frozen=True, slots=True)
class Delayed:
    """There is no room on the disk for what comes next; it is tried again, and again said so."""

    why: str
    """For people: which directory, what is wrong with it, what to do."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A part of what is known of a call's outcomes; `last` where nothing else is known now."""

    request: int
    facts: list[StoredFact]
    last: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """The results of these calls are gone, and others that had expired are forgotten."""

    calls: list[CallId]
    forgotten: list[CallId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look into the journal has found."""

    request: int
    found: Any


Completion = Committed | Delayed | Outcomes | Expired | Found


@dataclass(frozen=True, slots=True)
class Restored:
    """What an earlier broker left."""

    facts: list[StoredFact]
    objects: dict[Digest, bytes]
    ended: dict[CallId, bool]
    """Calls whose inputs have all ended, and whether their results have expired."""
    deployments: list[tuple[records.Deployment, float | None]] = field(default_factory=list)
    """All versions of all apps, oldest first, and when each ended."""


@dataclass(frozen=True, slots=True)
class _Write:
    token: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class _Read:
    request: int
    call: CallId
    after: int
    items: bool


@dataclass(frozen=True, slots=True)
class _Look:
    request: int
    look: Callable[[Store], Any]


_Request = _Write | _Read | _Look | None
"""None ends the thread."""


class Journal:
    """A journal file with a thread that reads and writes it."""

    def __init__(self, path: Path, result_ttl_seconds: float) -> None:
        """Begin to open the journal at `path`; `restored` waits for it."""
        self._path = path
        self._ttl = result_ttl_seconds
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._done: deque[Completion] = deque()
        self._opened: queue.SimpleQueue[Restored | BaseException] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._rope, False)
        self._last_token = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def restored(self) -> Restored:
        """Return what the journal held when it was opened; raise what hindered its opening."""
        answer = self._opened.get()
        if isinstance(answer, BaseException):
            self.close()
            raise answer
        return answer

    def fileno(self) -> int:
        """Return the descriptor that is readable when `collect` has something to give."""
        return self._bell

    @property
    def next_token(self) -> int:
        """The token that the next `submit` returns."""
        return self._last_token + 1

    def submit(self, entries: Sequence[Entry]) -> int:
        """Have `entries` written in one transaction; return the token that `Committed` names."""
        self._last_token += 1
        self._requests.put(_Write(self._last_token, entries))
        return self._last_token

    def read_outcomes(
        self, request: int, call: CallId, after: int = 0, *, items: bool = False
    ) -> None:
        """Ask for outcomes of `call` behind position `after`; `Outcomes` will name `request`.

        With `items`: and for what its generator gave.
        """
        self._requests.put(_Read(request, call, after, items))

    def look(self, request: int, look: Callable[[Store], Any]) -> None:
        """Have `look` called in the thread; `Found` will bring what it returns."""
        self._requests.put(_Look(request, look))

    def collect(self) -> list[Completion]:
        """Return what has been done since the last time.

        Raises:
            Exception: what ended the thread, as it was raised there.
        """
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, 4096):
                pass
        done: list[Completion] = []
        while self._done:
            done.append(self._done.popleft())
        if self._failure is not None:
            if not done:
                raise self._failure
            self._ring()  # what was done before it is told first, and then this
        return done

    def close(self) -> None:
        """Write what was submitted, close the file and end the thread."""
        self._closing.set()
        self._requests.put(None)
        self._thread.join()
        for descriptor in (self._bell, self._rope):
            if descriptor >= 0:
                os.close(descriptor)
        self._bell = self._rope = -1

    # ---- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        from kernel_worker.journal.store import Store  # noqa: PLC0415  the broker's start

        try:
            store = Store.open(self._path)
        except BaseException as error:  # noqa: BLE001  goes to whoever waits for it
            self._opened.put(error)
            return
        try:
            self._opened.put(self._restore(store))
            self._serve(store)
        except BaseException as error:  # noqa: BLE001  goes to whoever collects
            self._failure = error
            self._opened.put(error)
            self._ring()
        finally:
            store.close()

    def _restore(self, store: Store) -> Restored:
        self._expire(store)
        return Restored(
            list(store.open_facts()),
            dict(store.objects.needed()),
            dict(store.ended_calls()),
            list(store.deployments.versions()),
        )

    def _serve(self, store: Store) -> None:
        pause_seconds = min(EXPIRY_SECONDS, max(1.0, self._ttl / _LOOKS_PER_TTL))
        expire_at = time.monotonic()
        while True:
            requests = self._wait(expire_at)
            if not requests:
                gone = self._expire(store)
                if gone.calls or gone.forgotten:
                    self._tell(gone)
                else:
                    expire_at = time.monotonic() + pause_seconds
            self._answer(store, requests)
            if None in requests:
                return

    def _expire(self, store: Store) -> Expired:
        """Drop what is too old; where even that finds no room on the disk, it stays for now."""
        before = time.time() - self._ttl
        try:
            return Expired(store.expire(before), store.forget(before - TOMBSTONE_TTLS * self._ttl))
        except Exception as error:
            if not _is_passing(error):
                raise
            _log.error("what has expired stays in the journal for now: %s", error)
            return Expired([])

    def _wait(self, until: float) -> list[_Request]:
        """Return everything that has come, after waiting for something until `until`."""
        requests: list[_Request] = []
        with contextlib.suppress(queue.Empty):
            requests.append(self._requests.get(timeout=max(0.0, until - time.monotonic())))
            while True:
                requests.append(self._requests.get_nowait())
        return requests

    def _answer(self, store: Store, requests: list[_Request]) -> None:
        writes: list[_Write] = []
        for request in requests:
            if isinstance(request, _Write):
                writes.append(request)
                continue
            self._write(store, writes)
            writes = []
            if isinstance(request, _Look):
                self._tell(Found(request.request, request.look(store)))
            elif request is not None:
                self._read(store, request)
        self._write(store, writes)

    def _write(self, store: Store, writes: list[_Write]) -> None:
        if not writes:
            return
        entries = [entry for write in writes for entry in write.entries]
        why = ""
        while True:
            try:
                store.write(entries)
                break
            except Exception as error:
                if not _is_passing(error) or self._closing.is_set():
                    raise
                if not why:
                    why = f"{self._path.parent} cannot be written ({error}): make room there"
                    _log.error("spawned calls wait: %s", why)
                self._tell(Delayed(why))
                self._closing.wait(_RETRY_SECONDS)
        if why:
            _log.info("%s can be written again", self._path.parent)
        self._tell(Committed(writes[-1].token))

    def _read(self, store: Store, request: _Read) -> None:
        facts, more = store.outcomes(
            request.call, request.after, OUTCOME_BYTES, items=request.items
        )
        self._tell(Outcomes(request.request, facts, last=not more))

    def _tell(self, completion: Completion) -> None:
        self._done.append(completion)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it rings already
            os.write(self._rope, b"!")


def _is_passing(error: Exception) -> bool:
    """Whether it is the disk's trouble, which may end: it is full, or does not answer."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR"))
