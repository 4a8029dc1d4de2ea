"""Real peers for the broker's tests: they speak the protocol over a real socket, and nothing else.

A broker under test runs in its own process, without a host agent: the test is host and worker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import zmq

from kernel_worker import rendezvous, settings
from kernel_worker.model import (
    CallId,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostResources,
    PoolId,
    WorkerId,
    digest_of,
)
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages, payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

LIMIT_SECONDS = 20.0
CODE = b"the code"
ENVIRONMENT = b"the environment"


def read(process: int, limit_seconds: float = LIMIT_SECONDS) -> bool:
    """Wait until a pidfd says that its process has ended."""
    poller = zmq.Poller()
    poller.register(process, zmq.POLLIN)
    return bool(poller.poll(int(limit_seconds * 1000)))


class RunningBroker:
    """A broker's process in a directory of its own."""

    def __init__(self, directory: Path, **overrides: object) -> None:
        self.settings = settings.load(
            {"runtime_dir": directory / "r", "data_dir": directory / "d", **overrides},
            environ={"HOME": str(directory)},
            start="/",
        )
        self.connection = self.start()

    def start(self) -> rendezvous.Connection:
        answer, ready = os.pipe()
        command = [sys.executable, "-m", "kernel_worker.broker", "--no-host"]
        environment = {
            **os.environ,
            **settings.as_environment(self.settings),
            "NOTEBOOK_EXT_DEBUG": "1",
        }
        with subprocess.Popen(
            [*command, "--ready-fd", str(ready)],
            env=environment,
            pass_fds=[ready],
            stderr=self.log(),
        ):
            os.close(ready)
        said = os.read(answer, 16)
        os.close(answer)
        assert said == b"ready"
        found = rendezvous.find(self.settings)
        assert found is not None
        self.connection = found
        return found

    def log(self) -> int | None:
        """Return where it writes its log; None: where the test does."""
        return None

    def end(self, number: int = signal.SIGTERM) -> None:
        """Signal the broker and wait until it has ended."""
        process = os.pidfd_open(self.connection.pid)
        os.kill(self.connection.pid, number)
        assert read(process)
        os.close(process)

    def is_alive(self) -> bool:
        return rendezvous.find(self.settings) is not None


@dataclass
class Heard:
    """A message with its frames."""

    message: Any
    frames: list[bytes]

    @property
    def values(self) -> list[object]:
        reader = payload.BatchReader(self.frames)
        return [reader[at] for at in range(len(reader))]


class Speaker:
    """A DEALER that says and hears messages."""

    def __init__(self, broker: RunningBroker, peer: str) -> None:
        self.peer = peer
        self.machine = broker.connection.machine
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.routing_id = peer.encode()
        self.socket.linger = 0
        self.socket.connect(broker.connection.address)

    def say(self, message: messages.ToBroker, frames: Sequence[batches.Frame] = ()) -> None:
        self.socket.send_multipart([messages.encode(message), *frames])

    def hear(self, kind: type[T], limit_seconds: float = LIMIT_SECONDS) -> T:
        message = self.listen(limit_seconds).message
        assert isinstance(message, kind), message
        return message

    def listen(self, limit_seconds: float = LIMIT_SECONDS) -> Heard:
        """Return the next message that is no progress report."""
        while True:
            assert self.socket.poll(int(limit_seconds * 1000)), f"{self.peer} hears nothing"
            header, *frames = self.socket.recv_multipart()
            message = self.decode(header)
            if not isinstance(message, messages.CallProgress):
                return Heard(message, frames)

    def decode(self, header: bytes) -> object:
        return messages.decode_at_client(header)

    def hello(
        self, role: Literal["client", "host", "worker"], **fields: Any
    ) -> messages.Welcome | messages.Refused:
        self.say(messages.Hello(role, self.peer, **fields))
        answer = self.listen().message
        assert isinstance(answer, messages.Welcome | messages.Refused)
        return answer

    def close(self) -> None:
        self.socket.close()
        self._context.term()


class Client(Speaker):
    """A client that has said hello."""

    def __init__(self, broker: RunningBroker, peer: str = "cl-1", *, pid: int = 0) -> None:
        super().__init__(broker, peer)
        self.welcome = self.hello("client", pid=pid, machine=self.machine)
        self.requests = 0

    def store(self, content: bytes) -> Digest:
        digest = digest_of(content)
        self.say(messages.StoreObject(digest), [content])
        return digest

    def define(self, pool: str = "po-1", **fields: Any) -> FunctionSpec:
        code, environment = self.store(CODE), self.store(ENVIRONMENT)
        spec = FunctionSpec(
            PoolId(pool),
            FunctionKey("test/app/f"),
            "f",
            "__main__",
            Digest(f"version of {pool}"),
            code,
            environment,
            **fields,
        )
        self.say(messages.Define(spec))
        return spec

    def submit(self, items: Sequence[object], call: str = "fc-1", **fields: Any) -> CallId:
        frames = payload.encode_batch([(item,) for item in items], batches.FORM_ARGS)
        fields = {"pool": PoolId("po-1"), "attached": True, "closed": True, **fields}
        self.say(messages.Submit(call=CallId(call), count=len(items), **fields), frames)
        return CallId(call)

    def ask(self, what: Any, subject: str, kind: type[T]) -> T:
        self.requests += 1
        self.say(messages.Ask(self.requests, what, subject))
        reply = self.hear(messages.Reply)
        assert reply.request == self.requests
        assert not reply.error, msgspec.msgpack.decode(reply.body)
        return msgspec.msgpack.decode(reply.body, type=kind)


class Worker(Speaker):
    """A worker that the broker asked a host for."""

    def decode(self, header: bytes) -> object:
        return messages.decode_at_worker(header)

    def lease(self) -> Heard:
        """Return the next lease; the objects before it are dropped."""
        while True:
            heard = self.listen()
            if isinstance(heard.message, messages.Lease):
                return heard
            assert isinstance(heard.message, messages.StoreObject)

    def work(self, function: Callable[[Any], object]) -> messages.Lease:
        """Answer one lease with what `function` makes of each input."""
        heard = self.lease()
        lease: messages.Lease = heard.message
        items = heard.values[lease.start - lease.first : lease.stop - lease.first]
        values = [function(*item) for item in items]  # type: ignore[misc]
        self.done(lease, values)
        return lease

    def done(self, lease: messages.Lease, values: list[object], start: int | None = None) -> None:
        at = lease.start if start is None else start
        frames = payload.encode_batch(values, batches.FORM_VALUE)
        self.say(messages.Done(lease.lease, at, len(values), 0.001), frames)


class Host(Speaker):
    """A host agent that starts the workers that the test makes."""

    def __init__(self, broker: RunningBroker, peer: str = "ho-1", cpu: float = 1.0) -> None:
        super().__init__(broker, peer)
        self.broker = broker
        self.objects: dict[Digest, bytes] = {}
        self.workers: list[Worker] = []
        self.hello("host", machine=self.machine, resources=HostResources(cpu, 1000))

    def decode(self, header: bytes) -> object:
        return messages.decode_at_host(header)

    def asked(self) -> messages.StartWorker:
        """Return the next worker that the broker asks for."""
        while True:
            heard = self.listen()
            if isinstance(heard.message, messages.StartWorker):
                assert heard.message.spec.code in self.objects
                assert heard.message.spec.environment in self.objects
                return heard.message
            if isinstance(heard.message, messages.StoreObject):
                self.objects[heard.message.digest] = heard.frames[0]

    def start_worker(self) -> Worker:
        """Be the worker that the broker asks for."""
        wanted = self.asked().worker
        self.say(messages.WorkerStarted(wanted, 4711, "forked"))
        worker = Worker(self.broker, wanted)
        self.workers.append(worker)
        assert isinstance(worker.hello("worker"), messages.Welcome)
        return worker

    def exited(self, worker: Worker | WorkerId, **fields: Any) -> None:
        name = worker.peer if isinstance(worker, Worker) else worker
        self.say(messages.WorkerExited(WorkerId(name), "killed by SIGKILL", **fields))
