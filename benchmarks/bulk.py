"""`python -m benchmarks.bulk`: what goes between machines, out of network namespaces where root is.

Blobs of 1 GB over the sealed connection, each way in turn, beside CURVE in the same run (a part of
it); the processes share nothing but the network. Whoever receives writes into memory that is new to
it: how fast that alone is there is measured before each blob. Then a broker with hosts on other
machines: a map of no-ops there as a part of the same on the broker's own machine, and an argument
of 1 GB to four hosts, with what the broker's memory grew by meanwhile. As JSON, and printed beside
the goals.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

import psutil
import zmq

from benchmarks.processes import ROOT, become_subreaper, sweep
from kernel_worker.broker.bulk import UP, Dialler, Exchange, Listener
from kernel_worker.wire import bulk
from tests.network import Network, why_not

MB: Final = 1_000_000
PORT: Final = 9465
CURVE_MB: Final = 128
PATIENCE_SECONDS: Final = 300
"""An end that takes longer says where it hangs, and ends."""
GOALS: Final = {
    "sealed, to the host, GB/s": 0.5,
    "sealed, from the host, GB/s": 0.5,
    "no-op map over TCP, of the local one": 0.5,
}
CALLS: Final = """
import json, os, sys, time
import numpy as np
import notebook_ext as nb
from kernel_worker import context

app = nb.App("bulk")

@app.function(gpu=0.01, cpu=1, max_containers=2)
def there(x):
    return x

@app.function(min_containers=2, max_containers=2)
def here(x):
    return x

@app.function(gpu=1)
def size(array):
    time.sleep(0.5)
    return len(array), context.worker_identity.connection_file.split("/")[-2]

def rate(function, count=200_000):
    began = time.perf_counter()
    assert sum(1 for _ in function.map(range(count))) == count
    return count / (time.perf_counter() - began)

list(here.map(range(1000)))  # its workers are there before there is another machine
print("ready", flush=True)
for line in sys.stdin:
    what, number = line.split()
    if what == "end":
        break
    if what == "map":
        list(there.map(range(1000))), list(here.map(range(1000)))
        rates = [(rate(here), rate(there)) for _ in range(int(number))]
        print(json.dumps(rates), flush=True)
    else:
        array = np.ones(int(number) // 8)
        list(size.map([np.ones(2)] * 8))
        began = time.perf_counter()
        found = list(size.map([array] * 4))
        took = time.perf_counter() - began
        print(json.dumps([took - 0.5, sorted({where for _, where in found})]), flush=True)
"""


class Machines:
    """Machines out of namespaces; without root, this one for all of them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Lay the cables."""
        self.why_not = why_not()
        names = ("head", *(f"box{at}" for at in range(4)))
        self._network = None if self.why_not else stack.enter_context(Network(*names))

    def on(self, name: str) -> list[str]:
        """Return what a command begins with there."""
        return [] if self._network is None else self._network.on(name)

    @property
    def address(self) -> str:
        """Where the broker's machine is."""
        return "127.0.0.1" if self._network is None else self._network.addresses["head"]


def started(on: list[str], *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start a process of ours on a machine."""
    return subprocess.Popen(
        [*on, sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process says."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"{process.args!r}: ended with {process.wait()}")
    return line.strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Say a line to a process."""
    if process.stdin is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()


# ---- one blob -----------------------------------------------------------------------------------

SESSION, SECRET = bytes(16), bytes(32)


def wire(machines: Machines, size_mb: int, rounds: int, figures: dict[str, list[float]]) -> None:
    """Measure the two connections alone."""
    keys = json.dumps([key.decode() for key in zmq.curve_keypair()])
    words = ["-m", "benchmarks.bulk", "--end"]
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(
            started(machines.on("head"), *words, "head", machines.address, keys)
        )
        port = said(head)
        place = machines.on("box0")
        box = stack.enter_context(started(place, *words, f"box:{port}", machines.address, keys))
        for _ in range(rounds):
            for sender, receiver, way in ((head, box, "to"), (box, head, "from")):
                tell(receiver, f"receive {size_mb}")
                tell(sender, f"send {size_mb}")
                sent, received = (json.loads(said(each)) for each in (sender, receiver))
                name, gb = f"sealed, {way} the host", size_mb / 1000
                for key, value in (
                    (f"{name}, GB/s", gb / sent["seconds"]),
                    (f"{name}: CPU of who sends, s/GB", sent["cpu_seconds"] / gb),
                    (f"{name}: CPU of who receives, s/GB", received["cpu_seconds"] / gb),
                    ("memory that is new there, GB/s", received["new_memory"]),
                ):
                    figures.setdefault(key, []).append(value)
        for each in (head, box):
            tell(each, f"curve {CURVE_MB}")
        figures.setdefault("CURVE, MB/s", []).append(CURVE_MB / float(said(head)))
        for each in (head, box):
            tell(each, "end 0")


def end(which: str, address: str, keys: str) -> None:
    """Be one end; do what is said."""
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    which, _, port = which.partition(":")
    exchange = Exchange(SESSION, SECRET)
    if which == "head":
        with tempfile.TemporaryDirectory() as directory:  # nobody dials that one
            listener = Listener(f"tcp://{address}:{PORT}", Path(directory) / "bulk.sock")
        listener.add(exchange)
        print(listener.port, flush=True)
    else:
        Dialler(exchange, (address, int(port)))
    await_news(exchange, UP)
    public, secret = json.loads(keys)
    for number, line in enumerate(sys.stdin, 1):
        what, size = line.split()
        began, cpu_began = time.perf_counter(), time.process_time()
        if what == "send":
            blob = os.urandom(MB) * int(size)
            began, cpu_began = time.perf_counter(), time.process_time()
            exchange.send(number, blob)
            await_news(exchange, number)
            told: dict[str, float] = {"seconds": time.perf_counter() - began}
        elif what == "receive":
            told = {"new_memory": new_memory(int(size))}
            cpu_began = time.process_time()
            exchange.let_go(whole(exchange, int(size) * MB))
        elif what == "curve":
            curve(which, address, (public.encode(), secret.encode()), int(size))
            continue
        else:
            return
        told["cpu_seconds"] = time.process_time() - cpu_began
        print(json.dumps(told), flush=True)


def new_memory(size_mb: int) -> float:
    """Return how many GB/s a process writes into memory that is as new as a blob's."""
    receiving, piece = bulk.Receiving(math.inf), bytes(MB)
    receiving.begin(1, size_mb * MB)
    began = time.perf_counter()
    for at in range(0, size_mb * MB, MB):
        head = bulk.Head(bulk.DATA, 1, at, MB)
        if (place := receiving.place(head)) is not None:
            place[:MB] = piece
        receiving.filled(head)
    return size_mb / 1000 / (time.perf_counter() - began)


def await_news(exchange: Exchange, news: int | str) -> None:
    """Wait until it is heard."""
    while news not in exchange.news():
        select.select([exchange.fileno()], [], [])


def whole(exchange: Exchange, size_bytes: int) -> int:
    """Return the number of the blob that has come."""
    while True:
        for number, filled in dict(exchange._receiving._filled).items():  # noqa: SLF001  no message names it
            if filled == size_bytes:
                return number
        time.sleep(0.01)


def curve(which: str, address: str, keys: tuple[bytes, bytes], size_mb: int) -> None:
    """Move bytes by CURVE, in pieces, and print how long that took."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as link:
        link.linger = -1
        link.curve_publickey, link.curve_secretkey = keys
        if which == "head":
            link.curve_server = True
            link.bind(f"tcp://{address}:{PORT}")
            piece = os.urandom(MB)
            began = time.perf_counter()
            for _ in range(size_mb):
                link.send(piece, copy=False)
            link.recv()
            print(time.perf_counter() - began, flush=True)
        else:
            link.curve_serverkey = keys[0]
            link.connect(f"tcp://{address}:{PORT}")
            for _ in range(size_mb):
                link.recv(copy=False)
            link.send(b"all")


# ---- a broker and hosts -------------------------------------------------------------------------


class Site:
    """A broker on one machine, and hosts on others."""

    def __init__(self, machines: Machines, base: Path) -> None:
        """Start the broker."""
        self._machines, self._base = machines, base
        self._environment = self._of("head")
        self.runtime_dir = self._environment["NOTEBOOK_EXT_RUNTIME_DIR"]
        self._door = f"tcp://{machines.address}:{PORT}"
        self.types("broker", "start", "--listen", self._door)

    def _of(self, name: str) -> dict[str, str]:
        home = self._base / name
        home.mkdir()
        return os.environ | {
            "HOME": str(home),
            "NOTEBOOK_EXT_RUNTIME_DIR": str(home / "r"),
            "NOTEBOOK_EXT_DATA_DIR": str(home / "d"),
        }

    def types(self, *words: str, into: IO[str] | None = None) -> str:
        """Type a command on the broker's machine."""
        command = [*self._machines.on("head"), sys.executable, "-m", "notebook_ext", *words]
        return str(
            subprocess.run(
                command,
                env=self._environment,
                stdout=into or subprocess.PIPE,
                text=True,
                check=True,
                cwd=ROOT,
            ).stdout
        )

    def hosts(self, count: int, stack: contextlib.ExitStack) -> None:
        """Start so many hosts."""
        for at in range(count):
            file = self._base / f"box{at}.json"
            with file.open("w") as into:
                file.chmod(0o600)
                self.types("broker", "invite", "--host", f"box{at}", into=into)
            words = ["-m", "notebook_ext", "host", "start", "--connect", str(file)]
            words += ["--name", f"box{at}", "--gpus", "0:H200", "--cpus", "2"]
            environment = self._of(f"box{at}")
            log = stack.enter_context((self._base / f"box{at}.log").open("w"))
            host = started(self._machines.on(f"box{at}"), *words, env=environment, stderr=log)
            stack.callback(host.wait)
            stack.callback(host.terminate)
            while f"ho-box{at}-" not in self.types("status"):
                time.sleep(0.2)

    def notebook(self) -> subprocess.Popen[str]:
        """Start who calls."""
        return started(self._machines.on("head"), "-c", CALLS, env=self._environment)


class Growth:
    """How much the broker's own memory grew at most, by a look every 5 ms."""

    def __init__(self, runtime_dir: str) -> None:
        """Look from now on at the broker that has its socket there."""
        self._paths = [
            Path(f"/proc/{each.pid}/status")
            for each in psutil.process_iter(["cmdline", "environ"])
            if "kernel_worker.broker" in (each.info["cmdline"] or ())
            and (each.info["environ"] or {}).get("NOTEBOOK_EXT_RUNTIME_DIR") == runtime_dir
        ]
        self._before = self._now()
        self.most_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _now(self) -> int:
        lines = "".join(path.read_text() for path in self._paths).splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def _look(self) -> None:
        while not self._is_over.wait(0.005):
            self.most_bytes = max(self.most_bytes, self._now() - self._before)

    def end(self) -> int:
        """Return it, in bytes."""
        self._is_over.set()
        self._thread.join()
        return self.most_bytes


def maps(machines: Machines, rounds: int, figures: dict[str, list[float]]) -> None:
    """Measure maps by a broker."""
    with tempfile.TemporaryDirectory(prefix="nbb") as directory, contextlib.ExitStack() as stack:
        made = Site(machines, Path(directory))
        stack.callback(made.types, "broker", "stop")
        with made.notebook() as notebook:
            said(notebook)
            made.hosts(1, stack)
            tell(notebook, f"map {rounds}")
            rates = json.loads(said(notebook))
            ratios = [there / here for here, there in rates]
            figures["no-op map over TCP, of the local one"] = ratios
            figures["no-op map over TCP, /s"] = [there for _, there in rates]
            tell(notebook, "end 0")


def argument(machines: Machines, size_mb: int, hosts: int, figures: dict[str, list[float]]) -> None:
    """Measure a large argument that goes to several hosts."""
    with tempfile.TemporaryDirectory(prefix="nbb") as directory, contextlib.ExitStack() as stack:
        made = Site(machines, Path(directory))
        stack.callback(made.types, "broker", "stop")
        made.hosts(hosts, stack)
        with made.notebook() as notebook:
            said(notebook)
            growth = Growth(made.runtime_dir)
            tell(notebook, f"argument {size_mb * MB}")
            seconds, places = json.loads(said(notebook))
            grown = growth.end()
            name = f"{size_mb} MB to {len(places)} hosts"
            figures[f"{name}, s"] = [seconds]
            figures[f"{name}: broker's memory, MB more"] = [grown / MB]
            tell(notebook, "end 0")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hosts", type=int, default=4, help="that the argument goes to")
    parser.add_argument("--only", choices=("wire", "map", "argument"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--end", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        end(*options.end)
        return
    become_subreaper()
    figures: dict[str, list[float]] = {}
    print(f"load {os.getloadavg()[0]:.1f}")
    try:
        with contextlib.ExitStack() as stack:
            machines = Machines(stack)
            print(machines.why_not or "five machines out of namespaces")
            if options.only in {None, "wire"}:
                wire(machines, options.size, options.rounds, figures)
            if options.only in {None, "map"}:
                maps(machines, options.rounds, figures)
            if options.only in {None, "argument"}:
                argument(machines, options.size, options.hosts, figures)
    finally:
        sweep(set())
    for name, found in figures.items():
        goal = f"   (goal: at least {GOALS[name]})" if name in GOALS else ""
        rounds = ", ".join(f"{each:.4g}" for each in found)
        print(f"{name:50} {statistics.median(found):8.4g}{goal}   rounds: {rounds}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
