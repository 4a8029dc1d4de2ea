"""What a client says about dicts and queues: the part of the conversation that they have.

Theory. A request keeps its number until it is answered, and is said again, as it was, to a broker
that is new: that one knows by the number whether it was done. Of what was answered the client says
that it has it; of items that it took at once, before anybody sees them, of the rest with its next
request. To a broker that is new it says what it still asks for: all else has been answered.

Guarantees: every request is answered once. What comes for somebody who waits no more goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kernel_worker.shelf import CHANGES, Take
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.shelf import Act
    from kernel_worker.wire.frames import Frame

    Say = Callable[..., None]


class Request:
    """One act, from when it is asked for until it is answered."""

    __slots__ = ("act", "frames", "heard", "is_parked", "is_withdrawn", "number", "parks")

    def __init__(
        self,
        act: Act,
        frames: Sequence[Frame],
        heard: Callable[[messages.Reply, list[bytes]], object],
        parks: Callable[[bool], object],
    ) -> None:
        """Ask for `act` with `frames`.

        Args:
            act: What is to be done.
            frames: What goes with it.
            heard: Called with the reply, once.
            parks: Called with True when it has to wait, and with False when it waits no more.
        """
        self.act = act
        self.frames = frames
        self.heard = heard
        self.parks = parks
        self.number = 0
        self.is_parked = False
        self.is_withdrawn = False


class Shelving:
    """Requests that have no answer yet."""

    def __init__(self, say: Say) -> None:
        """Say messages by `say(message, frames)`, which does nothing where nobody is there."""
        self._say = say
        self._open: dict[int, Request] = {}
        self._received: list[int] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for."""
        return not self._open

    def ask(self, request: Request, number: int) -> None:
        """Ask for something; `number` is one that no other request has."""
        request.number = number
        self._open[number] = request
        self._say_request(request)

    def withdraw(self, request: Request) -> None:
        """Nobody waits for the answer any more."""
        if request.number in self._open and not request.is_withdrawn:
            request.is_withdrawn = True
            self._say(messages.ShelfWord(withdrawn=(request.number,)), ())

    def parked(self, number: int) -> bool:
        """A request waits; return whether it is one of these."""
        request = self._open.get(number)
        if request is None:
            return False
        if not request.is_parked:
            request.is_parked = True
            request.parks(True)
        return True

    def answered(self, reply: messages.Reply, frames: list[bytes]) -> bool:
        """A reply has come; return whether it is for one of these."""
        request = self._open.pop(reply.request, None)
        if request is None:
            return False
        if not reply.error and isinstance(request.act, Take):
            word = messages.ShelfWord(received=(request.number,))
            if request.is_withdrawn:
                word = messages.ShelfWord(returned=(request.number,))
            self._say(word, ())
        elif not reply.error and isinstance(request.act, CHANGES):
            self._received.append(request.number)
        self._tell(request, reply, frames)
        return True

    def begin(self) -> None:
        """Say everything that is open to a broker that is new."""
        self._received.clear()
        self._say(messages.ShelfWord(asks=tuple(self._open)), ())
        for request in self._open.values():
            self._say_request(request)
            if request.is_withdrawn:
                self._say(messages.ShelfWord(withdrawn=(request.number,)), ())

    def fail(self, body: Any, error: str) -> None:
        """There will be no answers."""
        left, self._open = self._open, {}
        for request in left.values():
            self._tell(request, messages.Reply(request.number, body, error), [])

    def _tell(self, request: Request, reply: messages.Reply, frames: list[bytes]) -> None:
        if request.is_parked:
            request.is_parked = False
            request.parks(False)
        request.heard(reply, frames)

    def _say_request(self, request: Request) -> None:
        received, self._received = tuple(self._received), []
        self._say(messages.UseShelf(request.number, request.act, received), request.frames)
