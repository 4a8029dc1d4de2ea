"""Workers that are to be Jupyter kernels: who asked for which, and what the worker said.

Theory. A worker becomes a kernel at most once, on its own control thread's word, so that it may be
busy. Whoever asks is answered when the worker has said where it listens; those who ask meanwhile,
or again, get the same answer. What is said to the kernel then goes past the broker.

Guaranteed: every question is answered, also where the worker dies meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_worker.errors import ExecutionError, InvalidError, NotFoundError
from kernel_worker.model import CallId, WorkerId
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client, Worker
    from kernel_worker.core.views import WorkerView
    from kernel_worker.errors import Error
    from kernel_worker.model import ClientId

    Reply = Callable[[Client, int, object], None]
    """Answers a request of a client with a body, or with an error."""

_HERE = ("idle", "busy", "blocked")
"""The states in which a worker can become a kernel."""


class Attaching:
    """Answers `attach`."""

    def __init__(self, broker: Broker, reply: Reply) -> None:
        """Serve `broker`; answers go by `reply`."""
        self._broker = broker
        self._reply = reply
        self._asked: dict[WorkerId, list[tuple[ClientId, int]]] = {}
        self._kernels: dict[WorkerId, messages.AttachedKernel] = {}

    def ask(self, client: Client, ask: messages.Ask) -> None:
        """Have a worker become a kernel, for a client that names it or a call that it runs.

        Raises:
            NotFoundError: There is no such worker, or nothing of the call runs.
            InvalidError: The worker is not ready, or on its way out.
        """
        view = self._found(ask.subject)
        known = self._kernels.get(view.worker)
        if known is not None:
            self._reply(client, ask.request, known)
            return
        waiting = self._asked.setdefault(view.worker, [])
        waiting.append((client.id, ask.request))
        host = self._broker.peers.hosts.get(view.host)
        if len(waiting) == 1 and host is not None:
            message = messages.AttachKernel(view.worker)
            self._broker.send(host.routing, messages.encode(message))

    def attached(self, worker: Worker, said: messages.KernelAttached) -> None:
        """A worker is a kernel, or says why it is none."""
        answer: messages.AttachedKernel | Error = ExecutionError(
            f"worker {worker.id} cannot become a kernel: {said.error}"
        )
        if not said.error:
            view = self._view(worker.id)
            if view is None:
                return  # it is gone, and whoever asked was told
            answer = messages.AttachedKernel(worker.id, said.path, self._name(view), view.pid)
            self._kernels[worker.id] = answer
        self._answer(worker.id, answer)

    def gone(self, worker: WorkerId) -> None:
        """A worker has ended."""
        self._kernels.pop(worker, None)
        if worker in self._asked:
            self._answer(worker, ExecutionError(f"worker {worker} ended before it was a kernel"))

    def _answer(self, worker: WorkerId, answer: messages.AttachedKernel | Error) -> None:
        for client_id, request in self._asked.pop(worker, []):
            client = self._broker.peers.clients.get(client_id)
            if client is not None:
                self._reply(client, request, answer)

    def _found(self, subject: str) -> WorkerView:
        named = WorkerId(subject)
        if subject.startswith("fc-"):
            at = self._broker.scheduler.workers_at(CallId(subject))
            if not at:
                text = f"nothing of {subject} runs now: name a worker (%remote_status lists them)"
                raise NotFoundError(text)
            named = at[0]
        view = self._view(named)
        if view is None:
            text = f"there is no worker {subject}: %remote_status lists those that there are"
            raise NotFoundError(text)
        if view.state not in _HERE:
            text = f"worker {named} is {view.state}: attach to one that is {', '.join(_HERE)}"
            raise InvalidError(text)
        return view

    def _view(self, worker: WorkerId) -> WorkerView | None:
        views = self._broker.scheduler.status().workers
        return next((view for view in views if view.worker == worker), None)

    def _name(self, view: WorkerView) -> str:
        pools = self._broker.scheduler.status().pools
        return next((pool.name for pool in pools if pool.pool == view.pool), "")
