"""A worker process, from the fork to its end.

`run` is called in the child, on a clean stack, as the leader of its own process group, tied to the
host agent's life. It sets the process up (pipes, environment, random generators, threads of numeric
libraries), loads the function if its template did not, says `Hello`, and runs leases until it is
told to stop.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import random
import socket
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from kernel_worker import context
from kernel_worker.errors import DeserializationError, ProtocolError
from kernel_worker.model import SEALED_CALL
from kernel_worker.wire import failures, local, messages
from kernel_worker.wire import page as pages
from kernel_worker.worker import memory
from kernel_worker.worker import output as outputs
from kernel_worker.worker.batching import Batching
from kernel_worker.worker.channel import Channel
from kernel_worker.worker.concurrent import Concurrent
from kernel_worker.worker.consoles import Consoles
from kernel_worker.worker.control import Control
from kernel_worker.worker.instance import Instance
from kernel_worker.worker.run import Executor
from kernel_worker.worker.surroundings import Objects, Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.worker.binding import Binding

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_PATIENCE_SECONDS = 1.0
Runner = Executor | Concurrent | Batching
"""How a worker runs its leases: one after the other, side by side, or in groups."""
_NUMERIC = ("numpy", "scipy", "sklearn", "torch", "numba")


@dataclass(frozen=True, slots=True)
class Files:
    """The open files that a worker is given, in this order."""

    page: int
    stdout_read: int
    stdout_write: int
    stderr_read: int
    stderr_write: int
    control: int


def run(
    start: local.ForkWorker,
    files: Files,
    load: Callable[[], Binding | Instance],
    threads: dict[str, str | None],
    said: list[tuple[outputs.StreamName, str]],
) -> NoReturn:
    """Be a worker.

    Args:
        start: what the host agent asked for.
        files: what came with it.
        load: returns the function; only fast where its template has loaded it.
        threads: the caller's values of `THREAD_VARIABLES`.
        said: what was written while the code was loaded and the instance made, if this worker is to
            say it.
    """
    _replace_descriptors(files)
    _set_variables(start, threads)
    page = pages.Page(files.page)
    channel = Channel(start.address, start.worker, start.connection_file)
    identity = context.WorkerIdentity(start.worker, start.connection_file, {}, _load_function)
    context.worker_identity = identity
    context.seals = start.seals
    try:
        binding = load()
    except BaseException as error:  # noqa: BLE001  the broker hears of it
        _fail(channel, start, error)
    _renew_generators()
    _raise_threads(start.spec.resources.cpu, threads)
    output = outputs.Output(channel, start.worker)
    identity.running = lambda: output.current
    pipes = (
        outputs.Pipe(output, "stdout", files.stdout_read),
        outputs.Pipe(output, "stderr", files.stderr_read),
    )
    memory.limit(start.spec.resources)
    objects = Objects(identity)
    executor = Executor(
        start.worker, start.spec, binding, page, channel, output, pipes, objects, Surroundings()
    )
    end = socket.socket(fileno=files.control)
    runner: Runner = executor
    if start.spec.max_inputs > 1 or start.spec.max_batch_size:
        kind = Concurrent if start.spec.max_inputs > 1 else Batching
        runner = kind(executor, binding, page, channel, output)
    consoles = Consoles(start, channel, output, page, executor, keeps_failed=runner is executor)
    attach = partial(_attach, start, binding, executor, channel)
    rejoin = partial(runner.rejoin, partial(_hello, start, page))
    control = Control(end, channel, runner, pipes, attach, consoles, rejoin)
    output.rouse = control.rouse
    executor.streamer.hurry, executor.is_stopping = control.hurry, lambda: control.is_stopping
    executor.interrupts.install()
    os.register_at_fork(after_in_child=runner.forked)
    control.start()
    outputs.install(output)
    faulthandler.enable(2)
    output.is_holding = isinstance(binding, Instance) or bool(said)
    for stream, text in said:
        output.hold(stream, text)
    if isinstance(binding, Instance):
        identity.entering = start.spec
        try:
            binding.enter(executor.run_coroutine)
        except BaseException as error:  # noqa: BLE001  the broker hears of it
            _fail(channel, start, error)
        identity.entering = None
    _be_ready(start, page, channel, executor)

    serve = partial(_serve_to_the_end, channel, control, runner, objects, binding)
    if isinstance(runner, Concurrent) and runner.has_loop:
        runner.serve_beside_loop(serve)
    serve()


def _serve_to_the_end(
    channel: Channel,
    control: Control,
    runner: Runner,
    objects: Objects,
    binding: Binding | Instance,
) -> NoReturn:
    _serve(channel, control, runner, objects)
    if isinstance(binding, Instance):
        _leave(binding, runner)
    _end(channel, 0)


def _leave(instance: Instance, runner: Runner) -> None:
    """Run the `exit` hooks; what they say belongs to the last input, if its call still listens."""
    try:
        instance.leave(runner.run_coroutine)
    except BaseException:  # noqa: BLE001  nobody waits for it: it is shown
        traceback.print_exc()
    runner.say_last(_PATIENCE_SECONDS)


def _fail(channel: Channel, start: local.ForkWorker, error: BaseException) -> NoReturn:
    text, exception = f"{type(error).__name__}: {error}", failures.capture(error)
    if start.seals:
        text, exception = messages.SEALED_START, channel.seals.start_failure(exception)
    channel.send(messages.StartFailed(start.worker, text), [exception])
    _end(channel, 1)


def _serve(channel: Channel, control: Control, executor: Runner, objects: Objects) -> None:
    """Do what the broker says until the host agent says stop."""
    while True:
        frames = channel.receive()
        if frames is None:
            if control.is_stopping:
                return
            continue
        try:
            message = messages.decode_at_worker(frames[0])
            match message:
                case messages.Lease():
                    control.rouse()
                    if message.call.startswith(SEALED_CALL):
                        channel.seals.begin()
                    executor.run(message, frames[1:])
                case messages.StoreObject():
                    objects.store(message.digest, frames[1], channel.seals)
                case messages.Refused() | messages.Bye():
                    return
                case messages.Welcome() | messages.Credit():
                    pass  # a credit that comes after the end
        except (ProtocolError, DeserializationError, IndexError) as error:
            os.write(2, f"bad message: {error}\n".encode())


def _replace_descriptors(files: Files) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(files.stdout_write, 1)
    os.dup2(files.stderr_write, 2)
    os.close(null)  # not the others: pipes that nobody could write to would always be readable


def _set_variables(start: local.ForkWorker, threads: dict[str, str | None]) -> None:
    os.environ.pop("JPY_PARENT_PID", None)  # ipykernel would end a process whose parent is 1
    os.environ["NOTEBOOK_EXT_WORKER"] = start.worker
    os.environ["NOTEBOOK_EXT_WORKPLACE"] = start.connection_file
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the host agent numbers them
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, start.devices))
    for name in THREAD_VARIABLES:
        os.environ[name] = threads.get(name) or str(_thread_count(start.spec.resources.cpu))


def _thread_count(cpu: float) -> int:
    return max(1, int(cpu))


def _renew_generators() -> None:
    """Seed the global generators afresh: forks of one template would draw the same numbers."""
    random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(int.from_bytes(os.urandom(8), "little"))


def _raise_threads(cpu: float, threads: dict[str, str | None]) -> None:
    """Give the numeric libraries that are loaded the threads that this worker may use."""
    chosen = threads.get("OMP_NUM_THREADS") or ""
    count = int(chosen) if chosen.isdigit() else _thread_count(cpu)
    if count <= 1 or not any(name in sys.modules for name in _NUMERIC):
        return
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415  only where it is needed

    threadpool_limits(limits=count)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


def _be_ready(
    start: local.ForkWorker, page: pages.Page, channel: Channel, executor: Executor
) -> None:
    """Say hello: here, or in `rejoin`, if that comes in between (or in both, which does no harm).

    It is said to be ready before it is seen which broker is dialled; `rejoin` does it the other way
    round: so one of the two knows of the other.
    """
    page.slots[pages.READY] = 1
    gc.enable()
    if (hello := _hello(start, page, executor.brokers_gone)) is not None:
        channel.send(hello)


def _hello(start: local.ForkWorker, page: pages.Page, number: int) -> messages.Hello | None:
    """Return what a worker says that is ready, which has outlived so many brokers."""
    if not page.is_ready:
        return None
    pid, machine = os.getpid(), start.machine
    return messages.Hello("worker", start.worker, pid=pid, machine=machine, number=number)


def _attach(
    start: local.ForkWorker, binding: Binding | Instance, executor: Executor, channel: Channel
) -> None:
    """Be a Jupyter kernel too; that is imported in its own thread, and only now."""
    from kernel_worker.worker import attaching  # noqa: PLC0415  as said

    attaching.attach(start, lambda: binding.namespace, executor.coroutines, channel)


def _load_function(code: bytes, snapshot: bytes) -> Any:
    """Return a function that this worker was not started for: another one's `.local`."""
    from kernel_worker.worker import binding  # noqa: PLC0415  rarely

    return binding.load_function(code, snapshot)


def _end(channel: Channel, code: int) -> NoReturn:
    """End as an interpreter does, but for the threads that user code left."""
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # noqa: SLF001  the process was forked: nobody else runs them
    with contextlib.suppress(Exception):
        channel.close()
    os._exit(code)
