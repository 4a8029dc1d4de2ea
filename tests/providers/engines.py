"""Engines for the conformance suite: each has 2 GPUs, which are declared, on 2 machines or on one.

The real thing: `ray start` on three nodes, a Dask scheduler with two workers, Slurm's daemons for
two machines, started as anybody would, ended with all that they started. `local` is this machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kernel_worker.providers.target import Target, parse
from tests.waiting import PATIENCE, wait_until

BIN = Path(sys.executable).parent
Refusing = Callable[[], Any]


class Engine:
    """One engine that runs: its address, and how its agent's process finds it."""

    def __init__(self, address: str, variables: dict[str, str]) -> None:
        self.address = address
        self.variables = variables

    def target(self, **options: object) -> Target:
        return parse(self.address, {"gpus": "H200:2", **options})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def local(_home: Path) -> Iterator[Engine]:
    yield Engine("local://?cpus=4", {})


@contextmanager
def dask(home: Path) -> Iterator[Engine]:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    log = (home / "dask.log").open("wb")
    quiet = {"DASK_DISTRIBUTED__DASHBOARD__LINK": "", "DASK_TEMPORARY_DIRECTORY": str(home)}
    processes = [
        _start(
            [BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
            log,
            quiet,
        )
    ]
    worker = [BIN / "dask", "worker", address, "--nthreads", "2", "--no-dashboard", "--no-nanny"]
    processes += [
        _start(
            [*worker, "--resources", "GPU=1"],
            log,
            quiet | {"NOTEBOOK_EXT_DEVICE_LOCKS": str(home / f"locks{count}")},
        )
        for count in range(2)
    ]
    try:
        wait_until(lambda: _answers(port), 60, "the scheduler listens")
        wait_until(
            lambda: (home / "dask.log").read_text().count("Registered to") == 2,
            60,
            "both workers are there",
        )
        yield Engine(f"dask://127.0.0.1:{port}", quiet)
    finally:
        _end(processes)
        log.close()


@contextmanager
def ray(home: Path) -> Iterator[Engine]:
    """Three nodes: a head with no GPU, and two with one each, of different indices."""
    with _ray(home) as (variables, _):
        yield Engine("ray://auto", variables)


@contextmanager
def ray_client(home: Path) -> Iterator[Engine]:
    """The same, by the head's client server."""
    with _ray(home) as (variables, port):
        yield Engine(f"ray://127.0.0.1:{port}", variables)


@contextmanager
def _ray(home: Path) -> Iterator[tuple[dict[str, str], int]]:
    port, client_port = free_port(), free_port()
    variables = {
        "HOME": str(home),  # it writes a token there
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    # Jupyter's jsonschema has it, where it takes 5 s of each import of Ray: too long for its nodes.
    (home / "without").mkdir()
    (home / "without" / "rfc3987_syntax.py").write_text("raise ImportError")
    (home / "without" / "sitecustomize.py").write_text(_DYING.format(home=home))
    variables["PYTHONPATH"] = f"{home / 'without'}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    log = (home / "ray.log").open("wb")
    short = tempfile.mkdtemp(prefix="nbr-", dir="/tmp")  # sockets lie there
    # Ports that are given: a node waits 15 s for its agent to choose them, and crashes then.
    chosen = (
        "dashboard-agent-grpc",
        "dashboard-agent-listen",
        "metrics-export",
        "runtime-env-agent",
    )

    def ports() -> list[Any]:
        return [word for name in chosen for word in (f"--{name}-port", free_port())]

    common = ["--disable-usage-stats", "--block", "--object-store-memory", "80000000"]
    start = [BIN / "ray", "start", *common]
    head = ["--head", "--port", port, "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    head += ["--include-dashboard", "false", "--temp-dir", short]
    head += ["--ray-client-server-port", client_port, "--num-gpus", "0"]
    processes = [_start([*start, *head, *ports()], log, variables)]

    def started() -> int:
        said = (home / "ray.log").read_text()
        assert all(process.poll() is None for process in processes), said[-2_000:]
        return said.count("Ray runtime started")

    try:
        for count in (1, 2, 3):
            wait_until(lambda: started() == count, 90, f"node {count} is there")  # noqa: B023
            if count < 3:  # one after the other: a node asks the head's
                more = ["--address", f"127.0.0.1:{port}", "--num-cpus", "2", "--num-gpus", "1"]
                own = variables | {"CUDA_VISIBLE_DEVICES": str(count)}
                processes.append(_start([*start, *more, *ports()], log, own))
        wait_until(lambda: _answers(client_port), 60, "the client server listens")
        yield variables, client_port
    finally:
        _end(processes)
        log.close()
        shutil.rmtree(short, ignore_errors=True)


_DYING = """
import os, sys

if "--mode=specific-server" in sys.orig_argv and os.path.exists("{home}/dying"):
    with open("{home}/dying", "r+") as file:
        left = int(file.read())
        file.seek(0)
        file.write(str(max(0, left - 1)))
    if left:
        os._exit(3)
"""
"""So many of the processes that the client server starts for drivers die at once."""


@contextmanager
def slurm(home: Path) -> Iterator[Engine]:
    """Two machines: one of 3 CPUs with both GPUs, one of a CPU; munge lets them know each other."""
    for name in (0, 1):
        os.mknod(home / f"nvidia{name}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null is
    conf, runtime = home / "slurm.conf", os.environ["NOTEBOOK_EXT_RUNTIME_DIR"]
    ports = [free_port() for _ in range(3)]
    conf.write_text(_SLURM_CONF.format(home=home, host=os.uname().nodename, ports=ports))
    (home / "gres.conf").write_text(f"NodeName=n1 Name=gpu Type=h200 File={home}/nvidia[0-1]\n")
    (home / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    (home / "state").mkdir()
    (home / "munge.key").write_bytes(os.urandom(128))
    (home / "munge.key").chmod(0o400)
    files = [f"--{name}-file={home}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    variables = {"SLURM_CONF": str(conf)}
    worker_init = quote(f"export NOTEBOOK_EXT_RUNTIME_DIR={runtime}")
    log = (home / "slurm.log").open("wb")
    munge = ["munged", "--foreground", "--force", f"--socket={home}/munge.socket", *files]
    processes = [_start(munge, log, {})]
    try:
        wait_until((home / "munge.socket").exists, 20, "munge listens")
        processes.append(_start(["slurmctld", "-D"], log, variables))
        processes += [_start(["slurmd", "-D", "-N", node], log, variables) for node in _NODES]
        wait_until(lambda: _slurm(variables, "sinfo", "-h", "-o%T") == "idle", 60, "both are idle")
        yield Engine(f"slurm://gpu?worker_init={worker_init}", variables)
        _slurm(variables, "scancel", "--user=root")
        wait_until(lambda: not _slurm(variables, "squeue", "-h"), 60, "no job is left")
    finally:
        _end(processes)
        log.close()


_NODES = ("n1", "n2")
_SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
GresTypes=gpu
NodeName=DEFAULT RealMemory=500
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=3 Gres=gpu:h200:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=gpu Nodes=ALL Default=YES
"""

ENGINES = {"local": local, "ray": ray, "ray-client": ray_client, "dask": dask, "slurm": slurm}


def skip_without(engine: str) -> None:
    """Skip a test whose engine is not installed here."""
    if engine == "slurm":
        pytest.importorskip("parsl")
        missing = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]
        if missing or os.geteuid():
            pytest.skip(f"Slurm needs root and, here, {', '.join(missing) or 'nothing more'}")
    elif engine != "local":
        pytest.importorskip({"dask": "distributed", "ray-client": "ray"}.get(engine, engine))


def _slurm(variables: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=os.environ | variables
    )
    return done.stdout.strip() or done.stderr.strip()


def _start(command: list[Any], log: Any, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | variables,
        start_new_session=True,
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End each, and what it has started: they lead sessions of their own.

    One after the other, and what others depend on last: a Dask worker that is told to end while it
    does, since its scheduler has, never does.
    """
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
