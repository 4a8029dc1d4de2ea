"""How many messages a turn takes from a socket before it polls again.

Theory. To find that there is no other message costs more than another poll does (libzmq's answer is
an exception), and to poll for each of many costs more than to take them together. Where messages
come one at a time (calls that are waited for) a turn takes one; a few turns in a row that had one
are a sign that more wait, and then each takes twice what the last one took.
"""

from __future__ import annotations

from typing import Final

MOST_MESSAGES: Final = 256
"""A turn takes no more."""
_PATIENCE: Final = 8
"""So many turns take one message before one tries two."""


class Appetite:
    """What the next turn takes."""

    __slots__ = ("_size", "_turns")

    def __init__(self) -> None:
        """Begin with one message a turn."""
        self._size = 1
        self._turns = 0

    def next(self) -> int:
        """Return how many messages this turn may take; the next will take more."""
        size = self._size
        if size > 1 or self._turns >= _PATIENCE:
            self._size = max(size, min(2 * size, MOST_MESSAGES))
        self._turns += 1
        return size

    def grow(self, size: int = MOST_MESSAGES) -> None:
        """Take so many next: what is there is wanted now."""
        self._size = size

    def spoil(self) -> None:
        """There was no more: take one at a time again."""
        self._size, self._turns = 1, 0
