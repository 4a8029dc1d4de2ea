"""Consoles that workers offer: who has taken which, and what goes to and fro.

Theory. A worker has at most one. A breakpoint is offered to the client of the root of its tree,
which waits for it; a failure waits until somebody asks. Whoever asks for a console has it until
it is closed or that client is gone.

Guaranteed: an input at a breakpoint that nobody can look at is told so, and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client, Worker
    from kernel_worker.model import CallId, ClientId, WorkerId

Frame = bytes | memoryview
FromWorker = messages.ConsoleOffered | messages.ConsoleSaid | messages.ConsoleClosed
_SPAWNED = (
    "nobody waits for it: it, or a call above it, was spawned. Call it with .remote(), .map() or"
    " .remote_gen() to look at it"
)


_REMEMBERED: Final = 100
"""Of so many failures it is known why their frames are gone."""


class _Console(msgspec.Struct, eq=False):
    """One that is there."""

    offer: messages.ConsoleOffered
    client: ClientId | None = None
    """Who has taken it."""
    owner: ClientId | None = None
    """Whose call it is."""
    is_released: bool = False
    """Whether its worker was told to let go."""


class Consoles:
    """Those of all workers, in the order in which they were offered."""

    def __init__(self, broker: Broker) -> None:
        """Serve `broker`."""
        self._broker = broker
        self._open: dict[WorkerId, _Console] = {}
        self._let_go: dict[tuple[WorkerId, CallId], str] = {}
        """Why the frames of failures are gone, the newest last."""

    def hear(self, worker: Worker, message: FromWorker, frames: Sequence[Frame]) -> None:
        """Take what a worker says."""
        match message:
            case messages.ConsoleOffered():
                self._offered(worker, message)
            case messages.ConsoleSaid():
                self._forward(worker.id, message, frames[:1])
            case messages.ConsoleClosed():
                self._forward(worker.id, message, ())
                self._close(worker.id)

    def take(self, client: Client, subject: str) -> messages.ConsoleInfo:
        """Give a console to a client.

        Raises:
            NotFoundError: There is none.
            InvalidError: Somebody else has it.
        """
        found = [
            console
            for console in self._open.values()
            if subject in {console.offer.worker, console.offer.call}
            or (not subject and console.offer.kind == "failure")
        ]
        if not found:
            raise NotFoundError(self._why_none(subject))
        newest = found[-1].offer.call
        console = next(each for each in found if each.offer.call == newest)
        offer = console.offer
        if console.client is not None and console.client != client.id:
            raise InvalidError(f"somebody else looks at {offer.call} now: end that console first")
        console.client = client.id
        self._tell(offer.worker, "open")
        status = self._broker.scheduler.status()
        pools = {view.worker: view.pool for view in status.workers}
        names = {pool.pool: pool.name for pool in status.pools}
        name = names.get(pools.get(offer.worker, ""), "")  # type: ignore[call-overload]
        return messages.ConsoleInfo(offer.worker, offer.call, offer.index, offer.kind, name)

    def line(self, client: Client, message: messages.ConsoleLine) -> None:
        """Hand on what was typed."""
        console = self._open.get(message.worker)
        if console is not None and console.client == client.id:
            self._tell(message.worker, "line", message.text)

    def refused(self, message: messages.ConsoleRefused) -> None:
        """Nobody can look at a breakpoint."""
        console = self._open.get(message.worker)
        if console is not None and console.client is None and console.offer.kind == "breakpoint":
            self._tell(message.worker, "refused", message.reason)

    def client_gone(self, client: ClientId) -> None:
        """Whoever looked has left, or whoever called."""
        for worker, console in list(self._open.items()):
            if console.client == client:
                console.client = None
                self._tell(worker, "hangup")
            elif console.owner == client and console.client is None:
                console.is_released = True
                self._tell(worker, "release")

    def worker_gone(self, worker: WorkerId) -> None:
        """A worker has ended."""
        self._forward(worker, messages.ConsoleClosed(worker), ())
        self._close(worker, "when their worker ended")

    def _why_none(self, subject: str) -> str:
        """Return what to do where there are no frames to look at."""
        gone = [key for key in self._let_go if not subject or subject in key]
        if gone:
            return (
                f"no frames are kept: those of {gone[-1][1]} were let go"
                f" {self._let_go[gone[-1]]}; call it again, or use err.rerun_local()"
            )
        what = f"no frames of {subject} are kept" if subject else "no frames are kept"
        return (
            f"{what}: set nb.config.keep_failed_seconds = 300 before you call, or use"
            " err.rerun_local()"
        )

    def _close(self, worker: WorkerId, why: str = "") -> None:
        console = self._open.pop(worker, None)
        if console is None or console.offer.kind != "failure":
            return
        if not why and console.client is not None:
            why = "when the console was left"
        elif not why and console.is_released:
            why = "when who had called was gone"
        why = why or f"after {console.offer.keep_seconds:g} s (nb.config.keep_failed_seconds)"
        self._let_go[worker, console.offer.call] = why
        if len(self._let_go) > _REMEMBERED:
            del self._let_go[next(iter(self._let_go))]

    def _offered(self, worker: Worker, offer: messages.ConsoleOffered) -> None:
        offer = msgspec.structs.replace(offer, worker=worker.id)
        root, is_attached = self._root(offer.call)
        call = self._broker.calls.get(root)
        self._open.pop(worker.id, None)  # the newest last
        console = self._open[worker.id] = _Console(offer, owner=call.client if call else None)
        if offer.kind == "failure":
            return
        owner = self._broker.peers.clients.get(console.owner) if console.owner else None
        if owner is None or not is_attached:
            self._tell(worker.id, "refused", _SPAWNED)
            return
        offered = msgspec.structs.replace(offer, call=root)
        self._broker.send(owner.routing, messages.encode(offered))

    def _root(self, call: CallId) -> tuple[CallId, bool]:
        """Return the call that a person made, and whether somebody waits for all above it."""
        return self._broker.scheduler.waited_for(call)

    def _forward(self, worker: WorkerId, message: FromWorker, frames: Sequence[Frame]) -> None:
        console = self._open.get(worker)
        client = None
        if console is not None and console.client is not None:
            client = self._broker.peers.clients.get(console.client)
        if client is not None:
            self._broker.send(client.routing, messages.encode(message), frames)

    def _tell(self, worker_id: WorkerId, what: messages.ConsoleWord, text: str = "") -> None:
        worker = self._broker.peers.workers.get(worker_id)
        host = None if worker is None else self._broker.peers.hosts.get(worker.host)
        if host is not None:
            message = messages.ConsoleInput(worker_id, what, text)
            self._broker.send(host.routing, messages.encode(message))
