"""Client <-> broker: what is done with dicts and queues."""

from __future__ import annotations

from kernel_worker import shelf
from kernel_worker.wire.messages.anybody import Tagged


class UseShelf(Tagged, tag="use_shelf"):
    """Do something with a dict or a queue (frames: what the act says); answered by `Reply`.

    The body of the reply is the answer's; its error may be one of the words in `shelf`.
    """

    request: int
    act: shelf.Act
    received: tuple[int, ...] = ()
    """Requests of which the client has the answers: nobody asks for these again."""


class ShelfWord(Tagged, tag="shelf_word"):
    """What a client has of its requests to `UseShelf`."""

    received: tuple[int, ...] = ()
    returned: tuple[int, ...] = ()
    """It was answered, and does not want what it got."""
    withdrawn: tuple[int, ...] = ()
    """It waits no more. They are answered all the same, in whatever way."""
    asks: tuple[int, ...] | None = None
    """To a broker that is new: to so many it has no answer, to all others it has."""


class Parked(Tagged, tag="parked"):
    """Broker -> client: the request to `UseShelf` waits for what it wants."""

    request: int
