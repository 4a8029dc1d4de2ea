"""`python -m benchmarks.scale`: what does a broker cost that has many workers, or much to do?

A real broker, alone in its process, and a load generator that speaks the wire to it (a client, a
host, and as many workers as are asked for, each with a connection of its own). Nothing runs: a
lease is answered as soon as it is there, as one that took a second, so that each is one input.

Printed, and written as JSON: for each number of workers the broker's CPU time for a lease (from
submitted to reported), leases per second and its memory; then the memory of ten million inputs that
wait, beside their payload. The limits: a lease costs at most 1.5 times as much with 1,000 workers
as with 10; 2 bytes an input that waits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import zmq

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep
from kernel_worker import rendezvous, settings
from kernel_worker.far import Far
from kernel_worker.keys import Invitation, Keys
from kernel_worker.model import (
    CallId,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostResources,
    PoolId,
    PoolSettings,
    Resources,
    digest_of,
)
from kernel_worker.wire import frames, messages, payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_RATIO = 1.5
LIMIT_BYTES = 2.0
MAP_BATCH, WAITING_BATCH = 8, 10_000
"""Inputs a message: as a client sends those of a second each, and no-ops."""
LEASE_SECONDS = 1.0
"""So long each lease is said to have taken."""
PATIENCE_SECONDS = 300.0
LINKS_SECONDS = 0.005
"""So often it is looked what links have heard."""
WARM_INPUTS = 2
"""For each worker, before the clock."""
FILES_A_WORKER, OTHER_FILES = 2, 100
"""That a connection takes in the load generator: libzmq has a descriptor besides the socket's."""
ANSWER = payload.encode_batch([0], frames.FORM_VALUE)


class Socket:
    """One peer's connection."""

    def __init__(
        self, context: zmq.Context[Any], address: str, peer: str, spoken: set[Socket]
    ) -> None:
        self.peer = peer
        self._spoken = spoken
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, peer.encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(address)
        self.descriptor: int = self._socket.getsockopt(zmq.FD)

    def say(self, message: messages.ToBroker, payload_frames: Any = ()) -> None:
        """Send a message and its frames."""
        self._spoken.add(self)
        self._socket.send_multipart([messages.encode(message), *payload_frames])

    def heard(self) -> list[bytes] | None:
        """Return the next message, or None where there is none now."""
        try:
            parts: list[bytes] = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return parts

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Link:
    """Another machine: its host and its workers speak by one connection, with keys."""

    def __init__(self, context: zmq.Context[Any], invitation: Invitation, cpu: int) -> None:
        to = rendezvous.Connection(invitation.address, 0, "", "", "", keys=invitation)
        self.host = f"ho-{invitation.name}-0"
        self._cpu = cpu
        self._far = Far(context, to, messages.Hello("link", f"li-{invitation.name}"))
        self.descriptors = [
            int(source.getsockopt(zmq.FD)) for source in (self._far.socket, self._far.monitor)
        ]

    def say(self, peer: str, message: messages.ToBroker, payload_frames: Any = ()) -> None:
        """Say what somebody says there."""
        self._far.send([peer.encode(), messages.encode(message), *payload_frames])

    def heard(self) -> Iterator[tuple[str, bytes]]:
        """Yield who is told what."""
        list(self._far.changes())
        with contextlib.suppress(zmq.Again):
            while True:
                said = self._far.taken(self._far.socket.recv_multipart(zmq.NOBLOCK))
                if len(said) == 1:
                    resources = HostResources(float(self._cpu), 1 << 20)
                    self.say(self.host, messages.Hello("host", self.host, resources=resources))
                elif said:
                    yield bytes(said[0]).decode(), said[1]

    def close(self) -> None:
        """Hang up."""
        self._far.close(0)


class Load:
    """A client, hosts and their workers, at one broker."""

    def __init__(self, address: str, machine: str) -> None:
        self._address = address
        self._machine = machine
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, int(self._context.get(zmq.SOCKET_LIMIT)))
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Socket] = {}
        self._spoken: set[Socket] = set()
        """Who has said something: that may have taken the sign that there is something to hear."""
        self.client = self._dial("cl-scale")
        self._host: Socket | None = None
        self._links: list[Link] = []
        self.workers = 0
        self.leases = 0
        self.results = 0
        self._hello(self.client, "client")

    def add_host(self, cpu: int) -> None:
        """Be a host of so many cores."""
        self._host = self._dial("ho-scale")
        self._hello(self._host, "host", resources=HostResources(float(cpu), 1 << 20))

    def add_link(self, invitation: Invitation, cpu: int) -> None:
        """Be a machine of so many cores elsewhere."""
        self._links.append(link := Link(self._context, invitation, cpu))
        for descriptor in link.descriptors:
            self._epoll.register(descriptor, select.EPOLLIN)

    def define(self, pool: str, most: int, least: int = 0) -> None:
        """Make a function known whose pool has at least and at most so many workers."""
        stored = []
        for content in (b"the code", b"the environment"):
            digest = digest_of(content)
            self.client.say(messages.StoreObject(digest), [content])
            stored.append(digest)
        spec = FunctionSpec(
            PoolId(pool),
            FunctionKey(f"scale/app/{pool}"),
            "f",
            "__main__",
            Digest(f"version of {pool}"),
            code=stored[0],
            environment=stored[1],
            resources=Resources(cpu=1.0),
            settings=PoolSettings(min_containers=least, max_containers=most),
        )
        self.client.say(messages.Define(spec))

    def submit(self, call: str, pool: str, inputs: int, batch_size: int = MAP_BATCH) -> int:
        """Submit a call of so many ints; return the bytes of its payload."""
        size = 0
        for start in range(0, inputs, batch_size):
            count = min(batch_size, inputs - start)
            batch = payload.encode_batch(
                [(i,) for i in range(start, start + count)], frames.FORM_ARGS
            )
            size += sum(map(len, batch))
            if start:
                self.client.say(messages.AddInputs(CallId(call), start, count), batch)
            else:
                submit = messages.Submit(
                    CallId(call), PoolId(pool), attached=True, count=count, closed=False
                )
                self.client.say(submit, batch)
            self._turn(0.0)
        self.client.say(messages.CloseInputs(CallId(call), inputs))
        return size

    def run_until(self, workers: int = 0, results: int = 0) -> None:
        """Answer what comes until so many workers are there and so many results have come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.workers < workers or self.results < results:
            if time.monotonic() > end:
                text = f"{self.workers} workers and {self.results} results in {PATIENCE_SECONDS} s"
                raise RuntimeError(text)
            self._turn(1.0)

    def close(self) -> None:
        """Hang up everywhere."""
        for socket in self._by_descriptor.values():
            socket.close()
        for link in self._links:
            link.close()
        self._epoll.close()
        self._context.term()

    def _dial(self, peer: str) -> Socket:
        socket = Socket(self._context, self._address, peer, self._spoken)
        self._by_descriptor[socket.descriptor] = socket
        self._epoll.register(socket.descriptor, select.EPOLLIN)
        return socket

    def _hello(
        self, socket: Socket, role: Literal["client", "host", "worker"], **fields: Any
    ) -> None:
        machine = "" if role == "worker" else self._machine
        socket.say(messages.Hello(role, socket.peer, pid=0, machine=machine, **fields))

    def _turn(self, seconds: float) -> None:
        while self._spoken:
            self._hear_out(self._spoken.pop())
        for descriptor, _ in self._epoll.poll(
            min(seconds, LINKS_SECONDS) if self._links else seconds
        ):
            if descriptor in self._by_descriptor:
                self._hear_out(self._by_descriptor[descriptor])
        for link in self._links:
            for peer, header in link.heard():
                self._take_there(link, peer, header)

    def _hear_out(self, socket: Socket) -> None:
        while (parts := socket.heard()) is not None:
            self._take(socket, parts)

    def _take(self, socket: Socket, parts: list[bytes]) -> None:
        if socket is self.client:
            message: object = messages.decode_at_client(parts[0])
            if isinstance(message, messages.Results):
                self.results += message.count
            elif isinstance(message, messages.Rejected | messages.Refused | messages.Failure):
                raise RuntimeError(message)
        elif socket is self._host:
            message = messages.decode_at_host(parts[0])
            if isinstance(message, messages.StartWorker):
                socket.say(messages.WorkerStarted(message.worker, os.getpid(), "forked"))
                self._hello(self._dial(message.worker), "worker")
                self.workers += 1
        else:
            self._work(parts[0], socket.say)

    def _take_there(self, link: Link, peer: str, header: bytes) -> None:
        if peer == link.host:
            message = messages.decode_at_host(header)
            if isinstance(message, messages.StartWorker):
                link.say(peer, messages.WorkerStarted(message.worker, os.getpid(), "forked"))
                link.say(message.worker, messages.Hello("worker", message.worker))
                self.workers += 1
        else:
            self._work(header, partial(link.say, peer))

    def _work(self, header: bytes, say: Callable[..., None]) -> None:
        message = messages.decode_at_worker(header)
        if isinstance(message, messages.Lease):
            self.leases += 1
            count = message.stop - message.start
            answer = ANSWER if count == 1 else _answer(count)
            seconds = LEASE_SECONDS * count
            say(messages.Done(message.lease, message.start, count, seconds), answer)
        elif isinstance(message, messages.Refused):
            raise RuntimeError(message.reason)  # noqa: TRY004  the broker has said so


def _answer(count: int) -> list[Any]:
    return payload.encode_batch([0] * count, frames.FORM_VALUE)


class AloneBroker:
    """A broker without a host agent, in a directory of its own."""

    def __init__(self, files: int = 0, *, listens: bool = False) -> None:
        """Start it.

        Args:
            files: how many it may have open, if that is not what we may.
            listens: for other machines; nothing asks for their leases here, which are long.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="nbx-"))
        environment = isolated_environment(self._directory)
        if listens:
            environment["NOTEBOOK_EXT_LISTEN"] = "tcp://127.0.0.1:0"
            environment["NOTEBOOK_EXT_HOST_LEASE"] = str(PATIENCE_SECONDS)
        configured = settings.load(environ=environment, start="/")
        answer, ready = os.pipe()
        command = [sys.executable, "-m", "kernel_worker.broker", "--no-host", "--ready-fd"]
        log = (self._directory / "log").open("wb")
        with subprocess.Popen(
            [*command, str(ready)],
            env={**environment, **settings.as_environment(configured)},
            pass_fds=[ready],
            stderr=log,
            start_new_session=True,
        ):
            os.close(ready)
        os.read(answer, 16)
        os.close(answer)
        log.close()
        found = rendezvous.find(configured)
        if found is None:
            raise RuntimeError((self._directory / "log").read_text())
        self.address, self.machine, self._door = found.address, found.machine, found.door
        self._keys = Keys(rendezvous.journal_path(configured).parent)
        self._process = psutil.Process(found.pid)
        if files:
            resource.prlimit(found.pid, resource.RLIMIT_NOFILE, (files, files))

    def invite(self, name: str) -> Invitation:
        """Return what a machine needs that is to be a host."""
        return self._keys.invite(name, self._door, "host")

    @property
    def cpu_seconds(self) -> float:
        """The CPU time that it has used."""
        spent = self._process.cpu_times()
        return float(spent.user + spent.system)

    @property
    def resident_bytes(self) -> int:
        """Its memory."""
        return int(self._process.memory_info().rss)

    @property
    def open_files(self) -> int:
        """How many descriptors it has."""
        return int(self._process.num_fds())

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return (self._directory / "log").read_text(errors="replace").strip()[-500:]

    def end(self) -> None:
        """End it, and remove its directory."""
        sweep(set())
        shutil.rmtree(self._directory, ignore_errors=True)


def allow_files(workers: int) -> None:
    """Let this process have the descriptors that so many connections need, or say that it may not.

    Raises:
        SystemExit: the system forbids it.
    """
    wanted = FILES_A_WORKER * workers + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, wanted)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        sys.exit(f"{workers} connections need {wanted} open files here: {error}")


def dispatch(workers: int, leases: int, files: int = 0, links: int = 0) -> dict[str, float]:
    """Return what a lease costs a broker that has so many workers.

    Args:
        workers: how many there are.
        leases: how many inputs they are given.
        files: how many the broker may have open; 0: what we may.
        links: on how many other machines they are, by TCP; 0: on the broker's.

    Raises:
        RuntimeError: something gave way; the message says what was there, and the broker's log.
    """
    allow_files(workers)
    broker = AloneBroker(files, listens=links > 0)
    load = Load(broker.address, broker.machine)
    try:
        began = time.monotonic()
        for at in range(links):
            load.add_link(broker.invite(f"machine{at}"), -(-workers // links))
        if not links:
            load.add_host(workers)
        load.define("po-scale", workers, workers)
        load.submit("fc-warm", "po-scale", WARM_INPUTS * workers)
        load.run_until(workers=workers, results=WARM_INPUTS * workers)
        there = time.monotonic() - began
        before, leases_before, began = broker.cpu_seconds, load.leases, time.monotonic()
        load.submit("fc-scale", "po-scale", leases)
        load.run_until(results=WARM_INPUTS * workers + leases)
        seconds = time.monotonic() - began
        given = load.leases - leases_before
        return {
            "workers": workers,
            "other_machines": links,
            "ready_seconds": there,
            "leases": given,
            "inputs_a_lease": leases / given,
            "cpu_us_a_lease": (broker.cpu_seconds - before) / given * 1e6,
            "leases_per_second": given / seconds,
            "broker_mb": broker.resident_bytes / 1e6,
            "broker_files": broker.open_files,
        }
    except (RuntimeError, zmq.ZMQError) as error:
        said = f"{error}; {broker.open_files} files; its log ends:\n{broker.last_words}"
        raise RuntimeError(said) from error
    finally:
        load.close()
        broker.end()


def pending(inputs: int) -> dict[str, float]:
    """Return what inputs that wait cost a broker that nobody works for."""
    broker = AloneBroker()
    load = Load(broker.address, broker.machine)
    try:
        load.define("po-scale", 1)
        load.submit("fc-few", "po-scale", WAITING_BATCH, WAITING_BATCH)
        _rest(broker)
        before = broker.resident_bytes
        size = load.submit("fc-scale", "po-scale", inputs, WAITING_BATCH)
        _rest(broker)
        grown = broker.resident_bytes - before
        return {
            "pending": inputs,
            "payload_bytes_an_input": size / inputs,
            "bytes_an_input": (grown - size) / inputs,
            "broker_mb": broker.resident_bytes / 1e6,
        }
    finally:
        load.close()
        broker.end()


def _rest(broker: AloneBroker) -> None:
    """Wait until the broker has taken in all that was sent: it uses no CPU time any more."""
    spent = -1.0
    while spent != (spent := broker.cpu_seconds):
        time.sleep(0.5)


def main() -> None:
    """Measure, print, write the JSON; the exit status is 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--leases", type=int, default=20_000)
    parser.add_argument("--inputs", type=int, default=10_000_000, help="that wait; 0: leave out")
    parser.add_argument(
        "--links", type=int, default=0, help="workers are on so many machines, by TCP"
    )
    parser.add_argument("--files", type=int, default=0, help="that the broker may have open")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "scale.json")
    options = parser.parse_args()
    become_subreaper()
    found: dict[str, Any] = {"dispatch": [], "pending": None}
    for workers in options.workers:
        row = dispatch(workers, options.leases, options.files, options.links)
        found["dispatch"].append(row)
        print("  ".join(f"{name.replace('_', ' ')} {value:,.2f}" for name, value in row.items()))
    waiting = found["pending"] = pending(options.inputs) if options.inputs else {}
    print("  ".join(f"{name.replace('_', ' ')} {value:,.2f}" for name, value in waiting.items()))
    costs = [row["cpu_us_a_lease"] for row in found["dispatch"]]
    found["most_of_least_workers"] = costs[-1] / costs[0]
    print(f"a lease costs {costs[-1] / costs[0]:.2f} times as much with the most workers")
    options.json.write_text(json.dumps(found, indent=1) + "\n")
    is_cheap = waiting.get("bytes_an_input", 0.0) <= LIMIT_BYTES
    sys.exit(costs[-1] > LIMIT_RATIO * costs[0] or not is_cheap)


if __name__ == "__main__":
    main()
