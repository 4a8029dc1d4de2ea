"""The messages of a link whose large frames go by the bulk connection.

Theory. A message with large frames waits until they have arrived at the other end, as blobs; then
it goes by CURVE and names them (`wire.bulk.Manifest`). What is said to the same peer after it waits
behind it, so that each hears what was said in order; nobody else waits. A frame that lies in a
client's store, and an object, is sent to a machine once: the blob stays there for a while, and is
named again.

Where there is no bulk connection, and none comes within `GRACE_SECONDS`, messages go as they are,
by CURVE: slowly. So it is when it was cut again and again and nothing arrived.

Guarantees: what was said to one peer arrives in order. Nothing waits for ever that the link itself
outlives.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from kernel_worker.broker.bulk import DOWN, UP, Exchange, Listener
from kernel_worker.errors import ProtocolError
from kernel_worker.store.segments import Mapping
from kernel_worker.wire import bulk, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

    from kernel_worker.broker.watches import Timers, Watches

Frame = bytes | memoryview

GRACE_SECONDS: Final = 5.0
KEPT_BYTES: Final = 1 << 30
"""So much of what may be named again stays at the other end, …"""
KEPT_SECONDS: Final = 60.0
"""… and for so long after it was named last."""
_MOST_CUTS: Final = 5
_HERE: Final = b"\0"
"""Begins the first frame of a message that has a manifest; no peer's id begins so."""
_log = logging.getLogger(__name__)


class _Blob:
    """A blob that was sent."""

    __slots__ = ("key", "lanes", "number", "size_bytes", "used_at")

    def __init__(self, number: int, key: Hashable, size_bytes: int) -> None:
        self.number = number
        self.key = key
        self.size_bytes = size_bytes
        self.lanes: list[bytes] = []
        """For whom messages that name it wait, once for each."""
        self.used_at = 0.0


class _Held:
    """A message that waits."""

    __slots__ = ("blobs", "is_marked", "message", "size_bytes")

    def __init__(self, message: Sequence[Frame], *, is_marked: bool) -> None:
        self.message = message
        self.is_marked = is_marked
        self.blobs: list[tuple[int, _Blob]] = []
        self.size_bytes = sum(map(len, message))


class Freight:
    """What one end of a link says by it, and hears."""

    def __init__(
        self,
        exchange: Exchange,
        forward: Callable[[Sequence[Frame]], None],
        watches: Watches,
        timers: Timers,
        now: Callable[[], float],
    ) -> None:
        """Wait for the first connection.

        Args:
            exchange: the link's.
            forward: sends a message by CURVE.
            watches: of the loop.
            timers: of the loop.
            now: tells the time, by the clock of these.
        """
        self._exchange = exchange
        self._forward = forward
        self._watches, self._timers, self._now = watches, timers, now
        watches.add(exchange.fileno(), self.hear_exchange)
        self._lanes: dict[bytes, deque[_Held]] = {}
        """What waits, for each peer."""
        self._under_way: dict[int, _Blob] = {}
        self._kept: OrderedDict[Hashable, _Blob] = OrderedDict()
        """What may be named again, the oldest first; some are under way yet."""
        self._kept_bytes = 0
        self._gone: list[int] = []
        """What the next manifest says."""
        self._number = 0
        self._cuts = 0
        self.held_bytes = 0
        """How much waits."""
        self._is_up = False
        self._is_used = True
        """Whether large frames wait for the bulk connection: there is one, or there will be."""
        self._expect_connection()

    # ---- what is said ---------------------------------------------------------------------------

    def put(self, message: Sequence[Frame], lane: bytes = b"", key: Hashable = None) -> None:
        """Send a message, now or when its large frames are at the other end.

        Args:
            message: the peer's id, and what is said.
            lane: behind what it goes; what was said to or by that peer, unless given.
            key: of its large frames: what has the same there is the same.
        """
        lane = lane or bytes(message[0])
        waiting = self._lanes.get(lane)
        large = (
            [at for at, frame in enumerate(message) if len(frame) >= bulk.LARGE_BYTES]
            if self._is_used
            else ()
        )
        if waiting is None and not large:
            self._forward(message if key is None else _marked(message))
            return
        held = _Held(message, is_marked=key is not None)
        self.held_bytes += held.size_bytes
        self._lanes.setdefault(lane, deque()).append(held)
        for at in large:
            blob = self._shipped(message[at], None if key is None else (key, at))
            blob.lanes.append(lane)
            held.blobs.append((at, blob))
        self._flush(lane)

    def forget(self, peer: bytes) -> None:
        """Drop what waits for a peer that is gone."""
        for held in self._lanes.pop(peer, ()):
            self.held_bytes -= held.size_bytes
            for _, blob in held.blobs:
                self._released(blob, peer)

    def is_waiting(self, lane: bytes) -> bool:
        """Whether something waits for a peer."""
        return lane in self._lanes

    def close(self) -> None:
        """Drop everything, and end the connection."""
        self._lanes.clear()
        for name in ("grace", "kept"):
            self._timers.cancel((self, name))
        if not self._exchange.is_closed:
            self._watches.remove(self._exchange.fileno())
            self._exchange.close()

    def _shipped(self, frame: Frame, key: Hashable) -> _Blob:
        """Return the blob that a frame is; it is on its way or there."""
        if isinstance(frame, memoryview) and isinstance(frame.obj, Mapping):
            key = frame.obj.place
        known = self._kept.get(key) if key is not None else None
        if known is not None:
            self._kept.move_to_end(key)
            return known
        self._number += 1
        blob = self._under_way[self._number] = _Blob(self._number, key, len(frame))
        self._exchange.send(blob.number, frame)
        if key is not None and len(frame) <= KEPT_BYTES:
            self._kept[key] = blob
            self._kept_bytes += blob.size_bytes
        return blob

    def _flush(self, lane: bytes) -> None:
        """Send what waits for one peer as far as its blobs have arrived."""
        waiting = self._lanes.get(lane, deque())  # none: the link was lost just now
        while waiting and not any(blob.number in self._under_way for _, blob in waiting[0].blobs):
            held = waiting.popleft()
            self.held_bytes -= held.size_bytes
            for _, blob in held.blobs:
                self._named(blob, lane)
            self._forward(self._packed(held))
        if not waiting:
            self._lanes.pop(lane, None)

    def _packed(self, held: _Held) -> Sequence[Frame]:
        """Return a message as it goes by CURVE, with what is to be said of blobs."""
        if not (held.blobs or held.is_marked):
            return held.message
        places = tuple((at, blob.number) for at, blob in held.blobs)
        manifest = bulk.Manifest(places, tuple(self._gone))
        self._gone.clear()
        left = {at for at, _ in places}
        rest = [frame for at, frame in enumerate(held.message) if at and at not in left]
        return [_HERE + held.message[0], manifest.encode(), *rest]

    # ---- blobs ----------------------------------------------------------------------------------

    def _named(self, blob: _Blob, lane: bytes) -> None:
        """A message that names a blob goes now."""
        blob.lanes.remove(lane)
        blob.used_at = self._now()
        if self._kept.get(blob.key) is blob:
            self._trim(KEPT_BYTES)
            self._timers.set_if_earlier((self, "kept"), self._now() + KEPT_SECONDS, self._age)
        elif not blob.lanes:
            self._let_go(blob)

    def _released(self, blob: _Blob, lane: bytes) -> None:
        """A message that names a blob does not go."""
        blob.lanes.remove(lane)
        if blob.lanes:
            return
        if blob.number in self._under_way:
            del self._under_way[blob.number]
            self._forget_key(blob)
            self._exchange.drop(blob.number)
        elif self._kept.get(blob.key) is not blob:
            self._let_go(blob)

    def _let_go(self, blob: _Blob) -> None:
        self._forget_key(blob)
        self._gone.append(blob.number)

    def _forget_key(self, blob: _Blob) -> None:
        if self._kept.get(blob.key) is blob:
            del self._kept[blob.key]
            self._kept_bytes -= blob.size_bytes

    def _trim(self, limit_bytes: float, before: float = float("inf")) -> None:
        """Let go of the oldest that nobody waits for, until there is no more than the limit."""
        for blob in list(self._kept.values()):
            if self._kept_bytes <= limit_bytes:
                return
            if not blob.lanes and blob.number not in self._under_way and blob.used_at <= before:
                self._let_go(blob)

    def _age(self) -> None:
        """Let go of what was not named for a while, and say so."""
        self._trim(0, self._now() - KEPT_SECONDS)
        if self._gone:
            self._forward([_HERE, bulk.Manifest((), tuple(self._gone)).encode()])
            self._gone.clear()
        if self._kept:
            self._timers.set((self, "kept"), self._now() + KEPT_SECONDS, self._age)

    # ---- the connection -------------------------------------------------------------------------

    def hear_exchange(self) -> None:
        """Do what is due as blobs have arrived, or the connection is another one."""
        for news in self._exchange.news():
            if news == UP:
                self._is_up = self._is_used = True
                self._timers.cancel((self, "grace"))
            elif news == DOWN:
                self._is_up = False
                self._cuts += 1
                self._expect_connection()
                if self._cuts >= _MOST_CUTS:
                    self._cuts = 0
                    self._go_without()
            elif isinstance(news, int) and news in self._under_way:
                self._cuts = 0
                for lane in dict.fromkeys(self._under_way.pop(news).lanes):
                    self._flush(lane)

    def _expect_connection(self) -> None:
        at = self._now() + GRACE_SECONDS
        self._timers.set_if_earlier((self, "grace"), at, self._given_up)

    def _given_up(self) -> None:
        if not self._is_up:
            self._is_used = False
            self._go_without()

    def _go_without(self) -> None:
        """Send all that waits as it is."""
        lanes, self._lanes = self._lanes, {}
        for lane, waiting in lanes.items():
            for held in waiting:
                self.held_bytes -= held.size_bytes
                for _, blob in held.blobs:
                    self._released(blob, lane)
                self._forward(_marked(held.message) if held.is_marked else held.message)

    # ---- what is heard --------------------------------------------------------------------------

    def unpacked(self, message: list[Frame]) -> tuple[list[Frame], bool]:
        """Return a message whole, and whether it had a manifest; empty: there is none for anybody.

        Raises:
            ProtocolError: it names what is not here.
        """
        if bytes(message[0][:1]) != _HERE:
            return message, False
        if len(message) == 1:
            raise ProtocolError("a message has no manifest, and says that it has")
        manifest = bulk.manifest(message[1])
        whole = [message[0][1:], *message[2:]]
        for at, blob in manifest.blobs:
            whole.insert(at, self._exchange.received(blob))
        for blob in manifest.gone:
            self._exchange.let_go(blob)
        return (whole if len(whole) > 1 else []), True


def _marked(message: Sequence[Frame]) -> list[Frame]:
    """Return a message with a manifest, though it names no blobs: it is counted nowhere else."""
    return [_HERE + message[0], bulk.Manifest().encode(), *message[1:]]


class Freights:
    """What goes by the links of one broker, and the one place where their outposts dial for it."""

    def __init__(
        self, path: Path, watches: Watches, timers: Timers, now: Callable[[], float]
    ) -> None:
        """Listen nowhere yet.

        Args:
            path: where a socket may be, for who comes by ssh.
            watches: of the loop.
            timers: of the loop.
            now: tells the time, by the clock of these.
        """
        self._path = path
        self._watches, self._timers, self._now = watches, timers, now
        self._listener: Listener | None = None
        self._exchanges: dict[Freight, Exchange] = {}

    def begin(self, door: str, forward: Callable[[Sequence[Frame]], None]) -> Freight:
        """Return what goes by a link that is new.

        Args:
            door: the address of CURVE: what is beside it is listened at from now on.
            forward: sends a message by the link.
        """
        if self._listener is None:
            try:
                self._listener = Listener(door, self._path)
            except OSError as error:
                _log.error("large values of hosts go slowly, no port can be had: %s", error)
        exchange = Exchange(os.urandom(bulk.ID_BYTES), os.urandom(bulk.SECRET_BYTES))
        made = Freight(exchange, forward, self._watches, self._timers, self._now)
        self._exchanges[made] = exchange
        if self._listener is not None:
            self._listener.add(exchange)
        return made

    def way(self, freight: Freight) -> messages.BulkWay:
        """Return what the other end is told."""
        exchange = self._exchanges[freight]
        port = 0 if self._listener is None else self._listener.port
        return messages.BulkWay(port, exchange.session, exchange.secret)

    def end(self, freight: Freight) -> None:
        """A link is gone: nobody gets in by its session any more."""
        exchange = self._exchanges.pop(freight)
        if self._listener is not None:
            self._listener.remove(exchange)
        freight.close()

    def close(self) -> None:
        """End all, and listen no more."""
        for freight in list(self._exchanges):
            self.end(freight)
        if self._listener is not None:
            self._listener.close()
