"""The host agent of the broker's own machine: started with the broker, kept alive, ended with it.

The first one begins before its broker can be dialled, so that both load side by side. An agent that
dies is started again, later each time it dies young. One that is there already, since
it has outlived another broker, is taken over: it is no child of this process, but it is watched and
ended like one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from kernel_worker import rendezvous
from kernel_worker.broker.watches import ProcessWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kernel_worker.broker.watches import Timers, Watches

_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 30.0
_YOUNG_SECONDS = 10.0
STOP_SECONDS = 8.0

_log = logging.getLogger(__name__)


class LocalAgent:
    """One `kernel_worker.host` process at a time."""

    def __init__(  # noqa: PLR0917  made in two places
        self,
        connection_file: str,
        watches: Watches,
        timers: Timers,
        clock: Callable[[], float],
        options: Sequence[str] = (),
        on_death: Callable[[], None] = lambda: None,
        early: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            connection_file: beside which it lives.
            watches: of whose turn its death is noticed.
            timers: by which it is started again.
            clock: the one that `timers` goes by.
            options: further ones of its command line.
            on_death: called when it has died by itself.
            early: the first one, which waits to be told that its broker is there.
        """
        self._connection_file = connection_file
        self._command = [*_command(connection_file), *options]
        self._early = early
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        """What the agent and its workers may have open: as who started the broker, not as that."""
        self._on_death = on_death
        self._watches = watches
        self._timers = timers
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """The process, or 0."""
        self._watch: ProcessWatch | None = None
        self._started_at = 0.0
        self._delay_seconds = _FIRST_DELAY_SECONDS

    def start(self) -> None:
        """Start the process, unless one is there; it is watched from now on."""
        self._started_at = self._clock()
        self.pid = rendezvous.living_agent(self._connection_file)
        early, self._early = self._early, None
        if early is not None:
            _tell(early, goes_on=not self.pid)
        if not self.pid:
            self._child = early or subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True
            )
            self.pid = self._child.pid
            with contextlib.suppress(OSError):  # it has ended
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, self._files)
        try:
            self._watch = ProcessWatch(self._watches, self.pid, self._died)
        except ProcessLookupError:
            self._died()

    def stop(self, patience_seconds: float = STOP_SECONDS) -> None:
        """Ask for its end, wait for that, and kill it if that takes too long."""
        self._timers.cancel("agent")
        if self._watch is not None:
            self._watch.close()
        if self.pid and not end(self.pid, patience_seconds):
            _log.warning("the host agent (pid %d) did not end: killed", self.pid)
        if self._child is not None:
            self._child.wait()
        self._child, self.pid = None, 0

    def _died(self) -> None:
        code = "unknown" if self._child is None else str(self._child.wait())
        self._child, self.pid = None, 0
        self._on_death()
        now = self._clock()
        if now - self._started_at > _YOUNG_SECONDS:
            self._delay_seconds = _FIRST_DELAY_SECONDS
        _log.error(
            "the host agent ended (exit code %s); another one in %.1f s", code, self._delay_seconds
        )
        self._timers.set("agent", now + self._delay_seconds, self.start)
        self._delay_seconds = min(2 * self._delay_seconds, _MAX_DELAY_SECONDS)


def begin_early(connection_file: str) -> subprocess.Popen[bytes] | None:
    """Start an agent that loads what it needs while its broker does, and waits for that then.

    It ends where the broker ends before it says so.

    Returns:
        None where an agent lives that has outlived another broker.
    """
    if rendezvous.living_agent(connection_file):
        return None
    command = [*_command(connection_file), "--early"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True)


def _command(connection_file: str) -> list[str]:
    return [sys.executable, "-P", "-m", "kernel_worker.host", "--connection", connection_file]


def _tell(early: subprocess.Popen[bytes], *, goes_on: bool) -> None:
    """Tell an agent that was started early that its broker is there, or that it is not needed."""
    assert early.stdin is not None  # noqa: S101  see `begin_early`
    if not goes_on:
        early.kill()  # it may be loading still, and has nothing yet
        early.wait()
    with contextlib.suppress(BrokenPipeError):  # it has died, as its watch will notice
        if goes_on:
            early.stdin.write(b"\n")
        early.stdin.close()


def end(pid: int, patience_seconds: float) -> bool:
    """Ask a process to end, and kill it where it does not; return whether it ended by itself."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        with contextlib.suppress(ProcessLookupError):
            if patience_seconds > 0:
                signal.pidfd_send_signal(process, signal.SIGTERM)
                if _has_ended(process, patience_seconds):
                    return True
            signal.pidfd_send_signal(process, signal.SIGKILL)
        _has_ended(process, STOP_SECONDS)
    finally:
        os.close(process)
    return False


def _has_ended(process: int, patience_seconds: float) -> bool:
    poller = select.poll()
    poller.register(process, select.POLLIN)
    return bool(poller.poll(patience_seconds * 1000))
