"""The host agent: it starts, watches, stops, kills and reaps the workers of one machine.

Theory. One thread, one poll: the broker's connection, a socket per template, the pipe behind
SIGCHLD, and the next timer. It wakes up for nothing else, so that an idle host
costs no processor time. Workers are forked by templates (`templates`), which reap them and say how
they ended; what the agent reaps itself are base templates, children of templates that died, and
what users' functions left behind (`orphans`).

Time limits are exact without a wake-up per input: the progress page says when the input that runs
was started, so the next moment at which a worker can be over its limit is known; an idle worker is
looked at once per limit. Memory is looked at (`memory`) only of workers that have a limit.

Guarantees: each `StartWorker` is answered by `WorkerStarted`, `StartFailed` or `DevicesHeld`, each
`WorkerStarted` is followed by one `WorkerExited`; when the agent is told to end, every process
below it is killed and reaped; when it is itself killed, the kernel kills them (`worker.lifeline`).
When the broker dies, workers live on until the next one is there, which is told of them
(`survival`), but no longer than `broker_grace_seconds`; an agent that has no worker ends at once,
unless it starts the next one itself (`succession`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import zmq

from kernel_worker import gpus, rendezvous
from kernel_worker.errors import (
    DeserializationError,
    Error,
    InternalFailure,
    TimeoutError,  # noqa: A004  ours
)
from kernel_worker.host import log, memory, orphans, survival, workers
from kernel_worker.host.connection import Connection
from kernel_worker.host.contents import Contents
from kernel_worker.host.devices import LOOK_SECONDS, Devices
from kernel_worker.host.images import Build, Images, own_where_missing
from kernel_worker.host.succession import Succession
from kernel_worker.host.templates import Failed, State, Template, Templates
from kernel_worker.host.timers import Timers
from kernel_worker.host.workers import Worker
from kernel_worker.model import CallId, HostId, LeaseId, PoolId, WorkerId
from kernel_worker.wire import local, messages
from kernel_worker.wire import page as pages
from kernel_worker.wire.seals import Seals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_worker.model import FunctionSpec, HostResources, Survivor
    from kernel_worker.wire.page import Place

RETIRED_SECONDS = 30.0
_KEPT_RETIRING = 4
GRACE_SECONDS = 5.0
EXIT_SECONDS = 30.0
"""How long `exit` hooks may take when their worker is stopped …"""
LAST_EXIT_SECONDS = 5.0
"""… and when the host agent itself ends."""
_NO_LIMIT_SECONDS = 1e8
_MIN_LOOK_SECONDS = 0.01
_NS = 1e-9
_END_SECONDS = 5.0
_LONGEST_POLL_MS = 3_600_000
"""A poll takes no more than 24 days; a timeout may be longer."""
_MAX_STARTS = 3
_SOON_SECONDS = 1.0
_FIRST_SECONDS = 10.0
"""How long the broker that started us may take to answer."""
_TEMPLATE_DIED = "its template died"


class Agent:
    """One host's agent; `run` returns when it has ended everything."""

    def __init__(  # noqa: PLR0917  made in one place
        self,
        host: HostId,
        address: str,
        connection_file: str,
        resources: HostResources,
        lifeline: tuple[int, int],
        machine: str,
        grace_seconds: float,
        find_images: Callable[[], Path],
        device_locks: Path,
    ) -> None:
        """Serve the broker at `address`; `lifeline` is the pipe whose write end only we hold.

        `find_images` returns where images lie; `device_locks` is as of the settings.
        """
        self._host = host
        self._address = address
        self._connection_file = connection_file
        self._resources = resources
        self._machine = machine
        self._grace_seconds = grace_seconds
        self._broker = Connection(host, address)
        self._tell = self._broker.tell
        self._sources: dict[int, Callable[[], None]] = {}
        self._timers = Timers()
        self._seals = Seals(connection_file)
        self._contents = Contents(self._seals)
        self._devices = Devices(
            device_locks, gpus.names([each.index for each in resources.devices])
        )
        self._looks_at_devices = False
        self._workers: dict[WorkerId, Worker] = {}
        self._pids: dict[int, Worker | Template | Build] = {}
        self.is_far = False
        """Whether the notebook may be on another machine."""
        self._is_ending = False
        self._dialled = 0
        """How often."""
        self._gone_at = 0.0
        """When the last broker died that had answered, by `time.monotonic`."""
        self._oom_kills = workers.oom_kills()
        self._succession = Succession()
        self._retiring: dict[PoolId, None] = {}
        """Those whose template and objects go soon, the longest retired first."""
        self._specs: dict[PoolId, FunctionSpec] = {}
        """What the pools need that are not retired."""
        self._images = Images(find_images, lifeline[0], self._watch_build, self._unwatch_build)
        self.templates = Templates(
            lifeline[0], self._watch, self._unwatch, self._allow, self._images
        )

    def compare_packages(self, name: str) -> None:
        """Compare those here with the caller's, where these may differ; `name` is our machine's."""
        self._images.host = name

    def soon(self, what: Callable[[], None]) -> None:
        """Call `what` once, when what this host begins with should be done."""
        self._timers.at(time.monotonic() + _SOON_SECONDS, what)

    def run(self) -> None:
        """Serve until the broker refuses us or says goodbye, or is gone and none follows."""
        self._watch_children()
        rendezvous.remove_kernels(self._connection_file)
        self._dial(max(self._grace_seconds, _FIRST_SECONDS))
        while not self._is_ending:
            self._turn()
        self._end()

    def _turn(self) -> None:
        sources: list[Any] = [*self._broker.sources(), *self._sources]
        polled: list[Any] = [(source, zmq.POLLIN) for source in sources]
        ready: list[Any] = zmq.zmq_poll(polled, self._patience_ms())
        for source, _ in ready:
            if not isinstance(source, int):
                self._hear()
            elif source in self._sources:
                self._sources[source]()
        if self._broker.is_broken and not self._is_ending:
            self._broker_gone()
        self._timers.run(time.monotonic())

    def _patience_ms(self) -> int:
        due = self._timers.next_at()
        if due is None:
            return -1
        return min(max(0, int((due - time.monotonic()) * 1000) + 1), _LONGEST_POLL_MS)

    # ---- the broker -------------------------------------------------------------------------

    def _dial(self, patience_seconds: float, survivors: tuple[Survivor, ...] = ()) -> None:
        """Dial the broker; where none has answered by then, end."""
        hello = messages.Hello(
            "host",
            self._host,
            pid=os.getpid(),
            machine=self._machine,
            resources=self._resources,
            survivors=survivors,
        )
        self._broker.dial(hello)
        self._dialled += 1
        until = time.monotonic() + patience_seconds
        self._timers.at(until, partial(self._give_up_broker, self._dialled))

    def _give_up_broker(self, dialled: int) -> None:
        if dialled == self._dialled and not self._broker.is_welcome:
            log.say("there is no broker any more: everything ends")
            self._is_ending = True

    def _broker_gone(self) -> None:
        """Look for the next broker, with the workers that can live on."""
        self._hear()  # what it said before it died counts
        if self._is_ending:
            return
        now = time.monotonic()
        is_followed = self._succession.is_under_way
        if self._broker.is_welcome or not self._gone_at:
            self._gone_at = now
            is_followed = self._succession.begin(now)
        survivors = survival.survivors_of(self._workers.values())
        patience_seconds = self._gone_at + self._grace_seconds - now
        if is_followed:
            patience_seconds = max(patience_seconds, self._gone_at + _FIRST_SECONDS - now)
        if not (survivors or is_followed) or patience_seconds <= 0:
            self._broker.hang_up()
            self._is_ending = True
            return
        self._dial(patience_seconds, survivors)
        survival.say_rejoin(self._workers.values())

    def _hear(self) -> None:
        while (frames := self._broker.receive()) is not None:
            try:
                self._obey(messages.decode_at_host(frames[0]), frames[1:])
            except Exception as error:  # noqa: BLE001  one bad message ends no host
                log.say(f"{type(error).__name__}: {error}")

    def _obey(self, message: messages.ToHost, frames: list[bytes]) -> None:
        match message:
            case messages.StoreObject():
                self._contents.keep(message.digest, frames[0])
            case messages.StartWorker():
                self._start(message)
            case messages.StopWorker():
                self._stop(message)
            case messages.KillWorker():
                self._kill(message.worker)
            case messages.TakeBack():
                if worker := self._workers.get(message.worker):
                    worker.tell(local.TakeBack(message.lease))
            case messages.Interrupt():
                self._interrupt(message)
            case messages.ConsoleInput():
                if worker := self._workers.get(message.worker):
                    worker.tell(local.ConsoleInput(message.what, message.text))
            case messages.AttachKernel():
                if worker := self._workers.get(message.worker):
                    worker.tell(local.Attach())
            case messages.RetirePool():
                self._retire_later(message.pool)
            case messages.KeepBroker(wanted=wanted):
                self._succession.is_wanted = wanted and not self.is_far
            case messages.Welcome():
                self._broker.is_welcome = True
            case messages.Refused():
                log.say(f"refused: {message.reason}")
                self._is_ending = True
            case messages.Bye():
                self._is_ending = True
            case _:
                assert_never(message)

    def _retire_later(self, pool: PoolId) -> None:
        """Keep what a pool needs for a while: a user goes back to what a cell said before.

        Only for the latest few: somebody may run one cell a hundred times.
        """
        self._retiring.pop(pool, None)
        self._retiring[pool] = None
        retire = partial(self._retire, pool)
        self._timers.at(time.monotonic() + RETIRED_SECONDS, retire)
        while len(self._retiring) > _KEPT_RETIRING:
            self._retire(next(iter(self._retiring)))

    def _retire(self, pool: PoolId) -> None:
        """Let a pool's template and objects go, unless the pool has come back meanwhile."""
        if pool not in self._retiring:
            return
        del self._retiring[pool]
        self.templates.retire(pool)
        self._specs.pop(pool, None)
        self._drop_objects()

    def _drop_objects(self) -> None:
        """Drop what neither a pool nor a worker needs; the broker will send it again."""
        specs = [*self._specs.values(), *(worker.spec for worker in self._workers.values())]
        self._contents.drop_others(specs)

    # ---- starting ---------------------------------------------------------------------------

    def _start(self, asked: messages.StartWorker) -> None:
        spec = asked.spec
        if why := self._contents.claim(spec):
            error = DeserializationError(f"{spec.name}: {why}")
            self._refuse(asked.worker, spec, Failed(str(error), _captured(error)))
        elif self._devices.take(asked.devices):
            self._plan(asked)
        else:
            self._tell_devices(asked.worker)

    def _plan(self, asked: messages.StartWorker) -> None:
        spec = asked.spec
        if self.is_far:
            opened = self._contents.opened
            theirs = opened[spec.environment]
            opened[spec.environment] = own_where_missing(theirs, self._images.host)
        self._retiring.pop(spec.pool, None)
        self._specs[spec.pool] = spec
        try:
            template = self._template_of(spec)
        except Error as error:  # there is no place for its image
            self._devices.give_back(asked.devices)
            self._refuse(asked.worker, spec, Failed(str(error), _captured(error)))
            return
        self._workers[asked.worker] = worker = Worker(asked, template)
        template.when_settled(partial(self._launch, worker))
        if build := self._build_of(worker):
            self._delay([worker], build.note())

    def _template_of(self, spec: FunctionSpec) -> Template:
        """Return the template of a function, which has one more user."""
        seals = self._contents.came_sealed(spec)
        template = self.templates.function(spec, self._contents.opened, seals=seals)
        template.users += 1
        return template

    def _launch(self, worker: Worker, template: Template) -> None:
        """Fork the worker from its template, or from the base where that one must not be forked."""
        if worker.kill_cause or worker.is_stopping:
            self._forget(worker)
            self._tell(messages.WorkerExited(worker.id, worker.kill_cause or "stopped"))
        elif template.state is State.READY:
            makes_instance = worker.spec.parameters and not worker.spec.snaps
            self._fork(worker, template, local.Load(has_instance=True) if makes_instance else None)
        elif template.state is State.LOST:
            self._start_again(worker)
        elif template.state is State.UNSAFE:
            worker.start = f"fresh: {template.reason}"
            base = self.templates.base(self._contents.opened[worker.spec.environment])
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
            contents = self.templates.contents_of(load, worker.spec, self._contents.opened)
            objects = [local.anonymous_file(content, "object") for content in contents]

        def message(request: int) -> local.ForkWorker:
            return local.ForkWorker(
                request,
                worker.id,
                worker.spec,
                self._address,
                self._connection_file,
                self._machine,
                worker.asked.devices,
                load,
                self._contents.came_sealed(worker.spec),
                len(locks),
            )

        try:
            files = worker.files() + locks + objects
            started, lost = partial(self._started, worker), partial(self._lost, worker)
            self.templates.fork(template, message, files, started, lost)
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
        self._pids[pid] = worker
        self._tell(messages.WorkerStarted(worker.id, pid, worker.start))
        if worker.kill_cause:
            worker.kill(worker.kill_cause)
        now = time.monotonic()
        seconds = worker.spec.startup_timeout_seconds
        self._timers.at(now + seconds, partial(self._give_up_start, worker))
        if worker.spec.timeout_seconds < _NO_LIMIT_SECONDS:
            self._look(worker)
        if worker.spec.resources.memory_limit_mib:
            self._measure(worker)

    def _lost(self, worker: Worker) -> None:
        """The template that was asked for it died, and did not say that it had forked it."""
        if set(orphans.children()) <= self._pids.keys():
            self._start_again(worker)
            return
        # One of the others may be the worker: it ends as we hang up, and the broker asks anew.
        worker.kill_cause = worker.kill_cause or _TEMPLATE_DIED
        self._worker_exited(worker, -1)

    def _start_again(self, worker: Worker) -> None:
        """Start a worker whose template died before it forked it from another template."""
        if worker.starts >= _MAX_STARTS:
            self._forget(worker)
            failed = worker.template.failed
            cause = failed.message if failed is not None else _TEMPLATE_DIED
            self._tell(messages.WorkerExited(worker.id, worker.kill_cause or cause))
            return
        spec = worker.spec
        template = self._template_of(spec)
        worker.template.users -= 1
        self._workers[worker.id] = again = worker.again(template)
        template.when_settled(partial(self._launch, again))

    def _give_up_start(self, worker: Worker) -> None:
        if worker.id not in self._workers or worker.page.is_ready:
            return
        seconds = worker.spec.startup_timeout_seconds
        error = TimeoutError(f"{worker.spec.name}: the worker did not start within {seconds:g} s")
        self._refuse(worker.id, worker.spec, Failed(str(error), _captured(error)))
        worker.kill(f"killed: did not start within {seconds:g} s")

    def _fail(self, worker: Worker, failed: Failed) -> None:
        self._refuse(worker.id, worker.spec, failed)  # before it is forgotten how its code came
        self._forget(worker)

    def _refuse(self, worker: WorkerId, spec: FunctionSpec, failed: Failed) -> None:
        text = failed.message
        exception = failed.exception or _captured(InternalFailure(text))
        if self._contents.came_sealed(spec):
            text, exception = messages.SEALED_START, self._seals.start_failure(exception)
        self._tell(messages.StartFailed(worker, text, failed.lack), exception)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.id, None)
        self._devices.give_back(worker.asked.devices)
        worker.template.users -= 1
        worker.close()
        self.templates.trim()
        if worker.spec.pool not in self._specs:
            self._drop_objects()

    # ---- devices ----------------------------------------------------------------------------

    def _tell_devices(self, worker: WorkerId) -> None:
        """Say what others have, because of which `worker` is not started, and look at it anew."""
        self._tell(messages.DevicesHeld(tuple(sorted(self._devices.held)), worker))
        if not self._looks_at_devices:
            self._looks_at_devices = True
            self._timers.at(time.monotonic() + LOOK_SECONDS, self._look_at_devices)

    def _look_at_devices(self) -> None:
        if self._devices.look():
            self._tell(messages.DevicesHeld(tuple(sorted(self._devices.held))))
        self._looks_at_devices = bool(self._devices.held)
        if self._looks_at_devices:
            self._timers.at(time.monotonic() + LOOK_SECONDS, self._look_at_devices)

    # ---- stopping ---------------------------------------------------------------------------

    def _stop(self, message: messages.StopWorker) -> None:
        worker = self._workers.get(message.worker)
        if worker is None:
            return
        worker.is_stopping = True
        worker.tell(local.Stop())
        kill = partial(self._kill, message.worker, "killed: did not stop in time")
        grace_seconds = message.grace_seconds
        if worker.spec.cleans_up:
            grace_seconds = max(grace_seconds, EXIT_SECONDS)
        self._timers.at(time.monotonic() + grace_seconds, kill)

    def _kill(self, worker: WorkerId, cause: str = "killed on request") -> None:
        if found := self._workers.get(worker):
            found.kill(cause)

    def _interrupt(self, message: messages.Interrupt) -> None:
        worker = self._workers.get(message.worker)
        if worker is None:
            return
        worker.tell(local.Interrupt(message.lease, message.index, "cancel"))

        def insist() -> None:
            places = worker.page.all_running() if worker.id in self._workers else ()
            if (message.lease, message.index) in {(one.lease, one.index) for one in places}:
                worker.kill("killed: ran on after its input was cancelled")

        self._timers.at(time.monotonic() + message.grace_seconds, insist)

    # ---- time limits ------------------------------------------------------------------------

    def _look(self, worker: Worker) -> None:
        """See whether an input that runs is over its limit, and when to look again."""
        if worker.id not in self._workers:
            return
        now, limit = time.monotonic(), worker.spec.timeout_seconds
        next_due = now + limit
        for place in worker.page.all_running():
            due = place.started_ns * _NS + limit
            if due > now:
                next_due = min(due, next_due)
            elif place not in worker.overdue:
                worker.overdue.add(place)
                worker.tell(local.Interrupt(LeaseId(place.lease), place.index, "timeout"))
                self._timers.at(now + GRACE_SECONDS, partial(self._insist_on_time, worker, place))
        self._timers.at(max(next_due, now + _MIN_LOOK_SECONDS), partial(self._look, worker))

    def _insist_on_time(self, worker: Worker, place: Place) -> None:
        worker.overdue.discard(place)
        if worker.id in self._workers and place in worker.page.all_running():
            worker.timed_out = place
            limit = worker.spec.timeout_seconds
            worker.kill(
                f"killed: did not stop {GRACE_SECONDS:g} s after its timeout of {limit:g} s"
            )

    # ---- memory limits ----------------------------------------------------------------------

    def _measure(self, worker: Worker) -> None:
        """See whether a worker is over its memory limit, and when to look again."""
        if self._workers.get(worker.id) is not worker or worker.kill_cause:
            return
        began, limit = time.monotonic(), worker.spec.resources.memory_limit_mib
        used = memory.used_mib(worker.pid, limit)
        if used > limit:
            worker.over_memory_mib = used
            worker.kill(f"killed: used {used} MiB, more than its limit of {limit} MiB")
            return
        now = time.monotonic()
        pause = memory.pause_seconds(limit - used, now - began)
        self._timers.at(now + pause, partial(self._measure, worker))

    # ---- templates --------------------------------------------------------------------------

    def _watch(self, template: Template) -> None:
        self._sources[template.end.fileno()] = partial(self._hear_template, template)
        if template.pid:
            self._pids[template.pid] = template

    def _unwatch(self, template: Template) -> None:
        self._sources.pop(template.end.fileno(), None)

    def _allow(self, template: Template, seconds: float) -> None:
        """A template begins to load."""
        self._pids[template.pid] = template
        if template.state is State.FAILED:  # it was quicker than its parent's answer
            workers.kill_group(template.pid)

        def give_up() -> None:
            if template.is_settled:
                return
            error = TimeoutError(f"{template.name}: was not loaded within {seconds:g} s")
            self._give_up_template(template, Failed(str(error), _captured(error)))

        self._timers.at(time.monotonic() + seconds, give_up)

    def _give_up_template(self, template: Template, failed: Failed) -> None:
        template.failed = failed
        if template.pid:
            workers.kill_group(template.pid)
        template.settle(State.FAILED)

    def _hear_template(self, template: Template) -> None:
        try:
            received = local.receive(template.end, local.from_template, _DO_NOT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            self._unwatch(template)  # how it ended comes from whoever reaps it
            return
        message, files = received
        match message:
            case local.Forked():
                self.templates.forked(message)
            case local.Exited():
                self._exited(message.pid, message.status)
            case local.Loaded():
                template.settle(State.READY)
            case local.Unsafe():
                template.reason = message.reason
                self.templates.drop(template)  # nobody needs the process: it is known why
                template.settle(State.UNSAFE)
            case local.LoadFailed():
                failed = Failed(message.message, local.content_of(files[0]), message.lack)
                self._give_up_template(template, failed)
            case _:
                assert_never(message)
        local.close_all(files)

    # ---- images -----------------------------------------------------------------------------

    def _watch_build(self, build: Build) -> None:
        self._pids[build.pid] = build
        self._sources[build.output] = partial(self._hear_build, build)

    def _unwatch_build(self, build: Build) -> None:
        self._sources.pop(build.output, None)

    def _hear_build(self, build: Build) -> None:
        self._delay(self._waiting_for(build), self._images.hear(build))

    def _build_of(self, worker: Worker) -> Build | None:
        environment = self._contents.opened.get(worker.spec.environment)
        if worker.is_launched or environment is None:
            return None
        return self._images.build_of(environment)

    def _waiting_for(self, build: Build) -> list[Worker]:
        return [w for w in self._workers.values() if self._build_of(w) is build]

    def _delay(self, waiting: list[Worker], text: bytes) -> None:
        """Say that workers wait for their image, and once to each pool what its build says."""
        told: set[PoolId] = set()
        for worker in waiting:
            said = b"" if worker.spec.pool in told else text
            told.add(worker.spec.pool)
            if said and self._contents.came_sealed(worker.spec):
                said = self._seals.build(said)
            self._tell(messages.StartDelayed(worker.id), said)

    # ---- deaths -----------------------------------------------------------------------------

    def _exited(self, pid: int, status: int) -> None:
        """A process that we know has ended and is reaped."""
        owner = self._pids.pop(pid, None)
        if isinstance(owner, Worker):
            self._worker_exited(owner, status)
        elif isinstance(owner, Build):
            self._delay(self._waiting_for(owner), self._images.last_words(owner))
            self._images.exited(owner, status)
        elif owner is not None:
            self._template_exited(owner, status)

    def _worker_exited(self, worker: Worker, status: int) -> None:
        cause = workers.cause_of(status, worker, self._oom_kills)
        self._oom_kills = workers.oom_kills() if "SIGKILL" in cause else self._oom_kills
        running = worker.page.all_running()
        place = running[-1] if running else None
        if place is not None:
            call = CallId(worker.page.call)
            for stream, data in worker.last_words():
                said = messages.Output(call, place.index, stream, worker.id)
                self._tell(*self._seals.output(said, data))
        guilty = worker.timed_out or place
        lease = LeaseId(worker.page.slots[pages.LEASE] if guilty is None else guilty.lease)
        position = guilty.index if guilty is not None else -1
        also = tuple(LeaseId(one.lease) for one in running if one.lease != lease)
        timed_out = worker.timed_out is not None
        rendezvous.remove_kernel(self._connection_file, worker.id)
        self._forget(worker)
        self._tell(
            messages.WorkerExited(
                worker.id,
                cause,
                lease,
                position,
                timed_out=timed_out,
                over_memory_mib=worker.over_memory_mib,
                started=also,
            )
        )
        self._sweep()

    def _template_exited(self, template: Template, status: int) -> None:
        how, by_chance = workers.end_of_load(status)
        if not template.is_settled:
            message = f"{template.name}: the process that loads it died: {how}"
            failed = Failed(message, _captured(InternalFailure(message)))
        else:
            failed = Failed(f"{template.name}: the template died", b"")
        with contextlib.suppress(OSError):
            while template.end.fileno() in self._sources:
                self._hear_template(template)  # what it said before it died
                if not select.select([template.end], [], [], 0)[0]:
                    break
        self.templates.gone(template, failed, by_chance=by_chance)
        self._adopt_children()

    def _adopt_children(self) -> None:
        """Find out about children of a template that died before it could say how they ended."""
        for pid in [pid for pid in self._pids if not os.path.exists(f"/proc/{pid}")]:  # noqa: PTH110
            self._exited(pid, -1)

    def _watch_children(self) -> None:
        """Hear of the children that we reap ourselves."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def reap() -> None:
            with contextlib.suppress(BlockingIOError):
                while os.read(read, 4096):
                    pass
            self._reap()

        self._sources[read] = reap
        self._reap()

    def _reap(self) -> None:
        reaped_other = False
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                reaped_other = reaped_other or pid not in self._pids
                self._exited(pid, status)
        if reaped_other:
            self._sweep()

    def _sweep(self) -> None:
        orphans.sweep(self._pids.keys(), {w.id: w.pid for w in self._workers.values() if w.pid})

    # ---- the end ----------------------------------------------------------------------------

    def stop(self) -> None:
        """End at the next turn; for signal handlers."""
        self._is_ending = True

    def _end(self) -> None:
        """Kill everything below us, also what users' functions left behind."""
        self._let_clean_up()
        deadline = time.monotonic() + _END_SECONDS
        for pid in list(self._pids):
            workers.kill_group(pid)
        while time.monotonic() < deadline:
            for pid in orphans.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        rendezvous.remove_kernels(self._connection_file)
        self._broker.close()

    def _let_clean_up(self) -> None:
        """Let idle workers with `exit` hooks run them; who is busy is not waited for."""
        cleaning = [w for w in self._workers.values() if w.spec.cleans_up and w.page.is_ready]
        cleaning = [worker for worker in cleaning if worker.page.running() is None]
        if not cleaning:
            return
        for worker in cleaning:
            worker.is_stopping = True
            worker.tell(local.Stop())
        deadline = time.monotonic() + LAST_EXIT_SECONDS
        self._timers.at(deadline, lambda: None)
        while time.monotonic() < deadline and any(w.id in self._workers for w in cleaning):
            self._turn()


_DO_NOT_WAIT = 0x40  # MSG_DONTWAIT


def _captured(error: BaseException) -> bytes:
    from kernel_worker.wire import failures  # noqa: PLC0415  only where something fails

    return failures.capture(error)
