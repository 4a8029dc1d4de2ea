"""Hosts on the workers of a Dask scheduler: each is the child of the worker that runs its task.

A host is a task that runs as long as the host does, and one more task for each further core that
it has: so the scheduler gives its threads to nobody else. Which worker has room is decided here, by
threads and by the resource `GPU`; the tasks run there or nowhere. Dask knows no device ids: the
worker counts them, from 0, by what it says to have of `GPU`.

The tasks outlive the agent (`fire_and_forget`). What a worker has, it tells by `client.run`, so a
later agent finds it. A worker that leaves takes its hosts along; the tasks are cancelled then. One
that does not answer has what it had: the scheduler takes half a minute to find that a machine is
gone, and asks it as long.

A scheduler that was away takes its workers along, and is connected to anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import distributed
from distributed.client import ClosedClientError

from kernel_worker.errors import ConnectionError, VersionError  # noqa: A004  ours
from kernel_worker.model import Device, HostResources
from kernel_worker.providers.node import HostProcess
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from kernel_worker.providers.target import Target

_dask: Any = distributed  # hardly any of it is annotated
_TIMEOUT_SECONDS: Final = 20
_ANSWER_SECONDS: Final = 3
"""How long a worker that is there may take to say what it has."""
_LOOK_SECONDS: Final = 0.2


# ---- on a worker of Dask --------------------------------------------------------------------


class _Held:
    """A host of one worker, from the start of its task until the agent has seen its end."""

    def __init__(self, spec: HostSpec, process: HostProcess, devices: tuple[str, ...]) -> None:
        self.spec = spec
        self.process = process
        self.devices = devices
        self.how_it_ended = ""


_held: dict[tuple[str, str], _Held] = {}
"""By worker and name: several workers may be threads of one process."""
_over: dict[str, threading.Event] = {}
"""By name: set when a host has ended, or is not wanted any more."""
_lock = threading.Lock()


def hold(spec: HostSpec, invitation: bytes, gpus: int) -> str:
    """Be a host: the task. It returns how that ended; with its worker it ends at once."""
    here = _dask.get_worker()
    worker = here.address
    with _lock:
        over = _over.setdefault(spec.name, threading.Event())
        if over.is_set():
            return "not wanted any more"
        used = {
            device
            for (where, _), held in _held.items()
            if where == worker and not held.how_it_ended
            for device in held.devices
        }
        free = [str(index) for index in range(gpus) if str(index) not in used]
        devices = tuple(free[: spec.gpus])
        held = _Held(spec, HostProcess(spec, invitation, devices), devices)
        _held[worker, spec.name] = held
    while held.process.is_alive() and _is_open(here):
        time.sleep(_LOOK_SECONDS)
    if held.process.is_alive():
        held.process.stop(0.0)
    held.how_it_ended = held.process.wait()
    over.set()
    return held.how_it_ended


def fill(name: str, _part: int) -> None:
    """Occupy a thread as long as a host has the core that it stands for."""
    with _lock:
        over = _over.setdefault(name, threading.Event())
    here = _dask.get_worker()
    while not over.wait(_LOOK_SECONDS) and _is_open(here):
        pass


def _is_open(worker: Any) -> bool:
    """Return whether a worker is not about to end, which waits for its tasks."""
    return worker.status.name in {"init", "running", "paused"}


def held_here(prefix: str, dask_worker: Any) -> dict[str, tuple[HostSpec, tuple[str, ...], str]]:
    """Return the hosts of a worker: what they are, their devices, and how they ended."""
    return {
        name: (held.spec, held.devices, held.how_it_ended)
        for (worker, name), held in list(_held.items())
        if worker == dask_worker.address and name.startswith(prefix)
    }


def stop_here(name: str, grace_seconds: float, dask_worker: Any) -> bool:
    """End a host of a worker; this returns at once, whether it is still to end."""
    with _lock:
        held = _held.get((dask_worker.address, name))
        if held is None or held.how_it_ended:
            _held.pop((dask_worker.address, name), None)
            _over.setdefault(name, threading.Event()).set()
            return False
    threading.Thread(target=held.process.stop, args=[grace_seconds], daemon=True).start()
    return True


# ---- the agent's side -----------------------------------------------------------------------


class _Worker(NamedTuple):
    threads: int
    memory_mib: int
    gpus: int
    identity: str
    """Another one where a later worker has the address of a former one."""


class _Placed:
    """A host that was given to a worker."""

    def __init__(self, spec: HostSpec, worker: str, identity: str) -> None:
        self.spec = spec
        self.worker = worker
        self.identity = identity
        self.sight = Sight(spec, Phase.PENDING, node=worker)
        self.keys = [f"notebook-ext-{spec.name}-{part}" for part in range(spec.cpus)]


class DaskProvider:
    """One Dask scheduler."""

    def __init__(self, target: Target, _directory: Path, prefix: str, invitation: bytes) -> None:
        """Connect to it, and find the hosts that are there already.

        Raises:
            ConnectionError: no scheduler answers.
            VersionError: it, or a worker, has another version of Dask or of Python.
        """
        self._target = target
        self._prefix = prefix
        self._invitation = invitation
        self._client = self._connected(_TIMEOUT_SECONDS)
        _check_versions(self._address, self._client.get_versions())
        self._waiting: dict[str, Sight] = {}
        self._placed: dict[str, _Placed] = {}
        self._gone: dict[str, Sight] = {}
        workers = self._workers()
        for worker, held in self._held(workers).items():
            for name, (spec, _, _) in held.items():
                self._placed[name] = _Placed(spec, worker, workers[worker].identity)

    def shapes(self) -> tuple[HostResources, ...]:
        """Return what the scheduler's workers have; where a limit was given, it is believed."""
        with self._answering():
            return self._shapes(self._workers())

    def request(self, spec: HostSpec) -> None:
        """Have a host placed."""
        if spec.name not in self._placed and spec.name not in self._gone:
            self._waiting.setdefault(spec.name, Sight(spec, Phase.PENDING))
            with self._answering():
                self._place(self._workers())

    def look(self) -> Mapping[str, Sight]:
        """Return how each host stands."""
        with self._answering():
            workers = self._workers()
            self._place(workers)
            held = self._held({placed.worker for placed in self._placed.values()} & workers.keys())
            found = {**self._waiting, **self._gone}
            for name, placed in list(self._placed.items()):
                sight = placed.sight = self._sight(name, placed, held.get(placed.worker), workers)
                if sight.phase is Phase.GONE:
                    self._gone[name] = sight
                    self._drop(placed)
                    del self._placed[name]
                found[name] = sight
        return found

    def release(self, name: str, grace_seconds: float) -> None:
        """End a host, or forget one that has ended."""
        self._waiting.pop(name, None)
        placed = self._placed.get(name)
        with self._answering():
            if placed is not None:
                said = self._asked([placed.worker], stop_here, name, grace_seconds)
                if placed.worker not in said:
                    raise TimeoutError(f"{placed.worker} does not hear that {name} is to end")
                if not said[placed.worker]:
                    self._drop(placed)
                    del self._placed[name]
            elif (gone := self._gone.pop(name, None)) is not None and gone.node:
                self._asked([gone.node], stop_here, name, grace_seconds)

    def close(self) -> None:
        """Let go of the scheduler; its tasks stay."""
        self._client.close()

    # ---- asking -----------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return f"tcp://{self._target.address}"

    def _connected(self, limit_seconds: float) -> Any:
        try:
            return _dask.Client(
                self._address, name="notebook-ext", set_as_default=False, timeout=limit_seconds
            )
        except OSError as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {self._address}: {error}; see whether it runs "
                "there, and whether its port is open"
            ) from error

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Connect anew, where that was given up; what the scheduler does not answer is ours.

        Raises:
            ConnectionError: it does not answer.
        """
        if self._client.status == "closed":
            self._client = self._connected(_ANSWER_SECONDS)
        try:
            yield
        except (OSError, ClosedClientError, CancelledError) as error:
            raise ConnectionError(
                f"the Dask scheduler at {self._address} does not answer: {error}"
            ) from error

    def _asked(self, workers: Collection[str], question: Any, *words: Any) -> dict[str, Any]:
        """Return what those workers say that answer in time."""

        async def asks(worker: str) -> dict[str, Any]:
            with contextlib.suppress(TimeoutError):
                asked = self._client.run(
                    question, *words, workers=[worker], on_error="ignore", asynchronous=True
                )
                said: dict[str, Any] = await asyncio.wait_for(asked, _ANSWER_SECONDS)
                return said
            return {}

        async def ask_all() -> dict[str, Any]:
            said = await asyncio.gather(*map(asks, workers))
            return {worker: answer for each in said for worker, answer in each.items()}

        found: dict[str, Any] = self._client.sync(ask_all)
        return found

    # ---- placing ----------------------------------------------------------------------------

    def _shapes(self, workers: Mapping[str, _Worker]) -> tuple[HostResources, ...]:
        kind = self._target.gpu_kind
        found = [(worker.threads, worker.memory_mib, worker.gpus) for worker in workers.values()]
        if self._target.cpus or self._target.gpus > 0:
            memory = max((worker[1] for worker in found), default=0)
            found.append((self._target.cpus or 1, memory, max(0, self._target.gpus)))
        return tuple(
            HostResources(float(threads), memory, tuple(Device(i, kind) for i in range(gpus)))
            for threads, memory, gpus in dict.fromkeys(found)
        )

    def _place(self, workers: Mapping[str, _Worker]) -> None:
        for name, sight in list(self._waiting.items()):
            spec = sight.spec
            if sight.phase is not Phase.PENDING:
                continue
            chosen = next((one for one in workers if self._has_room(one, workers[one], spec)), None)
            if chosen is not None:
                self._submit(spec, chosen, workers[chosen])
                del self._waiting[name]
            elif any(_fits(spec, shape) for shape in self._shapes(workers)):
                self._waiting[name] = Sight(spec, Phase.PENDING, detail="no Dask worker has room")
            else:
                detail = f"no worker has {spec.cpus} threads and {spec.gpus} GPUs"
                self._waiting[name] = Sight(spec, Phase.GONE, Cause.UNSCHEDULABLE, detail)

    def _has_room(self, address: str, worker: _Worker, spec: HostSpec) -> bool:
        there = [placed.spec for placed in self._placed.values() if placed.worker == address]
        cpus = worker.threads - sum(each.cpus for each in there)
        gpus = worker.gpus - sum(each.gpus for each in there)
        memory = worker.memory_mib - sum(each.memory_mib for each in there)
        return spec.cpus <= cpus and spec.gpus <= gpus and spec.memory_mib <= max(0, memory)

    def _submit(self, spec: HostSpec, address: str, worker: _Worker) -> None:
        placed = self._placed[spec.name] = _Placed(spec, address, worker.identity)
        options: dict[str, Any] = {
            "workers": [address],
            "allow_other_workers": False,
            "retries": 0,
            "pure": False,
        }
        resources = {"GPU": spec.gpus} if spec.gpus else None
        arguments = (spec, self._invitation, worker.gpus)
        tasks = [
            self._client.submit(
                hold, *arguments, key=placed.keys[0], resources=resources, **options
            )
        ]
        tasks += [
            self._client.submit(fill, spec.name, part, key=key, **options)
            for part, key in enumerate(placed.keys[1:])
        ]
        for task in tasks:
            _dask.fire_and_forget(task)

    # ---- looking ----------------------------------------------------------------------------

    def _sight(
        self,
        name: str,
        placed: _Placed,
        held: Mapping[str, tuple[HostSpec, tuple[str, ...], str]] | None,
        workers: Mapping[str, _Worker],
    ) -> Sight:
        spec, node = placed.spec, placed.worker
        if node not in workers or workers[node].identity != placed.identity:
            return Sight(spec, Phase.GONE, Cause.LOST, "its worker has left the scheduler", node)
        if held is None:
            return placed.sight
        if name not in held:
            future = _dask.Future(placed.keys[0], self._client)
            if future.status == "error":
                why = str(future.exception(timeout=_TIMEOUT_SECONDS)).strip().splitlines()
                return Sight(spec, Phase.GONE, Cause.FAILED, why[0] if why else "", node)
            return Sight(spec, Phase.PENDING, detail="the worker's threads are busy", node=node)
        _, devices, how = held[name]
        if how:
            return Sight(spec, Phase.GONE, Cause.ENDED, how, node, devices)
        return Sight(spec, Phase.RUNNING, node=node, devices=devices)

    def _held(
        self, workers: Collection[str]
    ) -> dict[str, dict[str, tuple[HostSpec, tuple[str, ...], str]]]:
        """Return what each of the workers has; one that does not answer is not in it."""
        return self._asked(workers, held_here, self._prefix)

    def _drop(self, placed: _Placed) -> None:
        """Have the scheduler forget the tasks of a host."""
        futures = [_dask.Future(key, self._client) for key in placed.keys]
        self._client.cancel(futures, force=True)

    def _workers(self) -> dict[str, _Worker]:
        def there(dask_scheduler: Any) -> dict[str, tuple[int, int, int, str]]:  # by value
            return {
                address: (
                    state.nthreads,
                    (state.memory_limit or 0) >> 20,
                    int(state.resources.get("GPU", 0)),
                    state.server_id,
                )
                for address, state in dask_scheduler.workers.items()
            }

        found = self._client.run_on_scheduler(there, callback_timeout=_ANSWER_SECONDS)
        return {address: _Worker(*each) for address, each in found.items()}


def _fits(spec: HostSpec, shape: HostResources) -> bool:
    return (
        spec.cpus <= shape.cpu
        and spec.gpus <= len(shape.devices)
        and (not spec.memory_mib or spec.memory_mib <= shape.memory_mib)
    )


def _check_versions(address: str, versions: Mapping[str, Any]) -> None:
    """Refuse what does not fit.

    Raises:
        VersionError: the scheduler, or a worker, has another Dask or another Python.
    """
    here = (".".join(map(str, sys.version_info[:2])), _dask.__version__)
    others = {"the scheduler": versions["scheduler"], **versions["workers"]}
    for who, said in others.items():
        if not isinstance(said, dict):
            continue
        python = ".".join(said["host"]["python"].split(".")[:2])
        there = (python, said["packages"]["distributed"])
        if there != here:
            raise VersionError(
                f"dask at {address}: {who} has Python {there[0]} and distributed {there[1]}, the "
                f"agent Python {here[0]} and distributed {here[1]}: install the same here; or have "
                "the agent run there, in that Python: notebook-ext provider start "
                f"dask://{address.removeprefix('tcp://')} --connect FILE --hosts FILE"
            )
