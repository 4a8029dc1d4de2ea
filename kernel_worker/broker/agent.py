"""The host agent of the broker's own machine: started with the broker, kept alive, ended with it.

Its standard input is a pipe whose other end is here: its end of file tells the agent that the
broker is gone, however it went. An agent that dies is started again, later each time it dies young.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

from kernel_worker.broker.watches import ProcessWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.watches import Timers, Watches

_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 30.0
_YOUNG_SECONDS = 10.0
_STOP_SECONDS = 8.0

_log = logging.getLogger(__name__)


class LocalAgent:
    """One `kernel_worker.host` process at a time."""

    def __init__(
        self, connection_file: str, watches: Watches, timers: Timers, clock: Callable[[], float]
    ) -> None:
        """Start nothing yet. `clock` is the one that `timers` goes by."""
        command = [sys.executable, "-P", "-m", "kernel_worker.host"]
        self._command = [*command, "--connection", connection_file]
        self._watches = watches
        self._timers = timers
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: ProcessWatch | None = None
        self._started_at = 0.0
        self._delay_seconds = _FIRST_DELAY_SECONDS

    @property
    def pid(self) -> int:
        """The process, or 0."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process; it is watched from now on."""
        self._started_at = self._clock()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )
        self._watch = ProcessWatch(self._watches, self._process.pid, self._died)

    def stop(self) -> None:
        """Close its standard input, wait for its end, and kill it if that takes too long."""
        self._timers.cancel("agent")
        if self._watch is not None:
            self._watch.close()
        if self._process is None:
            return
        self._close_pipe()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the host agent (pid %d) did not end: killed", self._process.pid)
            self._process.kill()
            self._process.wait()
        self._process = None

    def _died(self) -> None:
        if self._process is None:
            return
        self._close_pipe()
        code = self._process.wait()
        self._process = None
        now = self._clock()
        if now - self._started_at > _YOUNG_SECONDS:
            self._delay_seconds = _FIRST_DELAY_SECONDS
        _log.error(
            "the host agent ended (exit code %d); another one in %.1f s", code, self._delay_seconds
        )
        self._timers.set("agent", now + self._delay_seconds, self.start)
        self._delay_seconds = min(2 * self._delay_seconds, _MAX_DELAY_SECONDS)

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
