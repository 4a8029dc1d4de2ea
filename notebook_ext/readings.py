"""Who reads the items of spawned generators, and from which answer of the broker on.

Theory. A client has one attachment to a call, the last that it said, and whatever its broker says
of the call belongs to the last one that the broker has heard of. Somebody who begins to read says a
new one, numbered; until the broker repeats that number (`Replaying`) what comes is an earlier
one's: it may be the outcome, without the items before it. So a reader *waits* until then.

Guarantees: a reader hears every item from the first on, and the outcome behind them; a reader that
has heard the outcome is no reader any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel_worker.model import CallId
    from notebook_ext.submission import Receiver


class Readings:
    """The readers of all calls."""

    def __init__(self) -> None:
        """Start with none."""
        self._readers: dict[CallId, dict[Receiver, int]] = {}
        """Each with the number that it waits for; 0: it reads."""
        self._last = 0

    def begin(self, call: CallId, receiver: Receiver) -> None:
        """Somebody reads from the next attachment on."""
        self._readers.setdefault(call, {})[receiver] = self._last + 1

    def end(self, call: CallId, receiver: Receiver) -> bool:
        """Somebody reads no more; return whether it was the last one that did."""
        readers = self._readers.get(call, {})
        if readers.pop(receiver, None) is None or readers:
            return False
        del self._readers[call]
        return True

    def number(self, call: CallId) -> int:
        """Return the number of an attachment to `call` that is said now; 0: nobody reads it."""
        if call not in self._readers:
            return 0
        self._last += 1
        return self._last

    def replaying(self, call: CallId, number: int) -> None:
        """From here on what comes belongs to attachment `number`."""
        readers = self._readers.get(call, {})
        for receiver, awaited in readers.items():
            if awaited <= number:
                readers[receiver] = 0

    def of(self, call: CallId) -> list[Receiver]:
        """Return those who read."""
        return [one for one, awaited in self._readers.get(call, {}).items() if not awaited]

    def waits(self, call: CallId, receiver: Receiver) -> bool:
        """Say whether what comes is not yet for this receiver."""
        return bool(self._readers.get(call, {}).get(receiver))

    def is_reader(self, call: CallId, receiver: Receiver) -> bool:
        """Say whether this receiver reads, or waits to."""
        return receiver in self._readers.get(call, {})

    def forget(self, call: CallId) -> None:
        """Nothing comes any more."""
        self._readers.pop(call, None)

    def forget_all(self) -> None:
        """Nothing comes of any call."""
        self._readers.clear()
