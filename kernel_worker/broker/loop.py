"""The broker's loop, five verbs: poll, translate, handle, commit, perform.

Theory: one thread, one turn after the other. A turn takes what the socket holds (up to a number of
messages), translates each message at the door, hands the event to the pure core and performs its
effects, in order. Facts of the turn go to the journal together; effects about spawned calls wait
behind them, those about attached calls never wait for the disk.

Guarantees: nothing that a peer sends ends the loop: bad bytes are counted and dropped, an error in
a message's turn is logged (and raised where `NOTEBOOK_EXT_DEBUG` is set). Nothing is said before
the fact that it relies on is on the disk. Nothing is ever unpickled.
Not guaranteed: that the broker outlives a journal that cannot be written at all.

The garbage collector is off: shell and core make no cycles on the way of a message. It runs when
the last client has left, and once an hour.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import os
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zmq

from kernel_worker import rendezvous
from kernel_worker.appetite import MOST_MESSAGES, Appetite
from kernel_worker.broker import streams
from kernel_worker.broker.admission import Admission
from kernel_worker.broker.adopting import Arrivals
from kernel_worker.broker.agent import LocalAgent
from kernel_worker.broker.answers import Answers
from kernel_worker.broker.commit import Commit
from kernel_worker.broker.consoles import FromWorker
from kernel_worker.broker.deployments import Deployments, Register
from kernel_worker.broker.hook_tables import HookTables
from kernel_worker.broker.logs import Logs, shown
from kernel_worker.broker.lookups import Lookups
from kernel_worker.broker.objects import ObjectStore
from kernel_worker.broker.peers import Client, Host, Peers, Worker
from kernel_worker.broker.perform import Performer
from kernel_worker.broker.progress import ProgressReports
from kernel_worker.broker.replays import Replays
from kernel_worker.broker.rest import Rest
from kernel_worker.broker.restore import restore_tables
from kernel_worker.broker.schedules import Schedules
from kernel_worker.broker.sockets import Sockets
from kernel_worker.broker.sweeping import Sweeping
from kernel_worker.broker.translate import Refusal, Repetition, Translator, in_parts
from kernel_worker.broker.watches import Timers, Watches
from kernel_worker.core import effects, events
from kernel_worker.core.scheduler import Scheduler
from kernel_worker.errors import InvalidError, ProtocolError
from kernel_worker.journal import thread as journal_thread
from kernel_worker.model import CallId, FunctionKey, PoolId, is_deployed
from kernel_worker.records import CallSubmitted
from kernel_worker.wire import messages

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

    from kernel_worker.broker.calls import OpenCall
    from kernel_worker.broker.peers import Peer
    from kernel_worker.broker.shelves import Shelves
    from kernel_worker.broker.translate import Translated
    from kernel_worker.journal.thread import Journal
    from kernel_worker.model import ClientId, Digest, FunctionSpec, LeaseId, WorkerId
    from kernel_worker.records import Deployment
    from kernel_worker.rendezvous import Connection
    from kernel_worker.settings import Settings

Frame = bytes | memoryview

_RETRY_SECONDS = 0.005
_UPKEEP_SECONDS = 3600.0

_log = logging.getLogger(__name__)


class Broker:
    """One broker: its tables, its rooms and its loop."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        journal: Journal,
        *,
        with_agent: bool = True,
        early_agent: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Bind the socket and take over what the journal holds.

        Args:
            settings: What is configured.
            connection: Who this broker is; its address is bound.
            journal: An open journal.
            with_agent: Whether to start a host agent for this machine.
            early_agent: One that waits to be told that it can be dialled.
        """
        self.connection = msgspec.structs.replace(connection, links=())
        self._former_links = connection.links
        self.journal = journal
        self.started_at = time.time()
        self._clock_offset = self.started_at - time.monotonic()
        self._settings = settings
        self._raises = bool(os.environ.get("NOTEBOOK_EXT_DEBUG"))
        self._stop_reason = ""
        self._is_wanted = False
        self._is_published = False
        self._poller: zmq.Poller | None = None
        self.dropped_messages = 0

        self.watches = Watches()
        self.timers = Timers()
        self.peers = Peers()
        self.objects = ObjectStore()
        self.hook_tables = HookTables(self.objects)
        self.calls: dict[CallId, OpenCall] = {}
        self.ended_calls: dict[CallId, bool] = {}
        """Spawned calls that are over, and whether their results have expired."""
        self._defined: set[PoolId] = set()
        self._exits: list[events.WorkerExited] = []
        self._early: deque[list[Frame]] = deque()
        """What has come while this broker waited for a host agent."""
        self._appetite = Appetite()

        self.scheduler = Scheduler(connection.incarnation, connection.leases_from)
        self._commit = Commit(journal, self.objects)
        self._admission = Admission(self, settings.client_grace_seconds)
        self.sockets = self._opened()
        self.send = self.sockets.send
        self._replays = Replays(self)
        self._lookups = Lookups(self)
        self._logs = Logs(self._commit, self.timers, self.now)
        register = Register()
        self._translator = Translator(
            self.peers, self.objects, self.calls, self.ended_calls, self.now, register=register
        )
        self.schedules = Schedules(self, register, self._translator)
        self._deployments = Deployments(self, register, self._lookups)
        self._answers = Answers(self, self._lookups, register, self._deployments, self._logs)
        self._progress = ProgressReports(self)
        self._rest = Rest(self)
        self._shelves: Shelves | None = None
        """Made by whoever first uses a dict or a queue."""
        self._performer = Performer(
            self.peers, self.objects, self.calls, self.send, self._on_finished
        )
        self._agent: LocalAgent | None = None
        if with_agent:
            known = connection.path, self.watches, self.timers, self.now
            self._agent = LocalAgent(*known, early=early_agent)
        self.sweeping = Sweeping(
            Path(connection.path).parent,
            self.timers,
            self.now,
            lambda: self.scheduler.has_clients,
        )
        self._restore()

    def _opened(self) -> Sockets:
        """Bind what is configured, or what the broker listened at that was killed before this one.

        `connection` says what that was, and from now on, where this one listens.
        """
        former, unreachable = self.connection.door, self._admission.unreachable
        listen = self._settings.listen or former
        if not listen:
            return Sockets(self.connection.address, unreachable)
        from kernel_worker.broker.doors import Doors  # noqa: PLC0415  only where it is asked for

        try:
            doors = Doors(self, dataclasses.replace(self._settings, listen=listen), unreachable)
        except InvalidError as error:
            if self._settings.listen is not None:
                raise
            _log.error("clients of other machines, which a broker before let in, wait: %s", error)
            self.connection = msgspec.structs.replace(self.connection, door="")
            return Sockets(self.connection.address, unreachable)
        if self._settings.listen is None:
            _log.info("listens at %s, as the broker did that was killed", doors.door)
        self.connection = msgspec.structs.replace(self.connection, door=doors.door)
        return doors

    def open_door(self) -> str:
        """Return where those with keys get in; where they do nowhere, open a socket beside ours."""
        if not self.connection.door:
            from kernel_worker.broker.doors import Doors  # noqa: PLC0415  only where it is asked for

            place = Path(self.connection.address.removeprefix("ipc://")).with_name("door.sock")
            settings = dataclasses.replace(self._settings, listen=f"ipc://{place}")
            doors = Doors(self, settings, self._admission.unreachable, self.sockets)
            if self._poller is not None:
                doors.register(self._poller)
            self.sockets, self.send = doors, doors.send
            self._performer.send_by(doors.send)
            self.connection = msgspec.structs.replace(self.connection, door=doors.door)
            rendezvous.publish(self.connection)
        return self.connection.door

    def know_links(self, links: tuple[str, ...]) -> None:
        """Let the connection file say which other machines run workers."""
        self.connection = msgspec.structs.replace(self.connection, links=links)
        if self._is_published:
            rendezvous.publish(self.connection)

    def now(self) -> float:
        """Return Unix seconds, by a clock that does not jump."""
        return time.monotonic() + self._clock_offset

    def stop(self, reason: str, *, is_wanted: bool = False) -> None:
        """End the loop after this turn.

        Args:
            reason: For the log.
            is_wanted: Somebody has asked for that: clients start no other one for what they wait
                for.
        """
        self._stop_reason = self._stop_reason or reason
        self._is_wanted = self._is_wanted or is_wanted

    # ---- poll -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until somebody or something says stop, then end everything that was started."""
        self._is_published = True
        self._poller = poller = zmq.Poller()
        self.sockets.register(poller)
        poller.register(self.watches.fileno(), zmq.POLLIN)
        self.watches.add(self.journal.fileno(), self._journal_done)
        refusals = self.sockets.watch_refusals()
        self.watches.add(refusals, self.sockets.note_refusals)
        signals = _Signals(self)
        self._upkeep()
        self.sweeping.look()
        while self._early:
            self._guarded(self._receive)
        if self._agent is not None:
            self._agent.start()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while not self._stop_reason:
                self._turn(poller)
        finally:
            _log.info("stops: %s", self._stop_reason or "an error")
            signals.close()
            self._shut_down()

    def _turn(self, poller: zmq.Poller) -> None:
        patience_ms = self._patience_ms()
        ready = poller.poll(patience_ms)
        if len(ready) > 1:
            self._appetite.grow()  # what somebody said before it died comes first
        for source, _ in ready:
            if self.sockets.brings_messages(source):
                self._receive()
            else:
                self._guarded(self.watches.dispatch)
        if patience_ms == 0 or not ready:
            self._on_time()
        if self.sockets.is_congested:
            self.sockets.retry()
        if self._commit.has_facts:
            self._commit.flush()
        if self._lookups.has_questions:
            self._lookups.ask_journal()
        if not self.scheduler.has_clients:
            self._consider_idleness()

    def _patience_ms(self) -> int | None:
        """Return how long there is nothing to do but to wait for somebody."""
        now = self.now()
        deadline, own = self.scheduler.next_deadline(), self.timers.next_deadline()
        if deadline is None or (own is not None and own < deadline):
            deadline = own
        if self.sockets.is_congested:
            soon = now + _RETRY_SECONDS
            deadline = soon if deadline is None else min(deadline, soon)
        return None if deadline is None else max(0, math.ceil((deadline - now) * 1000))

    def _receive(self) -> None:
        appetite, taken = self._appetite.next(), 0
        while taken < (MOST_MESSAGES if self._exits else appetite):
            parts = self._early.popleft() if self._early else self.sockets.receive()
            if parts is None:
                self._appetite.spoil()
                break
            taken += 1
            try:
                self._message(parts)
            except ProtocolError as error:
                self.dropped_messages += 1
                _log.warning("a message of %r is dropped: %s", bytes(parts[0]), error)
            except Exception:
                if self._raises:
                    raise
                _log.exception("a message of %r failed", bytes(parts[0]))
        # What a worker said before it died counts, although its host was heard first.
        exits, self._exits = self._exits, []
        for event in exits:
            self._guarded(self._worker_gone, event)

    def _on_time(self) -> None:
        now = self.now()
        self._guarded(self.timers.run, now)
        deadline = self.scheduler.next_deadline()
        if deadline is not None and deadline <= now:
            self._guarded(self.handle, events.TimePassed())

    def _guarded(self, act: Callable[..., None], *args: object) -> None:
        try:
            act(*args)
        except Exception:
            if self._raises:
                raise
            _log.exception("a turn failed")

    # ---- translate --------------------------------------------------------------------------

    def _message(self, parts: list[Frame]) -> None:
        if len(parts) < 2:  # noqa: PLR2004  who, what
            text = "it has no header"
            raise ProtocolError(text)
        routing, header, frames = bytes(parts[0]), bytes(parts[1]), parts[2:]
        message = messages.decode_at_broker(header)
        peer = self.peers.speaking.get(routing)
        if isinstance(message, messages.Hello):
            self._admission.hello(routing, message)
        elif peer is None:
            starting = self._admission.starting(routing, message)
            if starting is not None:
                self._from_workplace(starting, message, frames)
            elif not self._admission.ignores(routing):
                self._admission.refuse(routing, "say Hello first")
        elif isinstance(message, messages.Bye):
            self._admission.lose(peer)
        elif isinstance(peer, Client):
            self._from_client(peer, message, frames)
        elif isinstance(message, messages.Output):
            self._output(message, header, frames)
        else:
            self._from_workplace(peer, message, frames)

    def _from_client(
        self, client: Client, message: messages.ToBroker, frames: Sequence[Frame]
    ) -> None:
        match message:
            case messages.Submit(parts=parts) if parts:
                for said, its_frames in in_parts(message, frames):
                    self._from_client(client, said, its_frames)
            case messages.Submit() | messages.AddInputs():
                if isinstance(message, messages.Submit) and is_deployed(message.pool):
                    self._deployments.enlist(client, FunctionKey(message.pool))
                self._to_core(client, self._translator.from_client(client, message, frames), frames)
            case messages.Define(spec=spec, table=table, requires=requires):
                self._to_core(client, self._translator.from_client(client, message, frames), frames)
                self.hook_tables.keep(spec, table, requires)
            case messages.StoreObject(digest=digest):
                if len(frames) != 1:
                    text = f"an object in {len(frames)} frames"
                    raise ProtocolError(text)
                self.objects.add(digest, frames[0], client.id)
            case messages.DropObjects(digests=digests):
                self.objects.disown(client.id, digests)
            case messages.AttachCall(call=call, items=items):
                self._replays.attach(client, call, items=items)
                self._progress.expect_reason(call)
            case messages.Credit():
                self._credit(client, message)
            case messages.Ask():
                self._answers.ask(client, message)
            case messages.ConfigurePool():
                self._answers.configure(client, message)
            case messages.ConsoleLine():
                self._answers.consoles.line(client, message)
            case messages.ConsoleRefused():
                self._answers.consoles.refused(message)
            case messages.Provide():
                self._answers.provide(client, message)
            case messages.Deploy():
                self._deployments.deploy(client, message)
            case messages.UseShelf():
                self._on_shelves().use(client, message, frames)
            case messages.ShelfWord():
                self._on_shelves().hear(client, message)
            case _:
                self._to_core(client, self._translator.from_client(client, message, frames), frames)

    def _on_shelves(self) -> Shelves:
        if self._shelves is None:
            from kernel_worker.broker.shelves import Shelves  # noqa: PLC0415  where there are any

            self._shelves = Shelves(self, self._commit, self._settings.client_grace_seconds)
        return self._shelves

    def _from_workplace(
        self, peer: Worker | Host, message: messages.ToBroker, frames: Sequence[Frame]
    ) -> None:
        if isinstance(peer, Worker):
            if isinstance(message, messages.Paused):
                self._paused(peer, message)
                return
            if isinstance(message, FromWorker):
                self._answers.consoles.hear(peer, message, frames)
                return
            if isinstance(message, messages.KernelAttached):
                self._answers.attaching.attached(peer, message)
                return
            self._to_core(peer, self._translator.from_worker(peer, message, frames), frames)
            return
        event = self._translator.from_host(peer, message, frames)
        if isinstance(event, events.WorkerExited):
            self._exits.append(event)
        else:
            self._to_core(peer, event, frames)

    def _to_core(self, peer: Peer, translated: Translated, frames: Sequence[Frame]) -> None:
        if translated is None:
            return
        match translated:
            case events.RangeSucceeded():
                self.handle(translated, frames)
            case events.CallSubmitted():
                self._rest.expect()
                if translated.attached:
                    self._progress.expect()
                else:
                    self._progress.expect_reason(translated.call)
                self.handle(translated, frames)
            case Refusal(message=message):
                self.send(peer.routing, messages.encode(message))
            case Repetition(answer=answer):
                self._do([answer], events.TimePassed(), ())
            case events.FunctionDefined():
                self._defined.add(translated.spec.pool)
                self.handle(translated, frames)
            case events.WorkerDelayed(worker=worker):
                self.handle(translated)
                self._building(worker, frames)
            case events.WorkerStartFailed() | events.DevicesHeld():
                self.handle(translated, frames)
                self._forget_worker(translated)
            case _:
                self.handle(translated, frames)

    def _output(self, message: messages.Output, header: bytes, frames: Sequence[Frame]) -> None:
        call = self.calls.get(message.call)
        if call is None or len(frames) != 1:
            return
        self._logs.keep(call, message, frames[0])
        header, frames = shown(call, message, header, frames)
        for listener in call.audience():
            client = self.peers.clients.get(listener)
            if client is not None:
                self.send(client.routing, header, frames)

    def _building(self, worker: WorkerId, frames: Sequence[Frame]) -> None:
        """Hand on what the build of an image says to the calls that wait for its workers."""
        peer = self.peers.workers.get(worker)
        if peer is None or len(frames) != 1 or not len(frames[0]):
            return
        for call in self.scheduler.calls_waiting_in(peer.pool):
            message = messages.Output(call, 0, "build", worker)
            self._output(message, messages.encode(message), frames)

    def _credit(self, client: Client, credit: messages.Credit) -> None:
        """Tell a generator what was taken of it; it may run on."""
        call = self.calls.get(credit.call)
        producer = None if call is None or call.client != client.id else call.producer
        worker = None if producer is None else self.peers.workers.get(producer.worker)
        if producer is None or worker is None:
            return
        if not streams.take(producer, credit.items, credit.item_bytes):
            return
        self.send(worker.routing, messages.encode(streams.credit(credit.call, producer)))
        if producer.is_paused:
            producer.is_paused = False
            self.handle(events.ProducerResumed(producer.worker, producer.lease))

    def _paused(self, worker: Worker, paused: messages.Paused) -> None:
        """A generator waits for its reader, unless credit is on its way to it."""
        call = self.calls.get(paused.call)
        producer = None if call is None or not call.attached else call.producer
        if producer is None or (producer.worker, producer.lease) != (worker.id, paused.lease):
            return
        if producer.taken <= paused.taken:
            producer.is_paused = True
            self.handle(events.ProducerPaused(worker.id, paused.lease))

    def _worker_gone(self, event: events.WorkerExited) -> None:
        self._answers.attaching.gone(event.worker)
        self._answers.consoles.worker_gone(event.worker)
        self.handle(event)
        self._forget_worker(event)

    def _forget_worker(
        self, event: events.WorkerExited | events.WorkerStartFailed | events.DevicesHeld
    ) -> None:
        worker = self.peers.workers.get(event.worker)
        # One whose start failed when it held a lease already is forgotten when it has exited.
        if worker is not None and not self.scheduler.knows_worker(worker.id):
            self._admission.lose(worker)

    # ---- handle, commit, perform ------------------------------------------------------------

    def handle(self, event: events.Event, frames: Sequence[Frame] = ()) -> None:
        """Hand `event`, whose payload is `frames`, to the core and do what it says."""
        self._do(self.scheduler.handle(event, self.now()), event, frames)

    def _do(
        self, wanted: list[effects.Effect], event: events.Event, frames: Sequence[Frame]
    ) -> None:
        commit = self._commit
        may_wait = commit.is_waiting
        withdrawn: dict[LeaseId, effects.GrantLease] = {}
        for effect in wanted:
            if isinstance(effect, effects.Record):
                commit.record(effect.record, event, frames)
                may_wait = True
            elif not may_wait:
                self._perform(effect, frames)
            elif (
                isinstance(effect, effects.TakeBack)
                and effect.ends
                and (lease := commit.withdraw(effect.lease))
            ):
                withdrawn[effect.lease] = lease
            elif isinstance(effect, effects.Interrupt) and effect.lease in withdrawn:
                pass  # its worker has never heard of the lease
            elif not commit.holds(effect, frames):
                self._perform(effect, frames)
        for lease in withdrawn.values():
            self._given_back(lease)

    def _given_back(self, lease: effects.GrantLease) -> None:
        """All of a lease is back, of which its worker had not heard."""
        self.handle(events.InputsReturned(lease.worker, lease.lease, lease.start, lease.stop))

    def define(self, client: ClientId, spec: FunctionSpec) -> None:
        """Have the core know a function version, whose objects are here."""
        self.objects.own(spec.pool, spec.objects)
        self._defined.add(spec.pool)
        self.handle(events.FunctionDefined(client, spec))

    def keep_deployment(
        self, deployment: Deployment, contents: Mapping[Digest, Frame | None]
    ) -> None:
        """Have the journal keep a version of an app that is in force."""
        self._commit.deployed(deployment, contents)

    def end_deployment(self, app: str, at: float) -> None:
        """Have the journal note that no version of an app is in force."""
        self._commit.undeployed(app, at)

    def _perform(self, effect: effects.Effect, frames: Sequence[Frame]) -> None:
        try:
            self._performer.perform(effect, frames)
        except Exception:
            if self._raises:
                raise
            _log.exception("%s failed", effect)

    def _journal_done(self) -> None:
        try:
            completions = self.journal.collect()
        except Exception:  # noqa: BLE001  whatever ended the thread
            _log.exception("the journal cannot go on")
            self.stop("the journal failed")
            return
        for completion in completions:
            match completion:
                case journal_thread.Committed(token=token):
                    self._logs.written(token)
                    if self._shelves is not None:
                        self._shelves.committed(token)
                    for held in self._commit.release(token):
                        self._perform(held.effect, held.frames)
                case journal_thread.Delayed(why=why):
                    self._progress.tell_why(self._commit.waiting, why)
                    for lease in self._commit.take_leases():
                        self._given_back(lease)
                case journal_thread.Outcomes():
                    self._replays.on_outcomes(completion)
                case journal_thread.Found():
                    self._lookups.on_found(completion)
                case journal_thread.Expired(calls=calls, forgotten=forgotten):
                    self.ended_calls.update(dict.fromkeys(calls, True))
                    for call in forgotten:
                        self.ended_calls.pop(call, None)

    def _on_finished(self, call: OpenCall, tally: tuple[int, ...]) -> None:
        self.ended_calls[call.call] = False
        self._commit.finished(call.call, self.now(), tally)

    # ---- beginning and end ------------------------------------------------------------------

    def _restore(self) -> None:
        early = Arrivals(self.sockets, self.connection.path, self._former_links)
        survivors = early.survivors()
        self._early.extend(early.others)
        restored = self.journal.restored()
        self.ended_calls.update(restored.ended)
        keeper = "the journal"
        for digest, content in restored.objects.items():
            self.objects.add(digest, content, keeper)
        self._defined |= restore_tables(restored.facts, self.objects, self.calls)
        facts = [fact.record for fact in restored.facts]
        for record in facts:
            if isinstance(record, CallSubmitted):
                self.hook_tables.keep(record.spec, record.table, record.requires)
        rejoined = [self._admission.rejoin(*survivor) for survivor in survivors]
        wanted = self.scheduler.restore(facts, self.now(), [one for one in rejoined if one])
        self._do(wanted, events.TimePassed(), ())
        self._deployments.restore(restored.deployments)
        self.objects.forget(keeper)
        self._commit.flush()

    def _consider_idleness(self) -> None:
        if not self._is_idle():
            self.timers.cancel("idle")
        elif "idle" not in self.timers:
            gc.collect()
            at = self.now() + self._settings.idle_exit_seconds
            self.timers.set("idle", at, self._leave_if_idle)

    def _is_idle(self) -> bool:
        """Whether there is nothing to do, and nothing on its way to a disk that may be full.

        One that listens at a port stays: from other machines nobody can start another one. So does
        one that is to call what is deployed, in its time.
        """
        stays = self.connection.door.startswith("tcp:") or self.schedules.is_wanted
        return self.scheduler.is_idle() and not self._commit.is_waiting and not stays

    def _leave_if_idle(self) -> None:
        if not self._is_idle():
            return
        rendezvous.withdraw(self.connection)
        self._appetite.grow()
        self._receive()  # somebody may have read the connection file just now
        if self.scheduler.has_clients:
            rendezvous.publish(self.connection)
        else:
            self.stop("idle")

    def client_gone(self, client: ClientId) -> None:
        """End what somebody had here who is gone for good."""
        self._answers.consoles.client_gone(client)
        self.sweeping.look()
        if self._shelves is not None:
            self._shelves.client_gone(client)

    def release_pools(self) -> None:
        """Let the code of functions go that the core no longer knows."""
        for pool in [one for one in self._defined if self.scheduler.pool_stats(one) is None]:
            self._defined.discard(pool)
            self.objects.forget(pool)
            self.hook_tables.forget(pool)

    def _upkeep(self) -> None:
        gc.collect()
        self.release_pools()
        self.timers.set("upkeep", self.now() + _UPKEEP_SECONDS, self._upkeep)

    def _shut_down(self) -> None:
        rendezvous.withdraw(self.connection)
        clients = self.peers.clients.values() if self._is_wanted else ()
        for peer in (*self.peers.hosts.values(), *clients):
            self.send(peer.routing, messages.encode(messages.Bye()))
        if self._agent is not None:
            self._agent.stop()
        self._logs.flush()
        self._commit.flush()
        self.watches.remove(self.journal.fileno())
        self.journal.close()
        self.sockets.close()
        self.watches.close()
        self.sweeping.sweep()


class _Signals:
    """SIGTERM and SIGINT end the loop between two turns."""

    def __init__(self, broker: Broker) -> None:
        self._watches = broker.watches
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._former = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: broker.stop(signal.Signals(number).name))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        broker.watches.add(self._read.fileno(), self._drain)

    def close(self) -> None:
        """Let go of the descriptors; a further signal changes nothing."""
        signal.set_wakeup_fd(self._former)
        self._watches.remove(self._read.fileno())
        self._read.close()
        self._write.close()

    def _drain(self) -> None:
        self._read.recv(4096)
