"""From the broker's wish for a worker to its process, or to why there is none.

Theory. What is wished for is looked at first: its objects (`contents`) have to be here, its devices
(`devices`) free, and its image, where it has one, needs a place. Then the worker is planned below
the template of its function, and forked once that has settled: from it; from the base where it must
not be forked; from another one where it died before it forked, which happens `_MAX_STARTS` times at
most. Who waits for an image is told what its build says.

Guarantees: each `StartWorker` is answered by `WorkerStarted`, `StartFailed` or `DevicesHeld`; by
`WorkerExited` alone where it was to end before it had a process, or no template lives.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from kernel_worker import gpus
from kernel_worker.errors import (
    DeserializationError,
    Error,
    InternalFailure,
    TimeoutError,  # noqa: A004  ours
)
from kernel_worker.host import orphans
from kernel_worker.host.devices import Devices, Lookout
from kernel_worker.host.images import own_where_missing
from kernel_worker.host.templates import Failed, State
from kernel_worker.host.workers import Worker
from kernel_worker.wire import local, messages

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_worker.host.agent import Agent
    from kernel_worker.host.images import Build
    from kernel_worker.host.templates import Template
    from kernel_worker.model import FunctionSpec, HostResources, PoolId, WorkerId

_MAX_STARTS = 3
TEMPLATE_DIED = "its template died"


class Starting:
    """What has workers of one host begin, and forgets them again."""

    def __init__(self, agent: Agent, resources: HostResources, device_locks: Path) -> None:
        """Start workers of `agent` on `resources`; `device_locks` is as of the settings."""
        self._agent = agent
        names = gpus.names([each.index for each in resources.devices])
        self._devices = Devices(device_locks, names)
        self._lookout = Lookout(self._devices, agent.timers, agent.tell)

    def start(self, asked: messages.StartWorker) -> None:
        """Start a worker, or say why not."""
        spec = asked.spec
        if why := self._agent.contents.claim(spec):
            error = DeserializationError(f"{spec.name}: {why}")
            self._refuse(asked.worker, spec, Failed.by(error))
        elif self._devices.take(asked.devices):
            self._plan(asked)
        else:
            self._lookout.turn_away(asked.worker)

    def _plan(self, asked: messages.StartWorker) -> None:
        spec = asked.spec
        if self._agent.is_far:
            opened = self._agent.contents.opened
            theirs = opened[spec.environment]
            opened[spec.environment] = own_where_missing(theirs, self._agent.images.host)
        self._agent.pools.use(spec)
        try:
            template = self._template_of(spec)
        except Error as error:  # there is no place for its image
            self._devices.give_back(asked.devices)
            self._refuse(asked.worker, spec, Failed.by(error))
            return
        self._agent.workers[asked.worker] = worker = Worker(asked, template)
        template.when_settled(partial(self._launch, worker))
        if build := self._build_of(worker):
            self.delay([worker], build.note())

    def _template_of(self, spec: FunctionSpec) -> Template:
        """Return the template of a function, which has one more user."""
        seals = self._agent.contents.came_sealed(spec)
        template = self._agent.templates.function(spec, self._agent.contents.opened, seals=seals)
        template.users += 1
        return template

    def _launch(self, worker: Worker, template: Template) -> None:
        """Fork the worker from its template, or from the base where that one must not be forked."""
        if worker.kill_cause or worker.is_stopping:
            self.forget(worker)
            self._agent.tell(messages.WorkerExited(worker.id, worker.kill_cause or "stopped"))
        elif template.state is State.READY:
            makes_instance = worker.spec.parameters and not worker.spec.snaps
            self._fork(worker, template, local.Load(has_instance=True) if makes_instance else None)
        elif template.state is State.LOST:
            self._start_again(worker)
        elif template.state is State.UNSAFE:
            worker.start = f"fresh: {template.reason}"
            base = self._agent.templates.base(self._agent.contents.opened[worker.spec.environment])
            base.when_settled(partial(self._launch_fresh, worker))
        else:
            self._fail(worker, template.failed or Failed(f"{template.name}: no template", b""))

    def _launch_fresh(self, worker: Worker, base: Template) -> None:
        if base.state is State.LOST:
            self._start_again(worker)
            return
        if base.state is not State.READY:
            self._fail(worker, base.failed or Failed("no base template", b""))
            return
        worker.template.users -= 1
        worker.template = base
        base.users += 1
        has_instance = bool(worker.spec.parameters)
        load = local.Load(worker.spec.imports, True, True, has_instance)
        self._fork(worker, base, load)

    def _fork(self, worker: Worker, template: Template, load: local.Load | None) -> None:
        objects: list[int] = []
        locks = self._devices.files(worker.asked.devices)
        if load is not None:
            contents = self._agent.templates.contents_of(
                load, worker.spec, self._agent.contents.opened
            )
            objects = [local.anonymous_file(content, "object") for content in contents]

        def message(request: int) -> local.ForkWorker:
            return local.ForkWorker(
                request,
                worker.id,
                worker.spec,
                self._agent.address,
                self._agent.connection_file,
                self._agent.machine,
                worker.asked.devices,
                load,
                self._agent.contents.came_sealed(worker.spec),
                len(locks),
            )

        try:
            files = worker.files() + locks + objects
            started, lost = partial(self._started, worker), partial(self._lost, worker)
            self._agent.templates.fork(template, message, files, started, lost)
        except ConnectionError:
            self._start_again(worker)
            return
        except OSError as error:
            self._fail(worker, Failed(f"{template.name} cannot be asked to fork: {error}", b""))
            return
        finally:
            local.close_all(objects)
        worker.launched()

    def _started(self, worker: Worker, pid: int) -> None:
        worker.pid = pid
        self._agent.pids[pid] = worker
        self._agent.tell(messages.WorkerStarted(worker.id, pid, worker.start))
        if worker.kill_cause:
            worker.kill(worker.kill_cause)
        seconds = worker.spec.startup_timeout_seconds
        self._agent.timers.at(time.monotonic() + seconds, partial(self._give_up, worker))
        self._agent.limits.watch(worker)

    def _lost(self, worker: Worker) -> None:
        """The template that was asked for it died, and did not say that it had forked it."""
        if set(orphans.children()) <= self._agent.pids.keys():
            self._start_again(worker)
            return
        # One of the others may be the worker: it ends as we hang up, and the broker asks anew.
        worker.kill_cause = worker.kill_cause or TEMPLATE_DIED
        self._agent.worker_exited(worker, -1)

    def _start_again(self, worker: Worker) -> None:
        """Start a worker whose template died before it forked it from another template."""
        if worker.starts >= _MAX_STARTS:
            self.forget(worker)
            failed = worker.template.failed
            cause = failed.message if failed is not None else TEMPLATE_DIED
            self._agent.tell(messages.WorkerExited(worker.id, worker.kill_cause or cause))
            return
        spec = worker.spec
        template = self._template_of(spec)
        worker.template.users -= 1
        self._agent.workers[worker.id] = again = worker.again(template)
        template.when_settled(partial(self._launch, again))

    def _give_up(self, worker: Worker) -> None:
        if worker.id not in self._agent.workers or worker.page.is_ready:
            return
        seconds = worker.spec.startup_timeout_seconds
        error = TimeoutError(f"{worker.spec.name}: the worker did not start within {seconds:g} s")
        self._refuse(worker.id, worker.spec, Failed.by(error))
        worker.kill(f"killed: did not start within {seconds:g} s")

    def _fail(self, worker: Worker, failed: Failed) -> None:
        self._refuse(worker.id, worker.spec, failed)  # before it is forgotten how its code came
        self.forget(worker)

    def _refuse(self, worker: WorkerId, spec: FunctionSpec, failed: Failed) -> None:
        text = failed.message
        exception = failed.exception or Failed.by(InternalFailure(text)).exception
        if self._agent.contents.came_sealed(spec):
            text, exception = messages.SEALED_START, self._agent.seals.start_failure(exception)
        self._agent.tell(messages.StartFailed(worker, text, failed.lack), exception)

    def forget(self, worker: Worker) -> None:
        """A worker is no more, or will not be."""
        self._agent.workers.pop(worker.id, None)
        self._devices.give_back(worker.asked.devices)
        worker.template.users -= 1
        worker.close()
        self._agent.templates.trim()
        self._agent.pools.worker_gone(worker.spec)

    def _build_of(self, worker: Worker) -> Build | None:
        environment = self._agent.contents.opened.get(worker.spec.environment)
        if worker.is_launched or environment is None:
            return None
        return self._agent.images.build_of(environment)

    def waiting_for(self, build: Build) -> list[Worker]:
        """Return the workers that wait for an image."""
        return [w for w in self._agent.workers.values() if self._build_of(w) is build]

    def delay(self, waiting: list[Worker], text: bytes) -> None:
        """Say that workers wait for their image, and once to each pool what its build says."""
        told: set[PoolId] = set()
        for worker in waiting:
            said = b"" if worker.spec.pool in told else text
            told.add(worker.spec.pool)
            if said and self._agent.contents.came_sealed(worker.spec):
                said = self._agent.seals.build(said)
            self._agent.tell(messages.StartDelayed(worker.id), said)
