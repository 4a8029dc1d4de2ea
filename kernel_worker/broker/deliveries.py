"""What of a link's messages an outpost deals with itself: objects, which travel to a machine once.

Code, environments and what calls share come by `StoreObject`; of one that was there before, only
the name comes (`wire.depot`). What was `put` workers ask for: the first one's question goes to the
broker, and the answer is kept for the others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import ProtocolError
from kernel_worker.model import Digest
from kernel_worker.store import carrying
from kernel_worker.wire import messages
from kernel_worker.wire.depot import Depot

if TYPE_CHECKING:
    from collections.abc import Sequence

Frame = bytes | memoryview
Parcel = tuple[bytes, bytes, "Sequence[bytes | memoryview]"]
"""For whom, the header and the frames."""
KEPT_BYTES: Final = 1 << 30
"""So much of what was put is kept, and always what came last."""
_STORE_OBJECT: Final = b"\xacstore_object"
_ASK: Final = b"\xa3ask"
_REPLY: Final = b"\xa5reply"


class Deliveries:
    """The objects of one machine, on their way to its host agent and its workers."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._depot = Depot()
        self._kept: OrderedDict[Digest, Frame] = OrderedDict()
        self._kept_bytes = 0
        self._asked: dict[Digest, list[tuple[bytes, messages.Ask]]] = {}
        """Who waits for an object; the question of the first one is under way."""

    def forget(self) -> None:
        """The broker knows nothing more of what it has sent."""
        self._depot = Depot()
        self._asked.clear()

    def arrived(
        self, peer: bytes, header: bytes, frames: Sequence[Frame], *, by_bulk: bool = False
    ) -> list[Parcel]:
        """Return what the broker's message becomes here.

        Args:
            peer: for whom it is.
            header: of the message.
            frames: what follows.
            by_bulk: whether it is another one's matter that it travels once (`freight`).
        """
        if header[1:14] == _STORE_OBJECT and len(frames) > 1:
            frames = (carrying.joined(frames),)
        if header[1:14] == _STORE_OBJECT and not by_bulk:
            return [(peer, header, self._stored(header, frames))]
        if header[1:7] == _REPLY and self._asked:
            reply = messages.decode_at_client(header)
            if isinstance(reply, messages.Reply):
                return [(peer, header, frames), *self._shared(peer, reply, frames)]
        return [(peer, header, frames)]

    def asked(self, peer: bytes, header: bytes) -> list[Parcel] | None:
        """Return the answer to a question; None: it is one for the broker, or no question."""
        if header[1:5] != _ASK:
            return None
        ask = messages.decode_at_broker(header)
        if not isinstance(ask, messages.Ask) or ask.what != "object":
            return None
        digest = Digest(ask.subject)
        if digest in self._kept:
            self._kept.move_to_end(digest)
            reply = messages.encode(messages.Reply(ask.request))
            return [(peer, reply, (self._kept[digest],))]
        waiting = self._asked.setdefault(digest, [])
        waiting.append((peer, ask))
        return None if len(waiting) == 1 else []

    def gone(self, peer: bytes) -> list[Parcel]:
        """Return what is to be asked of the broker anew, as who had asked it is gone."""
        again: list[Parcel] = []
        for digest, waiting in list(self._asked.items()):
            first = waiting[0][0]
            waiting[:] = [each for each in waiting if each[0] != peer]
            if not waiting:
                del self._asked[digest]
            elif first == peer:
                other, ask = waiting[0]
                again.append((other, messages.encode(ask), ()))
        return again

    def _stored(self, header: bytes, frames: Sequence[Frame]) -> Sequence[Frame]:
        stored = messages.decode_at_host(header)
        if not isinstance(stored, messages.StoreObject):
            return frames
        if frames:
            self._depot.put(stored.digest, len(frames[0]), frames[0])
            return frames
        content = self._depot.get(stored.digest)
        if content is None:
            text = f"object {stored.digest} is named, and is not here"
            raise ProtocolError(text)
        return (content,)

    def _shared(self, peer: bytes, reply: messages.Reply, frames: Sequence[Frame]) -> list[Parcel]:
        """Return the answers for the others that have asked for the same object."""
        for digest, waiting in self._asked.items():
            first, ask = waiting[0]
            if (first, ask.request) == (peer, reply.request):
                del self._asked[digest]
                if frames:
                    self._keep(digest, frames[0])
                return [
                    (other, _answer(reply, other_ask.request), frames)
                    for other, other_ask in waiting[1:]
                ]
        return []

    def _keep(self, digest: Digest, content: Frame) -> None:
        self._kept[digest] = content
        self._kept_bytes += len(content)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)


def _answer(reply: messages.Reply, request: int) -> bytes:
    return messages.encode(messages.Reply(request, reply.body, reply.error))
