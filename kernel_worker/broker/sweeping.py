"""When the broker looks for what clients have left in shared memory.

It looks when a client has gone, and once a minute while there are any; in a thread of its own, as
it takes a while to give gigabytes back.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from kernel_worker.store import owning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_worker.broker.watches import Timers

_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class Sweeping:
    """Looks at the stores of the clients of one broker."""

    def __init__(
        self,
        directory: Path,
        timers: Timers,
        now: Callable[[], float],
        has_clients: Callable[[], bool],
    ) -> None:
        """Look at nothing yet.

        Args:
            directory: the broker's runtime directory.
            timers: the loop's.
            now: the loop's clock.
            has_clients: whether there is anybody who may have a store.
        """
        self._directory = directory
        self._timers = timers
        self._now = now
        self._has_clients = has_clients
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Look now, and again in a minute."""
        if self.is_looking:
            self._timers.set("sweep", self._now() + 1.0, self.look)  # it may be past who has gone
            return
        self._thread = threading.Thread(target=self.sweep, name="sweep", daemon=True)
        self._thread.start()
        self.look_later()

    @property
    def is_looking(self) -> bool:
        """Whether a look is not over."""
        return self._thread is not None and self._thread.is_alive()

    def look_later(self) -> None:
        """Look within a minute, if there are clients then."""
        self._timers.set_if_earlier("sweep", self._now() + _SECONDS, self._look_if_any)

    def _look_if_any(self) -> None:
        if self._has_clients():
            self.look()

    def sweep(self) -> None:
        """Look, in this thread."""
        try:
            owning.sweep(self._directory)
        except OSError as error:
            _log.warning("what clients left in shared memory could not be removed: %s", error)
