"""The devices of this machine, which several brokers may offer: who has one, and who has to wait.

Theory. Each broker's core knows what its own workers hold, and of others nothing. So there is a
file for each device in a directory that all users of the machine share (setting `device_locks`),
and who uses the device has that locked (`flock`). The lock belongs to an open file, which the agent
and all of its workers on that device have: it is free once the last of these processes is gone,
however they end, and not before. The agent closes its own when the last worker is reaped.

A device that is locked already is none that could not be used: the broker is told that somebody
else has it, and told again when that has changed. Nobody says so, so it is looked at.

A device is known by the name that its driver gives it, since a container or a batch job may count
from 0 whatever it has; one that is only declared (`0:H200`) by its index. What does not share a
network is another machine here, so that machines which are namespaces of one have devices of their
own.

Guarantees: two agents that share the directory never start workers on one device at once.
Not guaranteed: anything where the directory cannot be used (that is said in the log), and between
containers that have devices in common but not this directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

from kernel_worker.host import log
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from kernel_worker.host.timers import Timers
    from kernel_worker.model import WorkerId

LOOK_SECONDS = 0.5
"""How often it is looked at what others have."""
_FOR_ALL = 0o644
"""Who can read a file can lock it."""


class Devices:
    """What the workers of this agent use, and what those of others do."""

    def __init__(self, directory: Path, names: Mapping[int, str] | None = None) -> None:
        """Use nothing.

        Args:
            directory: where the locks are.
            names: what devices are known by, where that is not their index.
        """
        self._directory = directory
        self._names = names or {}
        self._network = _network()
        self._locked: dict[int, int] = {}
        """The open file of each device that is used here."""
        self._users: Counter[int] = Counter()
        self.held: set[int] = set()
        """Those that were wanted here, and that others have."""
        self._is_said = False

    def take(self, indices: Iterable[int]) -> bool:
        """Have these for one worker more, or none of them where others have one."""
        wanted = tuple(indices)
        for index in wanted:
            if index in self._locked or self._lock(index):
                self.held.discard(index)
            else:
                self.held.add(index)
        free = self.held.isdisjoint(wanted)
        self._users.update(wanted if free else ())
        self._unlock_unused()
        return free

    def give_back(self, indices: Iterable[int]) -> None:
        """Have these for one worker less."""
        self._users.subtract(indices)
        self._unlock_unused()

    def files(self, indices: Iterable[int]) -> list[int]:
        """Return open files for a worker to have as long as it lives."""
        return [self._locked[index] for index in indices if index in self._locked]

    def look(self) -> bool:
        """Look whether others have what they had; return whether that has changed."""
        free = {index for index in self.held if self._lock(index)}
        self.held -= free
        self._unlock_unused()
        return bool(free)

    def _lock(self, index: int) -> bool:
        """Lock a device, and return whether nobody else has it."""
        try:
            file = self._open(index)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._is_said:
                self._is_said = True
                log.say(f"other brokers of this machine are not told of devices in use: {error}")
            return True
        self._locked[index] = file
        return True

    def _open(self, index: int) -> int:
        name = self._names.get(index, str(index))
        path = self._directory / f"notebook-ext-gpu{name}-{self._network}"
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | flags)
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | flags, _FOR_ALL)
        except FileExistsError:  # somebody else was quicker
            return os.open(path, os.O_RDONLY | flags)
        os.fchmod(file, _FOR_ALL)  # whatever this process's umask is
        return file

    def _unlock_unused(self) -> None:
        for index in [index for index in self._locked if self._users[index] <= 0]:
            os.close(self._locked.pop(index))


class Lookout:
    """Says what others have, from when that is in the way until it is free."""

    def __init__(
        self, devices: Devices, timers: Timers, tell: Callable[[messages.ToBroker], object]
    ) -> None:
        """Look at `devices` at times that `timers` say; `tell` reaches the broker."""
        self._devices = devices
        self._timers = timers
        self._tell = tell
        self._is_looking = False

    def turn_away(self, worker: WorkerId) -> None:
        """Say what others have, because of which `worker` is not started, and look at it anew."""
        self._tell(messages.DevicesHeld(tuple(sorted(self._devices.held)), worker))
        if not self._is_looking:
            self._look_later()

    def _look(self) -> None:
        if self._devices.look():
            self._tell(messages.DevicesHeld(tuple(sorted(self._devices.held))))
        self._is_looking = False
        if self._devices.held:
            self._look_later()

    def _look_later(self) -> None:
        self._is_looking = True
        self._timers.at(time.monotonic() + LOOK_SECONDS, self._look)


def _network() -> str:
    try:
        return str(os.stat("/proc/self/ns/net").st_ino)  # noqa: PTH116  it is no file
    except OSError:
        return "0"
