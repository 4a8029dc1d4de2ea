"""Hosts on the machines of a Ray cluster: each is the child of a detached, named actor.

Ray accounts for the actor's CPUs, GPUs and memory, places it when they are free (its autoscaler
sees it wait), and says which devices it may use. Its name is the host's, so that asking twice gives
one, and a later agent finds it. The actor never restarts: what is lost is requested anew, by
another name.

Ray wants the same version of Ray and of Python on both sides. Where they differ the agent has to
run on a machine of the cluster, in its Python.

A head that does not answer is connected to anew; where it has lost its memory, all its hosts are
gone: its machines leave it too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import ray
import ray.exceptions
import ray.util

from kernel_worker.errors import ConnectionError, Error, VersionError  # noqa: A004  ours
from kernel_worker.model import Device, HostResources
from kernel_worker.providers.node import KILL_SECONDS, HostProcess
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kernel_worker.providers.target import Target

_PORT: Final = 10001
_MIB: Final = 1 << 20
_GET_SECONDS: Final = 5.0
_TRIES: Final = 2
_PAUSE_SECONDS: Final = 1.0
_GRACE: Final = ("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "5")
"""How many seconds a client server waits for a driver whose connection was lost; and, after the 30
that it waits for its process, for one whose process has not come up. With Ray's own 30 seconds two
tries would take longer than whoever connects waits."""
_KIND: Final = "accelerator_type:"
_log = logging.getLogger(__name__)


class RayHost:
    """On the machine that Ray has chosen: the actor that has a host as its child."""

    def __init__(self, spec: HostSpec, invitation: bytes) -> None:
        """Start the host."""
        context = ray.get_runtime_context()
        self._spec = spec
        self._node = context.get_node_id()
        found = context.get_accelerator_ids().get("GPU", [])
        self._process = HostProcess(spec, invitation, [str(index) for index in found])

    def placed(self) -> tuple[HostSpec, str, tuple[str, ...]]:
        """Return what it is, on which machine, and its devices."""
        return self._spec, self._node, self._process.devices

    def ended(self) -> str:
        """Wait for the host's end; return how it ended."""
        return self._process.wait()

    def stop(self, grace_seconds: float) -> None:
        """End the host."""
        self._process.stop(grace_seconds)


class _Known:
    """A host, and what Ray was asked about it."""

    def __init__(self, handle: Any, spec: HostSpec | None) -> None:
        self.handle = handle
        self.placed = handle.placed.remote()
        self.ended = handle.ended.remote()
        self.sight = Sight(spec or HostSpec("", 1), Phase.PENDING)
        self.is_forgotten = False
        """Whether Ray does not know it any more."""


class RayProvider:
    """One Ray cluster."""

    def __init__(self, target: Target, _directory: Path, prefix: str, invitation: bytes) -> None:
        """Connect to it, and find the hosts that are there already.

        Raises:
            ConnectionError: there is no cluster at that address.
            VersionError: it has another Ray, or another Python.
        """
        self._target = target
        self._namespace = f"notebook-ext-{prefix}"
        self._invitation = invitation
        self._hosts: dict[str, _Known] = {}
        self._is_lost = False
        self._connect()

    def shapes(self) -> tuple[HostResources, ...]:
        """Return what the cluster's machines have; where a limit was given, it is believed."""
        with self._answering():
            return self._shapes()

    def request(self, spec: HostSpec) -> None:
        """Have a host placed."""
        if spec.name in self._hosts:
            return
        memory = {"memory": spec.memory_mib * _MIB} if spec.memory_mib else {}
        with self._answering():
            handle = self._actor.options(
                name=spec.name,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=0,
                max_concurrency=4,
                num_cpus=spec.cpus,
                num_gpus=spec.gpus,
                **memory,
            ).remote(spec, self._invitation)
            self._hosts[spec.name] = _Known(handle, spec)

    def look(self) -> Mapping[str, Sight]:
        """Return how each host stands."""
        with self._answering():
            alive = {node["NodeID"] for node in _nodes()}
            for known in self._hosts.values():
                if known.sight.phase is Phase.PENDING:
                    self._look_at_pending(known)
                if known.sight.phase is Phase.RUNNING:
                    self._look_at_running(known, alive)
        return {name: known.sight for name, known in self._hosts.items()}

    def release(self, name: str, grace_seconds: float) -> None:
        """End a host, or forget one that has ended."""
        if name not in self._hosts:
            return
        with self._answering():
            known = self._hosts[name]
            is_there = known.sight.phase is Phase.RUNNING
            if grace_seconds > 0 and is_there:
                known.handle.stop.remote(grace_seconds)
                return
            if is_there or (known.sight.phase is Phase.PENDING and _is_done(known.placed)):
                # Ray kills an actor's children with it: the host would leave its keys there.
                ray.wait([known.handle.stop.remote(0.0)], timeout=KILL_SECONDS, fetch_local=False)
            if not known.is_forgotten:
                ray.kill(known.handle)
            del self._hosts[name]

    def close(self) -> None:
        """Let go of the cluster; actors that are detached stay."""
        ray.shutdown()

    # ---- the connection ---------------------------------------------------------------------

    def _connect(self) -> None:
        address = self._target.address or "auto"
        if address != "auto":
            port = "" if ":" in address else f":{_PORT}"
            address = f"ray://{address}{port}"
        try:
            _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
            _join(address, self._namespace)
        except (OSError, RuntimeError) as error:
            raise _translated(address, error) from error
        self._actor = ray.remote(RayHost)
        there = ray.util.list_named_actors()
        for name, known in self._hosts.items():
            if name not in there:
                known.is_forgotten = True
                known.sight = _gone(known.sight, Cause.LOST, "Ray does not know it any more")
        for name in there:
            former = self._hosts.get(name)
            spec = None if former is None else former.sight.spec
            self._hosts[name] = _Known(ray.get_actor(name), spec)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Connect anew, where that was lost; what Ray does not answer is ours.

        Raises:
            ConnectionError: it does not answer.
        """
        was_lost, self._is_lost = self._is_lost, True
        try:
            if was_lost:
                ray.shutdown()
                self._connect()
            yield
        except Error:
            raise
        except Exception as error:  # Ray lets those of its libraries through
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ConnectionError(f"Ray does not answer: {text}") from error
        self._is_lost = False

    def _shapes(self) -> tuple[HostResources, ...]:
        found = [_shape(node["Resources"]) for node in _nodes()]
        target = self._target
        if target.cpus or target.gpus > 0:
            cpus = target.cpus or max((shape.cpu for shape in found), default=1.0)
            memory = max((shape.memory_mib for shape in found), default=0)
            devices = tuple(Device(index, target.gpu_kind) for index in range(max(0, target.gpus)))
            found.append(HostResources(float(cpus), memory, devices))
        return tuple(dict.fromkeys(found))

    # ---- one host ---------------------------------------------------------------------------

    def _look_at_pending(self, known: _Known) -> None:
        spec = known.sight.spec
        if not _is_done(known.placed):
            fits = any(_fits(spec, shape) for shape in self._shapes())
            if fits or not spec.name:
                known.sight = Sight(spec, Phase.PENDING, detail="Ray has no place for it yet")
            else:
                detail = f"no machine has {spec.cpus} CPUs and {spec.gpus} GPUs"
                known.sight = Sight(spec, Phase.GONE, Cause.UNSCHEDULABLE, detail)
            return
        try:
            spec, node, devices = ray.get(known.placed, timeout=_GET_SECONDS)
        except ray.exceptions.ActorUnavailableError:
            known.placed = known.handle.placed.remote()
        except ray.exceptions.RayError as error:
            known.sight = Sight(spec, Phase.GONE, Cause.FAILED, _why(error))
        else:
            known.sight = Sight(spec, Phase.RUNNING, node=node, devices=devices)

    def _look_at_running(self, known: _Known, alive: set[str]) -> None:
        sight = known.sight
        if sight.node not in alive:
            known.sight = _gone(sight, Cause.LOST, "its machine has left the cluster")
        elif _is_done(known.ended):
            try:
                how = ray.get(known.ended, timeout=_GET_SECONDS)
            except ray.exceptions.ActorUnavailableError:
                known.ended = known.handle.ended.remote()  # suspect, not dead
            except ray.exceptions.RayError as error:
                known.sight = _gone(sight, Cause.ENDED, _why(error))
            else:
                known.sight = _gone(sight, Cause.ENDED, how)


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself tries for minutes, where nobody does.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _GET_SECONDS).close()


def _join(address: str, namespace: str) -> None:
    """Become a driver of the cluster.

    A client server starts a process on the head for each driver. Where that dies, or takes longer
    than 30 s to listen, it says so, and another try starts another one.

    Raises:
        ConnectionError: none of them has come up.
        OSError, RuntimeError: as Ray says.
    """
    os.environ.setdefault(*_GRACE)
    for left in reversed(range(_TRIES)):
        try:
            with _sigterm_kept():
                ray.init(
                    address=address,
                    namespace=namespace,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                )
        except ConnectionAbortedError as error:
            ray.shutdown()
            why = str(error).strip().splitlines()[-1][:300]
            _log.warning("%s: the process that it started for us has not come up: %s", address, why)
            if not left:
                raise ConnectionError(
                    f"the Ray client server at {address} answers, but none of {_TRIES} processes "
                    f"that it started for this connection has come up: {why}"
                ) from error
            time.sleep(_PAUSE_SECONDS)
        else:
            return


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep what this process does at SIGTERM: Ray has each one exit, whose hosts would stay.

    Raises:
        InterruptedError: it came meanwhile; what this process does then has been begun.
    """
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as told:
        signal.signal(signal.SIGTERM, former)
        signal.raise_signal(signal.SIGTERM)
        raise InterruptedError("told to end while it connected") from told
    finally:
        signal.signal(signal.SIGTERM, former)


def _gone(sight: Sight, cause: Cause, detail: str) -> Sight:
    return Sight(sight.spec, Phase.GONE, cause, detail, sight.node, sight.devices)


def _is_done(reference: Any) -> bool:
    done, _ = ray.wait([reference], timeout=0, fetch_local=False)
    return bool(done)


def _nodes() -> list[dict[str, Any]]:
    nodes: Any = ray.nodes
    return [node for node in nodes() if node["Alive"]]


def _shape(resources: Mapping[str, float]) -> HostResources:
    kinds = [name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)]
    kind = kinds[0] if kinds else ""
    devices = tuple(Device(index, kind) for index in range(int(resources.get("GPU", 0))))
    memory_mib = int(resources.get("memory", 0)) // _MIB
    return HostResources(float(resources.get("CPU", 0)), memory_mib, devices)


def _fits(spec: HostSpec, shape: HostResources) -> bool:
    return (
        spec.cpus <= shape.cpu
        and spec.gpus <= len(shape.devices)
        and spec.memory_mib <= shape.memory_mib
    )


def _why(error: Exception) -> str:
    """Return what an error of Ray says, in a line; what is missing there is to be installed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line for line in lines if "ModuleNotFoundError" in line or "No module named" in line]
    if missing:
        return f"on the cluster's machine: {missing[-1]}; install notebook-ext there"
    return lines[0][:300] if lines else type(error).__name__


def _translated(address: str, error: Exception) -> Exception:
    text = " ".join(str(error).split())
    if ("ersion" in text and "ismatch" in text) or "versions differ" in text:
        return VersionError(
            f"{address}: {text[:600]}. Ray has to be the same on both sides: install that version "
            "here, in that Python; or have the agent run on a machine of the cluster, in its "
            "Python: notebook-ext provider start ray://auto --connect FILE --hosts FILE"
        )
    return ConnectionError(
        f"no Ray cluster answers at {address}: {text[:300]}; see there by `ray status` whether it "
        "runs, and whether its port is open"
    )
