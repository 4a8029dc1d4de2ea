"""The parent of the gateway of what is deployed: it starts that again where it is killed.

It imports next to nothing: what the system kills for its memory is the gateway, and not this.
"""

from __future__ import annotations

import os
import time
from typing import Final

_AGAIN_SECONDS: Final = (0.1, 60.0)
"""How long it is waited before a gateway that was killed is started again: at first, at most."""
_LIVED_SECONDS: Final = 60.0
"""Behind so long a life, the waiting begins anew."""


def keep() -> None:
    """Return in a child, which is to be the gateway, and in another one where that is killed."""
    shortest, longest = _AGAIN_SECONDS
    seconds = shortest
    while pid := os.fork():
        begun = time.monotonic()
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            os._exit(os.waitstatus_to_exitcode(status))
        os.dup2(2, 1)  # who has started it has heard where it is, and listens no more
        lived = time.monotonic() - begun
        seconds = shortest if lived > _LIVED_SECONDS else min(2 * seconds, longest)
        time.sleep(seconds)
