"""`python -m kernel_worker.broker.outpost`: what speaks for another machine's workers.

Theory. To the host agent and the workers of its machine (its `workplace`) an outpost is the broker:
they dial its local socket, and find it by a connection file. What they say goes to the broker by
one connection, the *link*, which has the keys (`far`; the other end is `links`): who says it stands
in front of each message, and who is meant in front of each that comes. So nobody but the outpost
has the keys, and a connection that is cut is nothing that the workers notice.

The link's lease is asked for on a second connection, the `pulse`, which no bulk delays. When
nothing has answered for the time of a lease, both are dialled anew. After the fence the agent is
ended, with all that it runs: from then on others may say that this never ended. When the broker has
forgotten this machine, or is another one, the local connections are cut as if the broker had died:
the agent says what lives on, and is told what may.

Guarantees: whatever ends the outpost ends the agent and its workers. SIGTERM lets what runs end, up
to a limit, and lets nothing begin; a second one does not wait.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq

from kernel_worker import directories, gpus, keys, rendezvous, settings
from kernel_worker.broker.agent import LocalAgent
from kernel_worker.broker.bulk import Dialler, Exchange, place_of
from kernel_worker.broker.freight import Freight
from kernel_worker.broker.links import LOOKS
from kernel_worker.broker.pulse import Pulse
from kernel_worker.broker.watches import Timers, Watches
from kernel_worker.broker.workplace import MESSAGES_PER_TURN, Workplace
from kernel_worker.errors import Error, InvalidError
from kernel_worker.far import Far
from kernel_worker.model import PROTOCOL_MAJOR
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.keys import Invitation
    from kernel_worker.rendezvous import Connection

MOST_KEPT_BYTES: Final = 64 << 20
"""While so much has not arrived at the broker, workers wait; …"""
MOST_HELD_BYTES: Final = 1 << 30
"""… and while so much waits for the bulk connection."""
RETRY_SECONDS: Final = 0.005
_LONGEST_POLL_SECONDS: Final = 3600.0
"""A poll takes no more than 24 days; a lease may be longer, or a drain."""
_UNANSWERED_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1
FENCED_SECONDS: Final = 2.0
"""How long the agent may take to end when its time is over."""
_log = logging.getLogger(__name__)


class Outpost:
    """One machine's outpost; `run` returns the exit status."""

    def __init__(
        self,
        connection: Connection,
        invitation: Invitation,
        options: list[str],
        drain_seconds: float,
        give_up_seconds: float = math.inf,
    ) -> None:
        """Dial the broker.

        Args:
            connection: what the agent and the workers here find; its address is bound.
            invitation: the keys, and where the broker is.
            options: of the agent's command line.
            drain_seconds: how long what runs may take when this machine is to leave.
            give_up_seconds: after how long without the broker this machine leaves.
        """
        self.connection = connection
        self._invitation = invitation
        self._drain_seconds = drain_seconds
        self._give_up_seconds = give_up_seconds
        self._watches, self._timers = Watches(), Timers()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        to = rendezvous.Connection(invitation.address, 0, "", "", "", keys=invitation)
        hello = messages.Hello("link", f"li-{os.urandom(8).hex()}")
        self._far = Far(self._context, to, hello)
        self._pulse = Pulse(self._context, invitation)
        for source in (self._far, self._pulse):
            self._poller.register(source.socket, zmq.POLLIN)
            self._poller.register(source.monitor, zmq.POLLIN)
        self._poller.register(self._watches.fileno(), zmq.POLLIN)
        self._workplace = Workplace(
            connection.address,
            self._poller,
            self._say,
            is_waiting=self._is_waiting,
            on_gone=self._worker_gone,
        )
        self._agent = LocalAgent(
            connection.path,
            self._watches,
            self._timers,
            time.monotonic,
            options,
            self._workplace.agent_died,
        )
        self._welcome: messages.Welcome | None = None
        self._redialled_at = 0.0
        self._freight: Freight | None = None
        """What goes by the link: there from the first Welcome on."""
        self._way = b""
        """Which session it has."""
        self._is_draining = False
        self._status: int | None = None

    def run(self) -> int:
        """Serve until told to leave, or refused."""
        signals = _Signals(self)
        self._watches.add(signals.fileno(), signals.take)
        self._expect_welcome()
        self._timers.set(
            "welcome", time.monotonic() + _UNANSWERED_SECONDS, self._say_nobody_is_there
        )
        try:
            while self._status is None:
                self._turn()
        finally:
            self._agent.stop()
            self._say_goodbye()
            if self._freight is not None:
                self._freight.close()
            self._workplace.close()
            self._far.close(500)
            self._pulse.close()
            self._context.term()
            self._watches.remove(signals.fileno())
            signals.close()
            self._watches.close()
        return self._status

    def end_with(self, descriptor: int) -> None:
        """Leave at once when whoever holds the other end of a pipe is gone."""
        self._watches.add(descriptor, self._end)

    def leave(self) -> None:
        """Let what runs end, and begin nothing; at once where that was said before."""
        if self._is_draining or self._welcome is None:
            self._status = 0
            return
        self._is_draining = True
        _log.info("leaves when what runs has ended, in %g s at the latest", self._drain_seconds)
        self._far.send([messages.encode(messages.Draining())])
        self._timers.set("drain", time.monotonic() + self._drain_seconds, self._end)
        self._end_if_drained()

    def _end(self) -> None:
        self._status = 0

    def _end_if_drained(self) -> None:
        if self._is_draining and not self._workplace.live:
            if self._held_bytes():
                self._timers.set("drained", time.monotonic() + _LOOK_SECONDS, self._end_if_drained)
            else:
                self._status = 0

    # ---- a turn ---------------------------------------------------------------------------------

    def _turn(self) -> None:
        for source, _ in self._poller.poll(self._patience_ms()):
            if source is self._far.socket:
                self._hear_broker()
            elif source is self._far.monitor:
                self._note_changes()
            elif source is self._pulse.socket:
                self._hear_answer()
            elif source is self._pulse.monitor:
                self._pulse.note_changes()
            elif self._workplace.brings_messages(source):
                self._workplace.hear()
            else:
                self._watches.dispatch()
        self._timers.run(time.monotonic())
        if self._workplace.is_congested:
            self._workplace.retry()
        is_held_up = self._held_bytes() > MOST_HELD_BYTES
        may_read = self._far.kept_bytes < MOST_KEPT_BYTES and not is_held_up
        self._workplace.read(wanted=may_read)

    def _patience_ms(self) -> int | None:
        now, due = time.monotonic(), self._timers.next_deadline()
        if self._workplace.is_congested:
            due = min(now + RETRY_SECONDS, due or now + RETRY_SECONDS)
        if due is None:
            return None
        return max(0, round(1000 * min(due - now, _LONGEST_POLL_SECONDS)) + 1)

    def _say(self, message: Sequence[bytes | memoryview], lane: bytes) -> None:
        """Tell the broker what somebody here says, or what is said for him."""
        if self._freight is not None:
            self._freight.put(message, lane)

    def _is_waiting(self, lane: bytes) -> bool:
        return self._freight is not None and self._freight.is_waiting(lane)

    def _held_bytes(self) -> int:
        return 0 if self._freight is None else self._freight.held_bytes

    def _worker_gone(self) -> None:
        self._timers.set("drained", time.monotonic(), self._end_if_drained)

    # ---- the broker -----------------------------------------------------------------------------

    def _hear_broker(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                frames = self._far.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message: list[Any] = self._far.taken(frames)
            if len(message) == 1:
                self._greeted(messages.decode_at_client(message[0]))
            elif message and self._freight is not None:
                self._workplace.deliver(*self._freight.unpacked(message))

    def _note_changes(self) -> None:
        for change in self._far.changes():
            if change == "refused":
                _log.error("%s", self._far.refusal.replace("broker invite", "broker invite --host"))
                self._status = 1
            else:
                _log.warning("the connection to the broker was cut; it is dialled again")

    def _greeted(self, said: messages.ToClient) -> None:
        if not isinstance(said, messages.Welcome):
            _log.error("the broker refuses: %s", getattr(said, "reason", said))
            self._status = 1
            return
        known, self._welcome = self._welcome, said
        self._carry(said)
        if known is None:
            self._timers.cancel("welcome")
            _log.info("linked to the broker at %s", self._invitation.address)
            self._pulse.answered_at = time.monotonic()
            self._expect_pulse()
            self._agent.start()
            return
        if self._far.was_forgotten or known.incarnation != said.incarnation:
            _log.warning("the broker does not know what runs here, and says what may go on")
            self._workplace.cut()

    def _carry(self, said: messages.Welcome) -> None:
        """Have large frames go as the broker says, unless they do."""
        way = said.bulk
        if way is None or (self._freight is not None and self._way == way.session):
            return
        if self._freight is not None:
            self._freight.close()
        exchange = Exchange(way.session, way.secret)
        forward, now = self._far.send, time.monotonic
        self._freight = Freight(exchange, forward, self._watches, self._timers, now)
        self._way = way.session
        address = self._invitation.address
        if address.startswith("ipc:"):  # ssh leads there whatever is dialled for
            Dialler(exchange, address.removeprefix("ipc://"))
        elif way.port:
            Dialler(exchange, (place_of(address)[0], way.port))

    def _say_nobody_is_there(self) -> None:
        _log.warning(
            "nobody answers at %s, or not by the keys of this invitation; it is dialled until "
            "somebody does. See there whether it runs (`notebook-ext broker status`), and whether "
            "a firewall lets its port be reached from here",
            self._invitation.address,
        )

    def _say_goodbye(self) -> None:
        """The agent has ended: nobody need wait for the end of the lease to know that."""
        self._workplace.agent_died()
        deadline = time.monotonic() + FENCED_SECONDS
        while self._welcome is not None and time.monotonic() < deadline:
            if not self._far.kept_bytes + self._held_bytes():
                break
            if self._poller.poll(50):
                self._note_changes()
                if self._freight is not None:
                    self._freight.hear_exchange()
                while self._far.socket.poll(0):
                    self._far.taken(self._far.socket.recv_multipart())
                self._workplace.ignore()
                self._hear_answer()
            self._pulse.ask(self._far.word())
        self._far.send([_BYE])

    # ---- the lease ------------------------------------------------------------------------------

    def _expect_welcome(self) -> None:
        if self._give_up_seconds < math.inf:
            self._timers.set("pulse", time.monotonic() + self._give_up_seconds, self._give_up)

    def _give_up(self) -> None:
        _log.error("no broker for %g s: this machine leaves", self._give_up_seconds)
        self._status = 1

    def _expect_pulse(self) -> None:
        assert self._welcome is not None  # noqa: S101  it says how often
        self._timers.set("pulse", time.monotonic() + self._welcome.lease_seconds / LOOKS, self._ask)

    def _ask(self) -> None:
        """Ask whether the broker is there; where it has not answered for long, do what is due."""
        assert self._welcome is not None  # noqa: S101  as above
        now = time.monotonic()
        silent_seconds = now - self._pulse.answered_at
        if silent_seconds > self._give_up_seconds:
            self._give_up()
        lease_seconds = self._welcome.lease_seconds
        if silent_seconds > self._welcome.fence_seconds:
            if self._agent.pid:
                _log.error("no broker for %g s: what runs here is ended", silent_seconds)
                self._agent.stop(FENCED_SECONDS)
                self._workplace.agent_died()
        elif not self._agent.pid and "agent" not in self._timers:
            self._agent.start()
        if silent_seconds > lease_seconds and now > self._redialled_at + lease_seconds:
            self._redialled_at = now
            self._far.redial()
            self._pulse.redial()
        self._pulse.ask(self._far.word())
        self._expect_pulse()

    def _hear_answer(self) -> None:
        while self._pulse.socket.poll(0):
            if self._far.hear_word(self._pulse.socket.recv_multipart()):
                self._pulse.answered()


class _Signals:
    """SIGTERM, SIGINT and SIGHUP let the outpost leave between two turns."""

    def __init__(self, outpost: Outpost) -> None:
        self._outpost = outpost
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._former = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in _LEAVING:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEAVING)

    def fileno(self) -> int:
        """Return what is readable when a signal has come."""
        return self._read.fileno()

    def take(self) -> None:
        """Do what the signals ask for."""
        for _ in self._read.recv(4096):
            self._outpost.leave()

    def close(self) -> None:
        """Let go of the descriptors."""
        signal.set_wakeup_fd(self._former)
        self._read.close()
        self._write.close()


_LEAVING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_BYE: Final = messages.encode(messages.Bye())


def main(arguments: list[str] | None = None) -> int:
    """Be the outpost; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s host[{os.getpid()}] %(levelname)s %(message)s"
    )
    try:
        return _serve(options)
    except (Error, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1


def _serve(options: argparse.Namespace) -> int:
    invitation = keys.read(options.connect.expanduser().absolute(), "host")
    name = options.name or os.uname().nodename
    if not keys.NAME.fullmatch(name):
        raise InvalidError(
            f"--name {name!r}: allowed are 1 to 64 letters, digits, '_', '.', '@' and '-'"
        )
    if not options.drain_seconds >= 0:
        raise InvalidError(f"--drain-seconds {options.drain_seconds}: allowed are 0 and more")
    gpus.devices(options.gpus or "")  # the agent would say it to nobody
    configured = settings.load(start="/")
    directory = directories.prepare(
        configured.runtime_dir, f"host-{name}-{PROTOCOL_MAJOR}", directories.RUNTIME
    )
    lock = rendezvous.claim(directory)
    if lock is None:
        raise InvalidError(f"a host {name!r} runs here already; give this one another --name")
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEAVING)  # until `_Signals` has them: files lie there
    path = rendezvous.socket_path(directory)
    payload_key = keys.in_memory(invitation.payload.encode())
    connection = rendezvous.Connection(
        address=f"ipc://{path}",
        pid=os.getpid(),
        incarnation=os.urandom(4).hex(),
        machine=rendezvous.machine_id(),
        path=str(directory / "connection.json"),
        payload_key=f"/proc/{os.getpid()}/fd/{payload_key}",
        is_outpost=True,
    )
    agent = ["--far", "--name", name]
    if options.cpus is not None:
        agent += ["--max-workers", str(options.cpus)]
    if options.gpus is not None:
        agent += ["--gpus", options.gpus]
    rendezvous.publish(connection)
    try:
        outpost = Outpost(
            connection, invitation, agent, options.drain_seconds, options.give_up_seconds
        )
        if options.until_eof:
            outpost.end_with(sys.stdin.fileno())
        return outpost.run()
    finally:
        rendezvous.withdraw(connection)
        os.close(payload_key)
        path.unlink(missing_ok=True)
        os.close(lock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="notebook-ext host start", description=__doc__)
    parser.add_argument("--connect", required=True, type=Path, help="the connection file")
    parser.add_argument("--name", default="", help="what this machine is called")
    parser.add_argument("--cpus", type=int, help="at most so many workers run user code at once")
    parser.add_argument("--gpus", help="auto, none, or indices such as 0,2")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="at SIGTERM")
    parser.add_argument(
        "--give-up-seconds", type=float, default=math.inf, help="leave after so long without broker"
    )
    parser.add_argument("--until-eof", action="store_true", help="leave when stdin is closed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
