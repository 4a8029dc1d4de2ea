"""A broker's socket in a test, and a real host agent with real templates and workers behind it."""

from __future__ import annotations

import errno
import itertools
import json
import linecache
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import zmq

from kernel_worker.model import (
    CallContext,
    CallId,
    Digest,
    Environment,
    FunctionKey,
    FunctionSpec,
    LeaseId,
    Outcome,
    PoolId,
    Resources,
    StreamLimits,
    WorkerId,
    digest_of,
)
from kernel_worker.wire import failures, messages, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL
from notebook_ext.capture import Captured, Capturer
from tests.waiting import PATIENCE

M = TypeVar("M")
_numbers = itertools.count(1)


def define(source: str, name: str = "f") -> Callable[..., Any]:
    """Return the function `name` that a cell with this source defines."""
    text = textwrap.dedent(source)
    file = f"<cell {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), namespace)  # noqa: S102  a cell
    found: Callable[..., Any] = namespace[name]
    return found


def spec_of(captured: Captured, name: str = "f", **options: Any) -> FunctionSpec:
    """Return the spec of a captured function."""
    return FunctionSpec(
        pool=PoolId(f"po-{captured.version[:12]}-{next(_numbers)}"),
        key=FunctionKey(f"test/app/{name}"),
        name=name,
        module="__main__",
        version=captured.version,
        code=captured.code,
        environment=captured.environment,
        imports=captured.imports,
        **options,
    )


class Received:
    """A message and who sent it."""

    def __init__(self, sender: str, message: Any, frames: list[bytes], at: float) -> None:
        self.sender = sender
        self.message = message
        self.frames = frames
        self.at = at

    def __repr__(self) -> str:
        return f"{self.sender}: {self.message}"


class Worker:
    """A worker that the harness started."""

    def __init__(self, broker: Broker, worker: WorkerId, captured: Captured) -> None:
        self.broker = broker
        self.id = worker
        self.captured = captured
        self.pid = 0
        self.start = ""
        self.sent: dict[str, str] = {}

    def lease(
        self,
        items: Sequence[Any],
        form: int = FORM_ARGS,
        *,
        shared: bytes = b"",
        table: bytes = b"",
        context: CallContext | None = None,
        captured: Captured | None = None,
        start: int = 0,
        stop: int | None = None,
        call: str = "fc-1",
        streams: StreamLimits | None = None,
        number: LeaseId | None = None,
        group: int = 0,
        group_size: int = 0,
        line: str = "",
    ) -> LeaseId:
        """Lease `[start, stop)` of a batch of `items` to it, under `number` if that is given."""
        captured = captured or self.captured
        objects = {**captured.objects}
        digests: dict[str, Any] = {
            "snapshot": captured.snapshot,
            "shared": Digest(""),
            "table": Digest(""),
        }
        for role, content in (("shared", shared), ("table", table)):
            if content:
                digests[role] = digest_of(content)
                objects[digests[role]] = content
        for role, digest in digests.items():
            if digest and self.sent.get(role) != digest:
                self.broker.send(self.id, messages.StoreObject(digest), objects[digest])
                self.sent[role] = digest
        lease = LeaseId(next(_numbers)) if number is None else number
        message = messages.Lease(
            lease=lease,
            call=CallId(call),
            start=start,
            stop=len(items) if stop is None else stop,
            attempt=1,
            first=0,
            context=context or CallContext(),
            streams=streams,
            group=group,
            group_size=group_size,
            line=line,
            **digests,
        )
        self.broker.send(self.id, message, *payload.encode_batch(items, form))
        return lease

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run one input; return its value or raise what it raised."""
        lease = self.lease([(args, kwargs)], FORM_CALL) if kwargs else self.lease([args])
        (outcome,) = self.broker.outcomes(lease, 1).values()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def tell_host(self, message: messages.ToHost) -> None:
        self.broker.send(self.broker.host, message)

    def exited(self, deadline_seconds: float = 20) -> messages.WorkerExited:
        """Wait for its end."""
        found = self.broker.wait(
            messages.WorkerExited, lambda m: m.worker == self.id, deadline_seconds
        )
        return found.message  # type: ignore[no-any-return]

    def output(self) -> str:
        """Return what has arrived of its output."""
        return self.broker.text_of(messages.Output, self.id)


class Broker:
    """The ROUTER, and everything that came."""

    program: tuple[str, ...] = ("-m", "kernel_worker.host")

    def __init__(self, directory: Path, *arguments: str, **variables: str) -> None:
        self.directory = directory
        self.context = zmq.Context()
        self.address = f"ipc://{directory}/b.sock"
        self._bind()
        self.received: list[Received] = []
        self.host = ""
        self.workers: dict[str, Worker] = {}
        self.survivors: dict[WorkerId, int] = {}
        """The workers that have outlived another broker, and how many."""
        self._stored: set[Digest] = set()
        connection = directory / "connection.json"
        connection.write_text(
            json.dumps(
                {
                    "address": self.address,
                    "pid": os.getpid(),
                    "incarnation": "i",
                    "machine": "m",
                    "path": str(connection),
                }
            )
        )
        self.agent = subprocess.Popen(
            [sys.executable, *self.program, "--connection", connection, *arguments],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **variables},
        )

    def __enter__(self) -> Self:
        hello = self.wait(messages.Hello, lambda m: m.role == "host")
        self.host = hello.sender
        self.hello: messages.Hello = hello.message
        self.send(self.host, messages.Welcome("i", "m"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.agent.terminate()
        self.agent.wait(20 * PATIENCE)
        self.socket.close()
        self.context.term()

    def _bind(self) -> None:
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.address)

    def die(self) -> None:
        """Be gone, as a broker that was killed."""
        self.socket.close()
        self.received.clear()

    def follow(self) -> messages.Hello:
        """Be the next broker; return what the host agent says."""
        self._bind()
        hello: messages.Hello
        hello = self.wait(messages.Hello, lambda m: m.role == "host").message
        self.send(self.host, messages.Welcome("i2", "m"))
        self.survivors = {one.worker: one.number for one in hello.survivors}
        return hello

    def back(self, worker: Worker) -> Worker:
        """Wait until a worker has dialled the broker that this is now."""
        number = self.survivors[worker.id]
        self.wait(messages.Hello, lambda m: (m.peer, m.number) == (worker.id, number))
        worker.sent.clear()
        return worker

    def send(self, peer: str, message: Any, *frames: Any) -> None:
        self.socket.send_multipart([peer.encode(), messages.encode(message), *frames])

    def pump(self, timeout_seconds: float) -> bool:
        """Take in what comes; say whether something did."""
        if not self.socket.poll(int(timeout_seconds * 1000)):
            return False
        while self.socket.poll(0):
            sender, header, *frames = self.socket.recv_multipart()
            message = messages.decode_at_broker(header)
            self.received.append(Received(sender.decode(), message, frames, time.monotonic()))
            if isinstance(message, messages.Hello) and message.role == "worker":
                try:
                    self.send(message.peer, messages.Welcome("i", "m"))
                except zmq.ZMQError as error:
                    if error.errno != errno.EHOSTUNREACH:
                        raise
                    # It has dialled again since, and says `Hello` there too.
        return True

    def wait(
        self,
        kind: type[M],
        condition: Callable[[M], bool] = lambda _: True,
        deadline_seconds: float = 20,
    ) -> Received:
        """Wait for a message."""
        end = time.monotonic() + deadline_seconds * PATIENCE
        seen = 0
        while True:
            for each in self.received[seen:]:
                seen += 1
                if isinstance(each.message, kind) and condition(each.message):
                    return each
            left = end - time.monotonic()
            if left < 0:
                raise AssertionError(f"no {kind.__name__} in {self.received[-10:]}")
            self.pump(min(left, 0.5))

    def ask_worker(self, function: Any, **options: Any) -> tuple[Worker, FunctionSpec]:
        """Ask the host for a worker of `function`."""
        captured = function if isinstance(function, Captured) else Capturer(function).read()
        resources = options.pop("resources", Resources())
        devices = options.pop("devices", ())
        spec = options.pop("spec", None) or spec_of(captured, resources=resources, **options)
        for digest in (captured.environment, captured.code):
            if digest not in self._stored:
                self._stored.add(digest)
                self.send(self.host, messages.StoreObject(digest), captured.objects[digest])
        worker = Worker(self, WorkerId(f"ta-{next(_numbers)}"), captured)
        self.workers[worker.id] = worker
        self.send(self.host, messages.StartWorker(worker.id, spec, devices))
        return worker, spec

    def start_worker(self, function: Any, **options: Any) -> Worker:
        """Start a worker of `function` and wait until it is ready."""
        worker, _ = self.ask_worker(function, **options)
        return self.ready(worker)

    def ready(self, worker: Worker) -> Worker:
        started = self.wait(messages.WorkerStarted, lambda m: m.worker == worker.id).message
        worker.pid, worker.start = started.pid, started.start
        self.wait(messages.Hello, lambda m: m.peer == worker.id)
        return worker

    def outcomes(self, lease: LeaseId, count: int, deadline_seconds: float = 20) -> dict[int, Any]:
        """Wait for `count` outcomes of a lease; return values, exceptions or outcomes by index."""
        end = time.monotonic() + deadline_seconds * PATIENCE
        while len(found := self.outcomes_so_far(lease)) < count:
            if time.monotonic() > end:
                raise AssertionError(f"only {found} of {count}: {self.received[-5:]}")
            self.pump(0.5)
        return dict(sorted(found.items()))

    def outcomes_so_far(self, lease: LeaseId) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for each in self.received:
            message = each.message
            if isinstance(message, messages.Done) and message.lease == lease:
                reader = payload.BatchReader(each.frames)
                assert len(reader) == message.count
                for number in range(message.count):
                    index = message.start + number
                    assert index not in found, "answered twice"
                    found[index] = reader[number]
            elif isinstance(message, messages.InputEnded) and message.lease == lease:
                assert message.index not in found, "answered twice"
                failed = message.outcome is Outcome.FAILED
                found[message.index] = (
                    failures.rebuild(each.frames[0]) if failed else message.outcome
                )
        return found

    def text_of(self, kind: type[messages.Output], worker: str) -> str:
        return b"".join(
            each.frames[0]
            for each in self.received
            if isinstance(each.message, kind) and each.message.worker == worker
        ).decode()


def environment_of(captured: Captured) -> Environment:
    """Return the captured environment, decoded."""
    return msgspec.msgpack.decode(captured.objects[captured.environment], type=Environment)
