"""Deployed functions that are called by themselves, when their moment has come.

Theory. The `Timetable` says what is due; a call is made of it as if a client had spawned it, in the
name of `KEEPER`. Nothing else is written down: the call's record *is* that the moment is over,
since its id is made of function and moment (`timetable.call_of`), and an id that is known is no new
call. So moment and call are recorded in one, before anything runs, and the broker that follows one
that was killed in between makes the same call again or finds it.

The clock is the wall's: `broker.now()` does not jump, this does. It is looked at every
`LOOK_SECONDS` at least, also where nothing is due for long: it may have been set, or the machine
may have slept.

Guarantees: one call for one moment. A broker with schedules stays, and its host agent starts the
next one where it is killed.
Not guaranteed: what comes while no broker is there (`Timetable`); that calls of one function do not
run at the same time (`max_containers=1`).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.broker.deployments import KEEPER
from kernel_worker.broker.peers import Client
from kernel_worker.broker.timetable import Timetable
from kernel_worker.broker.translate import Refusal
from kernel_worker.core import events
from kernel_worker.model import CallContext, PoolId
from kernel_worker.wire import messages
from kernel_worker.wire.frames import NO_ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.deployments import Register
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Host
    from kernel_worker.broker.timetable import Due, Entry
    from kernel_worker.broker.translate import Translator

LOOK_SECONDS: Final = 30.0
MOST_WAITING: Final = 100
"""A function of which so many inputs wait is not called once more: it would never catch up."""
_TIMER: Final = "schedules"

_log = logging.getLogger(__name__)


class Schedules:
    """Makes the calls that are due."""

    def __init__(
        self,
        broker: Broker,
        register: Register,
        translator: Translator,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `broker`; `register` says what is deployed, `clock` what the wall's clock shows."""
        self._broker = broker
        self._register = register
        self._translator = translator
        self._clock = clock
        self._timetable = Timetable()
        self._keeper = Client(KEEPER, b"")

    @property
    def is_wanted(self) -> bool:
        """Whether anything has a schedule, for which the broker has to be there."""
        return bool(self._timetable.entries)

    def adopt(self) -> None:
        """Go by what is deployed now."""
        was_wanted = self.is_wanted
        self._timetable.adopt(self._register.in_force.values(), self._clock())
        if self.is_wanted != was_wanted:
            for host in self._broker.peers.hosts.values():
                self.tell(host)
        self._arm()

    def tell(self, host: Host) -> None:
        """Say to a host agent of this machine whether a broker is to follow this one."""
        if host.machine != self._broker.connection.machine:
            return
        self._broker.send(host.routing, messages.encode(messages.KeepBroker(self.is_wanted)))

    def listed(self, app: str = "") -> list[messages.ScheduleInfo]:
        """Return what has a schedule (of `app`, if not empty), and when it is called next."""
        return [
            _info(entry) for entry in self._timetable.entries.values() if app in {"", entry.app}
        ]

    def described(self, info: messages.DeploymentInfo) -> messages.DeploymentInfo:
        """Return `info` with the schedules of its functions, where it is in force."""
        if info.ended_at is not None:
            return info
        return msgspec.structs.replace(info, schedules=tuple(self.listed(info.app)))

    def _look(self) -> None:
        try:
            for due in self._timetable.due(self._clock()):
                self._call(due)
        finally:
            self._arm()

    def _arm(self) -> None:
        if not self.is_wanted:
            self._broker.timers.cancel(_TIMER)
            return
        next_at, seconds = self._timetable.next_at(), LOOK_SECONDS
        if next_at is not None:
            seconds = min(max(0.0, next_at - self._clock()), seconds)
        self._broker.timers.set(_TIMER, self._broker.now() + seconds, self._look)

    def _call(self, due: Due) -> None:
        function = self._register.resolve(due.key)
        counts = self._broker.scheduler.pool_stats(function.spec.pool)
        if counts is not None and counts.backlog >= MOST_WAITING:
            _log.warning("%s is not called: %d of its inputs wait", due.key, counts.backlog)
            return
        message = messages.Submit(
            due.call,
            PoolId(due.key),
            attached=False,
            count=1,
            closed=True,
            context=CallContext(due.schedule.directory),
            streams=function.is_generator,
        )
        translated = self._translator.from_client(self._keeper, message, NO_ARGUMENTS)
        match translated:
            case events.CallSubmitted():
                self._broker.handle(translated, NO_ARGUMENTS)
            case Refusal(message=messages.Rejected(message=why)):
                _log.error("%s could not be called: %s", due.key, why)
            case _:
                _log.info("%s was called for that moment before: %s", due.key, due.call)


def _info(entry: Entry) -> messages.ScheduleInfo:
    return messages.ScheduleInfo(entry.app, entry.name, str(entry.schedule), entry.next_at)
