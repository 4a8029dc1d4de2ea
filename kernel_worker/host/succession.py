"""Another broker in the place of one that was killed, where functions are called by themselves.

Otherwise the next client would start it, and nobody may come for days. A thread waits for it to
listen, so that workers are looked after meanwhile. Whoever else starts one at the same moment gets
the same (`rendezvous.find_or_start`). Where none can be started the agent ends as if nobody had
tried, and so it does where several in a row have died young: what kills them would go on.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from kernel_worker import rendezvous, settings
from kernel_worker.errors import Error
from kernel_worker.host import log, orphans

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_DEATHS: Final = 3
DEATHS_SECONDS: Final = 60.0
"""After so many deaths in so short a time no other broker is started."""
_TRIES: Final = 10
_LOOK_MS: Final = 500


def start_broker() -> None:
    """Start one, with the settings of the one that is gone, and wait until it listens.

    What is found may be the one that is gone: its connections end a moment before its lock does.
    """
    try:
        for _ in range(_TRIES):
            with orphans.letting_go():
                found = rendezvous.find_or_start(settings.load(start="/"))
            if _lives(found.pid):
                return
    except (Error, OSError) as error:
        log.say(f"no broker follows the one that is gone: {error}")


def _lives(pid: int) -> bool:
    """Return whether a process is there, and still a while later."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        poller = select.poll()
        poller.register(process, select.POLLIN)
        return not poller.poll(_LOOK_MS)
    finally:
        os.close(process)


class Succession:
    """Whether a broker follows, and the thread that starts it."""

    def __init__(self, start: Callable[[], None] = start_broker) -> None:
        """Start none before the broker says that one is wanted (`messages.KeepBroker`)."""
        self.is_wanted = False
        self._start = start
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._thread: threading.Thread | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether one is being started."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, now: float) -> bool:
        """Begin to start one in the place of one that died `now`; return whether it does."""
        self._deaths.append(now)
        too_often = len(self._deaths) == MOST_DEATHS and now - self._deaths[0] < DEATHS_SECONDS
        if not self.is_wanted or too_often:
            return False
        self._thread = threading.Thread(target=self._start, name="succession", daemon=True)
        self._thread.start()
        return True
