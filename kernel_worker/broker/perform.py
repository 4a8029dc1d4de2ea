"""Effect -> messages: what the core decided is said to whom it concerns.

Theory: an effect names positions and ids; here it meets the frames and objects that it means, in
the order that the protocol asks for: an object is sent before the message that names it.
A worker's connection remembers the last object of each role, a host's every code and environment.
Frames of a result are those of the event in hand, forwarded untouched.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from kernel_worker.broker import streams
from kernel_worker.core import effects
from kernel_worker.store import carrying
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kernel_worker.broker.calls import OpenCall
    from kernel_worker.broker.objects import ObjectStore
    from kernel_worker.broker.peers import Peers, Worker
    from kernel_worker.model import CallId, ClientId, Digest, HostId

Frame = bytes | memoryview

_log = logging.getLogger(__name__)


class Performer:
    """Performs every effect but `Record`."""

    def __init__(
        self,
        peers: Peers,
        objects: ObjectStore,
        calls: dict[CallId, OpenCall],
        send: Callable[[bytes, bytes, Sequence[Frame]], None],
        on_finished: Callable[[OpenCall, tuple[int, ...]], None],
    ) -> None:
        """All arguments but the last two are the broker's own tables, shared.

        Args:
            peers: Who is there.
            objects: What is sent once.
            calls: Open calls; those that finish or are rejected are taken out.
            send: Sends a header and frames to a routing id.
            on_finished: Called with each spawned call that has finished, and its tally.
        """
        self._peers = peers
        self._objects = objects
        self._calls = calls
        self.send_by(send)
        self._on_finished = on_finished
        self._actions: Mapping[type, Callable[..., None]] = {
            effects.StartWorker: self._start_worker,
            effects.StopWorker: self._stop_worker,
            effects.KillWorker: self._kill_worker,
            effects.RetirePool: self._retire_pool,
            effects.GrantLease: self._grant_lease,
            effects.TakeBack: self._take_back,
            effects.Interrupt: self._interrupt,
            effects.ReleaseWorker: self._release_worker,
            effects.AcceptCall: self._accept_call,
            effects.ConfirmCancel: self._confirm_cancel,
            effects.RejectCall: self._reject_call,
            effects.ReportRange: self._report_range,
            effects.ReportItems: self._report_items,
            effects.ReportEnd: self._report_end,
            effects.EndLine: self._end_line,
            effects.DropInputs: self._drop_inputs,
            effects.FinishCall: self._finish_call,
        }

    def send_by(self, send: Callable[[bytes, bytes, Sequence[Frame]], None]) -> None:
        """Send by this from now on; as of `__init__`."""
        self._send = send

    def perform(self, effect: effects.Effect, frames: Sequence[Frame]) -> None:
        """Do what `effect` says; `frames` are the payload of its event."""
        self._actions[type(effect)](effect, frames)

    # ---- hosts ------------------------------------------------------------------------------

    def _start_worker(self, effect: effects.StartWorker, _: Sequence[Frame]) -> None:
        spec = effect.spec
        self._peers.expect_worker(effect.worker, effect.host, spec.pool)
        host = self._peers.hosts.get(effect.host)
        if host is None:
            return
        for digest in spec.objects:
            if digest not in host.sent:
                host.sent.add(digest)
                self._send_object(host.routing, digest)
        self._to_host(effect.host, messages.StartWorker(effect.worker, spec, effect.devices))

    def _stop_worker(self, effect: effects.StopWorker, _: Sequence[Frame]) -> None:
        self._to_host(effect.host, messages.StopWorker(effect.worker))

    def _kill_worker(self, effect: effects.KillWorker, _: Sequence[Frame]) -> None:
        self._to_host(effect.host, messages.KillWorker(effect.worker))

    def _retire_pool(self, effect: effects.RetirePool, _: Sequence[Frame]) -> None:
        self._to_host(effect.host, messages.RetirePool(effect.pool))
        host = self._peers.hosts.get(effect.host)
        if host is not None:
            host.sent.clear()  # it lets objects go that no pool of it needs any more

    def _take_back(self, effect: effects.TakeBack, _: Sequence[Frame]) -> None:
        self._to_host(effect.host, messages.TakeBack(effect.worker, effect.lease))

    def _interrupt(self, effect: effects.Interrupt, _: Sequence[Frame]) -> None:
        message = messages.Interrupt(effect.worker, effect.lease, effect.index)
        self._to_host(effect.host, message)

    def _release_worker(self, effect: effects.ReleaseWorker, _: Sequence[Frame]) -> None:
        self._to_host(effect.host, messages.ConsoleInput(effect.worker, "release"))

    def _to_host(self, host_id: HostId, message: messages.ToHost) -> None:
        host = self._peers.hosts.get(host_id)
        if host is not None:
            self._send(host.routing, messages.encode(message), ())

    # ---- workers ----------------------------------------------------------------------------

    def _grant_lease(self, effect: effects.GrantLease, _: Sequence[Frame]) -> None:
        worker = self._peers.workers.get(effect.worker)
        call = self._calls.get(effect.call)
        if worker is None or call is None:
            return  # gone while the lease waited for the journal
        first, frames = call.batches.cut(effect.start, effect.stop)
        context, store = call.context, ""
        if context.store and self._is_far(worker):  # it is a directory of this machine
            store, context = context.store, msgspec.structs.replace(context, store="")
            frames = carrying.batch(store, frames)
        self._send_roles(worker, call, store)
        lease = messages.Lease(
            effect.lease,
            effect.call,
            effect.start,
            effect.stop,
            effect.attempt,
            first,
            call.snapshot,
            call.table,
            call.shared,
            context,
            streams.begin(call, effect, is_far=self._is_far(worker)) if call.streams else None,
            effect.group,
            effect.group_size,
            call.line if effect.lends else "",
        )
        self._send(worker.routing, messages.encode(lease), frames)

    def _is_far(self, worker: Worker) -> bool:
        host = self._peers.hosts.get(worker.host)
        return host is not None and host.is_far

    def _send_roles(self, worker: Worker, call: OpenCall, store: str) -> None:
        """Send what a lease names; `store`: where buffers lie that must travel along."""
        if call.snapshot and call.snapshot != worker.snapshot:
            worker.snapshot = call.snapshot
            self._send_object(worker.routing, call.snapshot)
        if call.table and call.table != worker.table:
            worker.table = call.table
            self._send_object(worker.routing, call.table)
        if call.shared and call.shared != worker.shared:
            worker.shared = call.shared
            self._send_object(worker.routing, call.shared, store)

    def _send_object(self, routing: bytes, digest: Digest, store: str = "") -> None:
        content = self._objects.get(digest)
        if content is None:
            _log.error("object %s is named but not here", digest)
            return
        frames = carrying.content(store, content) if store else (content,)
        self._send(routing, messages.encode(messages.StoreObject(digest)), frames)

    # ---- clients ----------------------------------------------------------------------------

    def _accept_call(self, effect: effects.AcceptCall, _: Sequence[Frame]) -> None:
        self._to_client(effect.client, messages.Accepted(effect.call))

    def _confirm_cancel(self, effect: effects.ConfirmCancel, _: Sequence[Frame]) -> None:
        self._to_client(effect.client, messages.CancelConfirmed(effect.call))

    def _reject_call(self, effect: effects.RejectCall, _: Sequence[Frame]) -> None:
        message = messages.Rejected(effect.call, effect.error, effect.message)
        self._to_client(effect.client, message)
        self._calls.pop(effect.call, None)
        self._objects.forget(effect.call)

    def _report_range(self, effect: effects.ReportRange, frames: Sequence[Frame]) -> None:
        count = effect.stop - effect.start
        message = messages.Results(effect.call, effect.start, count, effect.first)
        self._to_listeners(effect.call, message, frames)

    def _report_items(self, effect: effects.ReportItems, frames: Sequence[Frame]) -> None:
        call = self._calls.get(effect.call)
        if call is None:
            return
        message = messages.Items(effect.call, effect.index, effect.start, effect.count)
        header = messages.encode(message)
        for listener in call.item_listeners:
            client = self._peers.clients.get(listener)
            if client is not None:
                self._send(client.routing, header, frames)
        credit = streams.written(call, effect, frames)
        if credit is not None and call.producer is not None:
            worker = self._peers.workers.get(call.producer.worker)
            if worker is not None:
                self._send(worker.routing, messages.encode(credit), ())

    def _report_end(self, effect: effects.ReportEnd, frames: Sequence[Frame]) -> None:
        message = messages.Failure(
            effect.call,
            effect.index,
            effect.count,
            effect.outcome,
            effect.attempt,
            effect.message,
        )
        self._to_listeners(effect.call, message, frames if effect.has_payload else ())

    def _end_line(self, effect: effects.EndLine, _: Sequence[Frame]) -> None:
        self._to_client(effect.client, messages.LineEnded(effect.call, effect.stop))

    def _to_client(
        self, client_id: ClientId, message: messages.ToClient, frames: Sequence[Frame] = ()
    ) -> None:
        client = self._peers.clients.get(client_id)
        if client is not None:
            self._send(client.routing, messages.encode(message), frames)

    def _to_listeners(
        self, call_id: CallId, message: messages.ToClient, frames: Sequence[Frame]
    ) -> None:
        call = self._calls.get(call_id)
        if call is None or not call.listeners:
            return
        header = messages.encode(message)
        for listener in call.listeners:
            client = self._peers.clients.get(listener)
            if client is not None:
                self._send(client.routing, header, frames)

    # ---- what is kept -----------------------------------------------------------------------

    def _drop_inputs(self, effect: effects.DropInputs, _: Sequence[Frame]) -> None:
        call = self._calls.get(effect.call)
        if call is not None:
            call.batches.drop(effect.start, effect.stop)

    def _finish_call(self, effect: effects.FinishCall, _: Sequence[Frame]) -> None:
        call = self._calls.pop(effect.call, None)
        if call is None:
            return
        self._objects.forget(effect.call)
        if not call.attached:
            self._on_finished(call, effect.tally)
