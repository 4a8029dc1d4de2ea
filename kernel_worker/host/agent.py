"""The host agent: it starts, watches, stops, kills and reaps the workers of one machine.

Theory. One thread, one poll: the broker's connection, a socket per template, the pipe behind
SIGCHLD, and the next timer. It wakes up for nothing else, so that an idle host
costs no processor time. How a worker begins is in `starting`, how it is kept within its limits in
`limits`, what its pool needs in `pools`. Workers are forked by templates (`templates`), which reap
them and say how they ended; what the agent reaps itself are base templates, children of templates
that died, and what users' functions left behind (`orphans`).

Guarantees: each `WorkerStarted` is followed by one `WorkerExited`; when the agent is told to end,
every process below it is killed and reaped; when it is itself killed, the kernel kills them
(`worker.lifeline`).
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

from kernel_worker import rendezvous
from kernel_worker.errors import InternalFailure, TimeoutError  # noqa: A004  ours
from kernel_worker.host import log, orphans, survival, workers
from kernel_worker.host.connection import Connection
from kernel_worker.host.contents import Contents
from kernel_worker.host.images import Build, Images
from kernel_worker.host.limits import Limits
from kernel_worker.host.pools import Pools
from kernel_worker.host.starting import Starting
from kernel_worker.host.succession import Succession
from kernel_worker.host.templates import Failed, State, Template, Templates
from kernel_worker.host.timers import Timers
from kernel_worker.host.workers import Worker
from kernel_worker.model import CallId, HostId, LeaseId, WorkerId
from kernel_worker.wire import local, messages
from kernel_worker.wire import page as pages
from kernel_worker.wire.seals import Seals

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kernel_worker.model import HostResources, Survivor

EXIT_SECONDS = 30.0
"""How long `exit` hooks may take when their worker is stopped …"""
LAST_EXIT_SECONDS = 5.0
"""… and when the host agent itself ends."""
_END_SECONDS = 5.0
_LONGEST_POLL_MS = 3_600_000
"""A poll takes no more than 24 days; a timeout may be longer."""
_SOON_SECONDS = 1.0
_FIRST_SECONDS = 10.0
"""How long the broker that started us may take to answer."""


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
        self.address = address
        self.connection_file = connection_file
        self._resources = resources
        self.machine = machine
        self._grace_seconds = grace_seconds
        self._broker = Connection(host, address)
        self.tell = self._broker.tell
        self._sources: dict[int, Callable[[], None]] = {}
        self.timers = Timers()
        self.seals = Seals(connection_file)
        self.contents = Contents(self.seals)
        self.workers: dict[WorkerId, Worker] = {}
        self.pids: dict[int, Worker | Template | Build] = {}
        self.is_far = False
        """Whether the notebook may be on another machine."""
        self._is_ending = False
        self._dialled = 0
        """How often."""
        self._gone_at = 0.0
        """When the last broker died that had answered, by `time.monotonic`."""
        self._oom_kills = workers.oom_kills()
        self._succession = Succession()
        self.images = Images(find_images, lifeline[0], self._watch_build, self._unwatch_build)
        self.templates = Templates(
            lifeline[0], self._watch, self._unwatch, self._allow, self.images
        )
        self.limits = Limits(self.workers, self.timers)
        self.pools = Pools(self.workers, self.contents, self.templates, self.timers)
        self._starting = Starting(self, resources, device_locks)

    def compare_packages(self, name: str) -> None:
        """Compare those here with the caller's, where these may differ; `name` is our machine's."""
        self.images.host = name

    def soon(self, what: Callable[[], None]) -> None:
        """Call `what` once, when what this host begins with should be done."""
        self.timers.at(time.monotonic() + _SOON_SECONDS, what)

    def run(self) -> None:
        """Serve until the broker refuses us or says goodbye, or is gone and none follows."""
        self._watch_children()
        rendezvous.remove_kernels(self.connection_file)
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
        self.timers.run(time.monotonic())

    def _patience_ms(self) -> int:
        due = self.timers.next_at()
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
            machine=self.machine,
            resources=self._resources,
            survivors=survivors,
        )
        self._broker.dial(hello)
        self._dialled += 1
        until = time.monotonic() + patience_seconds
        self.timers.at(until, partial(self._give_up_broker, self._dialled))

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
        survivors = survival.survivors_of(self.workers.values())
        patience_seconds = self._gone_at + self._grace_seconds - now
        if is_followed:
            patience_seconds = max(patience_seconds, self._gone_at + _FIRST_SECONDS - now)
        if not (survivors or is_followed) or patience_seconds <= 0:
            self._broker.hang_up()
            self._is_ending = True
            return
        self._dial(patience_seconds, survivors)
        survival.say_rejoin(self.workers.values())

    def _hear(self) -> None:
        while (frames := self._broker.receive()) is not None:
            try:
                self._obey(messages.decode_at_host(frames[0]), frames[1:])
            except Exception as error:  # noqa: BLE001  one bad message ends no host
                log.say(f"{type(error).__name__}: {error}")

    def _obey(self, message: messages.ToHost, frames: list[bytes]) -> None:
        match message:
            case messages.StoreObject():
                self.contents.keep(message.digest, frames[0])
            case messages.StartWorker():
                self._starting.start(message)
            case messages.StopWorker():
                self._stop(message)
            case messages.KillWorker():
                self._kill(message.worker)
            case messages.TakeBack():
                if worker := self.workers.get(message.worker):
                    worker.tell(local.TakeBack(message.lease))
            case messages.Interrupt():
                self._interrupt(message)
            case messages.ConsoleInput():
                if worker := self.workers.get(message.worker):
                    worker.tell(local.ConsoleInput(message.what, message.text))
            case messages.AttachKernel():
                if worker := self.workers.get(message.worker):
                    worker.tell(local.Attach())
            case messages.RetirePool():
                self.pools.retire_later(message.pool)
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

    # ---- stopping ---------------------------------------------------------------------------

    def _stop(self, message: messages.StopWorker) -> None:
        worker = self.workers.get(message.worker)
        if worker is None:
            return
        worker.is_stopping = True
        worker.tell(local.Stop())
        kill = partial(self._kill, message.worker, "killed: did not stop in time")
        grace_seconds = message.grace_seconds
        if worker.spec.cleans_up:
            grace_seconds = max(grace_seconds, EXIT_SECONDS)
        self.timers.at(time.monotonic() + grace_seconds, kill)

    def _kill(self, worker: WorkerId, cause: str = "killed on request") -> None:
        if found := self.workers.get(worker):
            found.kill(cause)

    def _interrupt(self, message: messages.Interrupt) -> None:
        worker = self.workers.get(message.worker)
        if worker is None:
            return
        worker.tell(local.Interrupt(message.lease, message.index, "cancel"))

        def insist() -> None:
            places = worker.page.all_running() if worker.id in self.workers else ()
            if (message.lease, message.index) in {(one.lease, one.index) for one in places}:
                worker.kill("killed: ran on after its input was cancelled")

        self.timers.at(time.monotonic() + message.grace_seconds, insist)

    # ---- templates --------------------------------------------------------------------------

    def _watch(self, template: Template) -> None:
        self._sources[template.end.fileno()] = partial(self._hear_template, template)
        if template.pid:
            self.pids[template.pid] = template

    def _unwatch(self, template: Template) -> None:
        self._sources.pop(template.end.fileno(), None)

    def _allow(self, template: Template, seconds: float) -> None:
        """A template begins to load."""
        self.pids[template.pid] = template
        if template.state is State.FAILED:  # it was quicker than its parent's answer
            workers.kill_group(template.pid)

        def give_up() -> None:
            if template.is_settled:
                return
            error = TimeoutError(f"{template.name}: was not loaded within {seconds:g} s")
            self._give_up_template(template, Failed.by(error))

        self.timers.at(time.monotonic() + seconds, give_up)

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
        self.pids[build.pid] = build
        self._sources[build.output] = partial(self._hear_build, build)

    def _unwatch_build(self, build: Build) -> None:
        self._sources.pop(build.output, None)

    def _hear_build(self, build: Build) -> None:
        self._starting.delay(self._starting.waiting_for(build), self.images.hear(build))

    # ---- deaths -----------------------------------------------------------------------------

    def _exited(self, pid: int, status: int) -> None:
        """A process that we know has ended and is reaped."""
        owner = self.pids.pop(pid, None)
        if isinstance(owner, Worker):
            self.worker_exited(owner, status)
        elif isinstance(owner, Build):
            waiting = self._starting.waiting_for(owner)
            self._starting.delay(waiting, self.images.last_words(owner))
            self.images.exited(owner, status)
        elif owner is not None:
            self._template_exited(owner, status)

    def worker_exited(self, worker: Worker, status: int) -> None:
        """A worker has ended; `status` is as of `waitpid`, -1: nobody knows it."""
        cause = workers.cause_of(status, worker, self._oom_kills)
        self._oom_kills = workers.oom_kills() if "SIGKILL" in cause else self._oom_kills
        running = worker.page.all_running()
        place = running[-1] if running else None
        if place is not None:
            call = CallId(worker.page.call)
            for stream, data in worker.last_words():
                said = messages.Output(call, place.index, stream, worker.id)
                self.tell(*self.seals.output(said, data))
        guilty = worker.timed_out or place
        lease = LeaseId(worker.page.slots[pages.LEASE] if guilty is None else guilty.lease)
        position = guilty.index if guilty is not None else -1
        also = tuple(LeaseId(one.lease) for one in running if one.lease != lease)
        timed_out = worker.timed_out is not None
        rendezvous.remove_kernel(self.connection_file, worker.id)
        self._starting.forget(worker)
        self.tell(
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
            failed = Failed.by(InternalFailure(message))
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
        for pid in [pid for pid in self.pids if not os.path.exists(f"/proc/{pid}")]:  # noqa: PTH110
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
                reaped_other = reaped_other or pid not in self.pids
                self._exited(pid, status)
        if reaped_other:
            self._sweep()

    def _sweep(self) -> None:
        orphans.sweep(self.pids.keys(), {w.id: w.pid for w in self.workers.values() if w.pid})

    # ---- the end ----------------------------------------------------------------------------

    def stop(self) -> None:
        """End at the next turn; for signal handlers."""
        self._is_ending = True

    def _end(self) -> None:
        """Kill everything below us, also what users' functions left behind."""
        self._let_clean_up()
        deadline = time.monotonic() + _END_SECONDS
        for pid in list(self.pids):
            workers.kill_group(pid)
        while time.monotonic() < deadline:
            for pid in orphans.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        rendezvous.remove_kernels(self.connection_file)
        self._broker.close()

    def _let_clean_up(self) -> None:
        """Let idle workers with `exit` hooks run them; who is busy is not waited for."""
        cleaning = [w for w in self.workers.values() if w.spec.cleans_up and w.page.is_ready]
        cleaning = [worker for worker in cleaning if worker.page.running() is None]
        if not cleaning:
            return
        for worker in cleaning:
            worker.is_stopping = True
            worker.tell(local.Stop())
        deadline = time.monotonic() + LAST_EXIT_SECONDS
        self.timers.at(deadline, lambda: None)
        while time.monotonic() < deadline and any(w.id in self.workers for w in cleaning):
            self._turn()


_DO_NOT_WAIT = 0x40  # MSG_DONTWAIT
