"""Questions: `Ask` and `ConfigurePool`, and what is replied to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from kernel_worker.broker.attaching import Attaching
from kernel_worker.broker.bounds import check_numbers, check_position
from kernel_worker.broker.consoles import Consoles
from kernel_worker.broker.deployments import KEEPER
from kernel_worker.core import events
from kernel_worker.errors import Error, NotFoundError, ProtocolError
from kernel_worker.model import Digest, FunctionKey, PoolId, WorkerId, is_deployed
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.broker.deployments import Deployments, Register
    from kernel_worker.broker.logs import Logs
    from kernel_worker.broker.lookups import Lookups
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client
    from kernel_worker.core import views

Frame = bytes | memoryview
T = TypeVar("T")

MOST_SHAPES: Final = 100
MOST_NOTED: Final = 1_000


class Answers:
    """Replies to questions about what the broker and its core know."""

    def __init__(
        self,
        broker: Broker,
        lookups: Lookups,
        register: Register,
        deployments: Deployments,
        logs: Logs,
    ) -> None:
        """Serve `broker`; what the journal has to say comes by `lookups`."""
        self._broker = broker
        self._register = register
        self._deployments = deployments
        self._lookups = lookups
        self._logs = logs
        self.attaching = Attaching(broker, self._settle)
        self.consoles = Consoles(broker)

    def ask(self, client: Client, ask: messages.Ask) -> None:
        """Answer a question, now or when the journal has."""
        check_position(ask.after)
        match ask.what:
            case "call":
                self._lookups.one(client, ask)
            case "calls":
                self._lookups.recent(client, ask)
            case "graph":
                self._lookups.graph(client, ask)
            case "events":
                self._lookups.events(client, ask)
            case "logs":
                self._logs.flush()
                self._lookups.logs(client, ask)
            case "lookup" | "deployments" | "stop_app":
                self._deployments.ask(client, ask)
            case "stop":
                self._reply(client, messages.Reply(ask.request))
                self._broker.stop(f"{client.id} asked for it", is_wanted=True)
            case _:
                self._at_once(client, ask)

    def _at_once(self, client: Client, ask: messages.Ask) -> None:
        if ask.what == "pool_stats" and is_deployed(ask.subject):
            self._deployments.enlist(client, FunctionKey(ask.subject))
        try:
            if ask.what == "console":
                self._settle(client, ask.request, self.consoles.take(client, ask.subject))
                return
            if ask.what == "attach":
                self.attaching.ask(client, ask)
                return
            body, frames = self._answer(ask)
        except Error as error:
            self._reply(client, _failed(ask.request, error))
        else:
            self._reply(client, messages.Reply(ask.request, _packed(body)), frames)

    def configure(self, client: Client, message: messages.ConfigurePool) -> None:
        """Change a pool's settings and answer with those in force.

        Those of a deployed function belong to its deployment: they stay when `client` leaves.
        """
        check_numbers(message)
        if is_deployed(message.pool):
            self._deployments.enlist(client, FunctionKey(message.pool))
        try:
            pool, owner = self._pool_named(message.pool), client.id
        except Error as error:
            self._reply(client, _failed(message.request, error))
            return
        if pool != message.pool:
            owner = KEEPER
        self._broker.handle(
            events.PoolConfigured(
                owner,
                pool,
                message.min_containers,
                message.max_containers,
                message.buffer_containers,
                message.scaledown_window_seconds,
            )
        )
        try:
            settings = self._pool(pool).settings
        except Error as error:
            self._reply(client, _failed(message.request, error))
            return
        reply = messages.Reply(message.request, _packed(settings))
        if owner is KEEPER:
            self._deployments.configured(FunctionKey(message.pool))
            self._lookups.when_written(lambda: self._reply(client, reply))
        else:
            self._reply(client, reply)

    def provide(self, client: Client, message: messages.Provide) -> None:
        """Note which hosts somebody could bring, and answer with what is wanted."""
        check_numbers(message)
        if len(message.shapes) > MOST_SHAPES or len(message.note) > MOST_NOTED:
            text = f"an offer of {len(message.shapes)} kinds of hosts, {len(message.note)} words"
            raise ProtocolError(text)
        self._broker.handle(events.HostsOffered(client.id, message.shapes, message.note))
        wanted = _same(self._broker.scheduler.demand(), messages.Demand)
        self._reply(client, messages.Reply(message.request, _packed(wanted)))

    def _pool_named(self, name: PoolId) -> PoolId:
        """Return the pool that a client names, which may be a deployed function's key."""
        return self._register.runnable(name).spec.pool if is_deployed(name) else name

    def _reply(self, client: Client, reply: messages.Reply, frames: Sequence[Frame] = ()) -> None:
        self._broker.send(client.routing, messages.encode(reply), frames)

    def _settle(self, client: Client, request: int, body: object) -> None:
        """Answer with a body, or with an error."""
        if isinstance(body, Error):
            self._reply(client, _failed(request, body))
        else:
            self._reply(client, messages.Reply(request, _packed(body)))

    def _answer(self, ask: messages.Ask) -> tuple[object, Sequence[Frame]]:
        match ask.what:
            case "pool_stats":
                counts = self._pool(self._pool_named(PoolId(ask.subject)))
                return messages.PoolStats(**counts._asdict()), ()
            case "status":
                return self._status(), ()
            case "hooks":
                return self._broker.hook_tables.table_of(PoolId(ask.subject)), ()
            case "keys":
                return self._broker.sockets.check_keys(), ()
            case "door":
                return self._broker.open_door(), ()
            case "stop_worker":
                self._evict(WorkerId(ask.subject))
                return None, ()
            case "object":
                content = self._broker.objects.get(Digest(ask.subject))
                if content is None:
                    message = f"there is no object {ask.subject}"
                    raise NotFoundError(message)
                return None, (content,)
            case _:
                message = f"{ask.what} is nothing to ask"
                raise NotFoundError(message)

    def _evict(self, worker: WorkerId) -> None:
        if not self._broker.scheduler.knows_worker(worker):
            message = f"there is no worker {worker}: it has ended, or never was"
            raise NotFoundError(message)
        self._broker.handle(events.WorkerEvicted(worker))

    def _pool(self, pool: PoolId) -> views.PoolCounts:
        counts = self._broker.scheduler.pool_stats(pool)
        if counts is None:
            message = f"there is no pool {pool}: define its function first"
            raise NotFoundError(message)
        return counts

    def _status(self) -> messages.Status:
        broker = self._broker
        view = broker.scheduler.status()
        return messages.Status(
            incarnation=broker.connection.incarnation,
            pid=os.getpid(),
            version=_version(),
            started_at=broker.started_at,
            clients=view.clients,
            hosts=[self._host(host) for host in view.hosts],
            pools=[self._pool_status(pool) for pool in view.pools],
            workers=[_same(worker, messages.WorkerStatus) for worker in view.workers],
            calls=[_same(call, messages.CallInfo) for call in view.calls],
            schedules=broker.schedules.listed(),
        )

    def _pool_status(self, view: views.PoolView) -> messages.PoolStatus:
        clients = map(self._broker.peers.clients.get, view.clients)
        pids = tuple(client.pid for client in clients if client is not None and client.pid)
        return msgspec.structs.replace(_same(view, messages.PoolStatus), client_pids=pids)

    def _host(self, view: views.HostView) -> messages.HostStatus:
        peer = self._broker.peers.hosts.get(view.host)
        machine, pid = (peer.machine, peer.pid) if peer is not None else ("", 0)
        return messages.HostStatus(
            view.host, machine, pid, view.resources, view.cpu_used, view.state, view.held
        )


def _same(value: object, kind: type[T]) -> T:
    return msgspec.convert(value, kind, from_attributes=True)


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415  large, and hardly anybody asks

    try:
        return metadata.version("notebook-ext")
    except metadata.PackageNotFoundError:
        return "unknown"


def _packed(body: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(body))


def _failed(request: int, error: Error) -> messages.Reply:
    return messages.Reply(request, _packed(str(error)), type(error).__name__)
