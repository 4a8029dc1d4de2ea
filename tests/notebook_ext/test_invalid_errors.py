"""Every `InvalidError` says what was given, as which value, and what is allowed or to do instead.

A table with a case for each place that raises one. A test finds these places in the source and
compares: a new one needs a case here.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import pickle
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest

import notebook_ext as nb
from kernel_worker import context
from kernel_worker.model import FunctionKey, Outcome, WorkerId
from kernel_worker.wire import instances
from notebook_ext import (
    cloud,
    console,
    entrypoint,
    image_files,
    inviting,
    metrics,
    migrate,
    process,
    script,
    secret_commands,
    secret_store,
)
from notebook_ext.exception import InvalidError
from notebook_ext.feed import Feed, Gate
from notebook_ext.refeed import Refeed
from notebook_ext.replay import Replay
from notebook_ext.submission import Ended
from notebook_ext.unfinished import Unfinished
from tests.core.simulation import make_spec
from tests.notebook_ext.web import refused

ROOM = Path(nb.__file__).parent
ROOT = ROOM.parent
REMEDY = re.compile(
    r"allowed|use \.?|[Cc]all (it|\.|\w)|give |[Dd]efine |say which|write |takes |needs "
    r"|leave |[Kk]eep |[Pp]ut |swap |There are|from 0 on|are had with|is for |given by name|make "
)

app = nb.App("invalid")


@app.function
def f(x: int = 0) -> int:
    return x


@app.function(name="items")
def g() -> Any:
    yield 1


@app.function(name="refers")
def refers() -> Any:
    return elsewhere


elsewhere = nb.Function.reference(FunctionKey("other/app/h"), "h", "m")
stray = nb.App("stray")
stray_refers = stray.function(name="stray_refers")(lambda: elsewhere)
call = nb.FunctionCall.from_id("fc-nobody")


def listening_twice() -> None:
    f.remote()  # so that there is a broker
    inviting.listen("tcp://127.0.0.1:1")


slow = app.function(name="slow")(lambda: __import__("time").sleep(60))


def connected_while_called() -> None:
    waiting = slow.spawn()
    try:
        nb.connect("local://")
    finally:
        waiting.cancel()


class Method:
    m = f


class Case(NamedTuple):
    does: Callable[[], object]
    names: tuple[str, ...]
    """What the message has to name: the option, the value."""


def kinds() -> nb.App:
    """Return an app with a function and a class."""
    mixed = nb.App("mixed")
    mixed.function(name="plain")(lambda: 1)
    mixed.cls(name="Kind")(type("Kind", (), {}))
    return mixed


def both_under_one_name() -> nb.App:
    mixed = kinds()
    mixed.function(name="Kind")(lambda: 1)
    return mixed


def looked_up(kind: Any, name: str) -> object:
    kinds().deploy()
    return kind.lookup("mixed", name)


def option(**given: Any) -> Callable[[], object]:
    return lambda: app.function(**given)


def twice(run: Any) -> object:
    list(run)
    return list(run)


def left_by(**kept: int) -> Unfinished[Any]:
    """Return what a map leaves of which an input failed."""
    mapped = f.map([])
    assert list(mapped) == []
    left = mapped.unfinished
    assert left is not None
    left.run.facts.failed = 1
    for name, value in kept.items():
        setattr(left.run.kept, name, value)
    return left


def not_iterated() -> object:
    mapped = f.map([])
    try:
        return mapped.results
    finally:
        list(mapped)


def whole() -> object:
    mapped = f.map([])
    return list(mapped) or mapped.resume()


def taken_over() -> None:
    run = left_by().run
    run.feed.error = LookupError("no more")
    gate = Gate(lambda: False)
    feed = Refeed(run, str, spread=False, gate=gate, ready=gate.look)
    for waiting in feed._steps():
        waiting.join()


def without_prometheus() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metrics, "find_spec", {}.get)
        metrics.start(metrics.DEFAULT_ADDRESS)


def scheduled_from_afar() -> None:
    far = nb.App("far")
    far.function(name="tick", schedule=nb.Period(hours=1))(lambda: 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process.current(), "is_far", True)
        far.deploy()


def read_in_part() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    gate = Gate(lambda: False)
    gate.close()
    Feed([numbers()], spread=False, gate=gate, ready=gate.look)._pull()


def several(*, with_functions: bool) -> script.Script:
    a, b = nb.App("a"), nb.App("b")
    if with_functions:
        a.function(name="m")(max)
        b.function(name="n")(min)
    return script.Script("s.py", "", {"a": a, "b": b})


def stored_twice() -> None:
    for _ in range(2):
        secret_store.store("twice", {"A": "1"}, replaces=False)


slim = nb.Image.debian_slim


def too_many_files() -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_files, "MOST_BYTES", 10)
        slim().add_local_file(__file__).spec()


def listed(xs: list[int]) -> None: ...


def replayed_elsewhere() -> object:
    replay = Replay(Ended(0, 1, Outcome.FAILED, 1, "", None), 0, "f")
    return replay()


def volume_elsewhere() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "is_far", lambda: True)
        return nb.Volume.from_name("invalid").path


def volume() -> nb.Volume:
    """Return a volume with a directory in it."""
    made = nb.Volume.from_name("invalid", create_if_missing=True)
    (made.path / "sub").mkdir(exist_ok=True)
    return made


def piped() -> nb.Volume:
    made = volume()
    if not (made.path / "pipe").exists():
        os.mkfifo(made.path / "pipe")
    return made


a_queue = nb.Queue.from_name("invalid", create_if_missing=True)

CASES = {
    "connect to a cluster, with calls": Case(
        connected_while_called, ("local://", "call(s) are open")
    ),
    "connect to no machine": Case(lambda: nb.connect("ssh://-oX=y"), ("ssh://-oX=y",)),
    "connect with options": Case(lambda: nb.connect("a.json", cpus=2), ("a.json", "cpus")),
    # dicts, queues, volumes
    "a dict's name": Case(lambda: nb.Dict.from_name("a/b"), ("'a/b'", "Dict")),
    "a queue's patience": Case(lambda: a_queue.get(timeout=-1), ("timeout=-1",)),
    "how many items": Case(lambda: a_queue.get_many(0), ("n_values=0",)),
    "which length": Case(lambda: a_queue.len(partition="p", total=True), ("partition='p'",)),
    "what to clear": Case(lambda: a_queue.clear(partition="p", all=True), ("partition='p'",)),
    "a partition": Case(lambda: a_queue.put(1, partition=""), ("partition=''",)),
    "a partition's time": Case(
        lambda: a_queue.put(1, partition="p", partition_ttl=0), ("partition_ttl=0",)
    ),
    "a volume's name": Case(lambda: nb.Volume.from_name(".."), ("'..'",)),
    "a volume's new name": Case(
        lambda: nb.Volume.rename(volume().name or "", "invalid"), ("new_name='invalid'",)
    ),
    "a volume that is there": Case(
        lambda: nb.Volume.objects.create(volume().name or ""), ("name='invalid'",)
    ),
    "an id": Case(lambda: nb.Dict.from_id("qu-x"), ("object_id='qu-x'", "Dict")),
    "a path with a zero": Case(lambda: volume().listdir("a\0"), ("path=",)),
    "all of a volume": Case(
        lambda: volume().remove_file("/", recursive=True), ("path='/'", "Volume.delete")
    ),
    "one path to copy": Case(lambda: volume().copy_files("a", "c"), ("src_paths='a'",)),
    "a copy into itself": Case(
        lambda: volume().copy_files(["sub"], "sub/x", recursive=True), ("dst_path='sub/x'",)
    ),
    "what has no end": Case(lambda: list(piped().read_file("pipe")), ("path='pipe'",)),
    "no file's name": Case(
        lambda: volume().batch_upload().put_file(io.BytesIO(), "x/"), ("remote_path='x/'",)
    ),
    "a path out of a volume": Case(lambda: volume().listdir("../x"), ("path='../x'",)),
    "a directory to remove": Case(lambda: volume().remove_file("sub"), ("path='sub'",)),
    "where to copy": Case(lambda: volume().copy_files(["a", "b"], "c"), ("dst_path='c'",)),
    "a directory to copy": Case(lambda: volume().copy_files(["sub"], "c"), ("sub",)),
    "no mounts": Case(option(volumes=[1]), ("volumes=[1]",)),
    "a mount of nothing": Case(option(volumes={"/data": 1}), ("'/data'", "1")),
    "a mount": Case(
        lambda: app.function(volumes={"/nowhere": volume()}), ("'/nowhere'", "volume.path")
    ),
    "a volume of another machine": Case(volume_elsewhere, ("remote functions",)),
    # consoles
    "an executor's containers": Case(lambda: nb.Executor(2, name="x"), ("name", "max_workers")),
    "debug what": Case(lambda: console.debug("worker 3"), ("worker 3", "fc-")),
    "debug where nobody types": Case(console.debug, ("terminal",)),
    # replays
    "a replay of what is not here": Case(replayed_elsewhere, ("f", "f.local(")),
    "a replay that travelled": Case(
        pickle.loads(pickle.dumps(Replay(Ended(0, 1, Outcome.LOST, 1, "", None), 0, "f"))),
        ("f.local(",),
    ),
    # attaching
    "attach to what": Case(lambda: nb.attach("worker 3"), ("worker 3", "ta-", "fc-")),
    # options
    "graph of what": Case(lambda: nb.widgets.graph(3), ("3", "FunctionCall")),
    "pool of what": Case(lambda: nb.widgets.pool("f"), ("'f'", "Function")),
    "unknown option": Case(option(tmeout=3), ("tmeout", "timeout")),
    "both spellings": Case(option(keep_warm=1, min_containers=2), ("min_containers=2",)),
    "not built": Case(option(mounts=3), ("mounts=3",)),
    # schedules
    "schedule": Case(option(schedule=3), ("schedule=3", "Cron", "Period")),
    "an expression's type": Case(lambda: nb.Cron(3), ("cron_string=3",)),  # type: ignore[arg-type]
    "a period of months": Case(lambda: nb.Period(months=2), ("Period(months=2)", "Cron")),
    "a period's length": Case(lambda: nb.Period(hours=-1), ("hours=-1",)),
    "a schedule of a class": Case(
        lambda: app.cls(schedule=nb.Period(hours=1)), ("schedule='every 3600 s'",)
    ),
    "a schedule of a variant": Case(
        lambda: f.with_options(schedule=nb.Period(hours=1)), ("f.with_options(schedule=Period",)
    ),
    "a schedule of what has arguments": Case(
        lambda: app.function(schedule=nb.Period(hours=1))(listed), ("listed", "'xs'")
    ),
    "a schedule from another machine": Case(scheduled_from_afar, ("name='far'", "tick")),
    "name": Case(option(name="a/b"), ("name='a/b'",)),
    "cpu": Case(option(cpu=0), ("cpu=0",)),
    "cpu type": Case(option(cpu="two"), ("cpu='two'",)),
    "memory": Case(option(memory=0), ("memory=0",)),
    "gpu": Case(option(gpu=1.5), ("gpu=1.5",)),
    "min_containers": Case(option(min_containers=-1), ("min_containers=-1",)),
    "max_containers": Case(option(max_containers=0), ("max_containers=0",)),
    "buffer_containers": Case(option(buffer_containers=2.0), ("buffer_containers=2.0",)),
    "floor over ceiling": Case(
        option(min_containers=3, max_containers=2), ("min_containers=3", "max_containers=2")
    ),
    "scaledown_window": Case(option(scaledown_window=0), ("scaledown_window=0",)),
    "timeout": Case(option(timeout=-1), ("timeout=-1",)),
    "startup_timeout": Case(option(startup_timeout=0), ("startup_timeout=0",)),
    "retries": Case(option(retries=11), ("retries=11",)),
    "Retries": Case(lambda: nb.Retries(max_retries=11), ("max_retries=11",)),
    "rerun_on_crash": Case(option(rerun_on_crash=1), ("rerun_on_crash=1",)),
    "single_use_containers": Case(option(single_use_containers="x"), ("single_use_containers",)),
    "nested_loops": Case(option(nested_loops=0), ("nested_loops=0",)),
    "allow_concurrent_inputs": Case(
        option(allow_concurrent_inputs=0), ("allow_concurrent_inputs=0",)
    ),
    "env": Case(option(env={"A=": "x"}), ("env=", "A=")),
    "env value": Case(option(env={"A": 3}), ("env=", "A", "int")),
    "env type": Case(option(env=3), ("env=", "int")),
    "secrets": Case(option(secrets={"A": "x"}), ("secrets=", "dict")),
    "tags": Case(option(tags=3), ("tags=3",)),
    "is_generator": Case(option(is_generator=3), ("is_generator=3",)),
    "serialized": Case(option(serialized=3), ("serialized=3",)),
    "environment_name": Case(option(environment_name=3), ("environment_name=3",)),
    "settings of a running pool": Case(lambda: f.keep_warm(-1), ("min_containers=-1",)),
    # apps and functions
    "app's name": Case(lambda: nb.App("a/b"), ("'a/b'",)),
    "app's name's type": Case(lambda: nb.App(3), ("App(3)",)),  # type: ignore[arg-type]
    "a function twice": Case(lambda: app.function(f), ("f",)),
    "no function": Case(lambda: app.function(3), ("3",)),  # type: ignore[call-overload]
    "no name": Case(lambda: app.function(Method()), ("Method",)),  # type: ignore[call-overload]
    "entrypoint": Case(lambda: app.local_entrypoint(f), ("local_entrypoint", "f")),
    "not a generator": Case(lambda: f.remote_gen(1), ("f",)),
    "a generator": Case(lambda: g.remote(), ("items.remote",)),  # noqa: PLW0108  its place counts
    "a generator says it is none": Case(
        lambda: app.function(is_generator=False)(g.get_raw_f()), ("is_generator=False",)
    ),
    "a generator's retries": Case(lambda: app.function(retries=2)(g.get_raw_f()), ("retries=2",)),
    "a name of another process": Case(lambda: elsewhere.remote(), ("h",)),  # noqa: PLW0108
    "the code of another process": Case(lambda: elsewhere.local(), ("h",)),  # noqa: PLW0108
    "a variant of another's": Case(
        lambda: elsewhere.with_options(timeout=3), ("h.with_options(timeout=3)",)
    ),
    "a method": Case(lambda: Method().m, ("f",)),
    # maps and calls
    "map of nothing": Case(lambda: f.map(), ("map",)),  # noqa: PLW0108
    "map of what does not iterate": Case(lambda: f.map(3), ("argument 1", "3")),
    "map's kwargs": Case(lambda: f.map([1], kwargs=[2]), ("kwargs=[2]",)),  # type: ignore[arg-type]
    "a map's results too early": Case(not_iterated, ("f.map",)),
    "nothing to resume": Case(whole, ("f.map",)),
    "too many failures": Case(lambda: left_by(forgot_failures=3).resume(), ("f.map", "3 more")),
    "too many results": Case(lambda: left_by(forgot_values=1).resume(), ("f.map",)),
    "an iterable that raised": Case(taken_over, ("f.map", "LookupError: no more")),
    "an async iterable, read in part": Case(read_in_part, ("async",)),
    # clients of other machines
    "a broker that listens elsewhere": Case(listening_twice, ("--listen tcp://127.0.0.1:1",)),
    "an invitation to nowhere": Case(lambda: inviting.invite("x"), ("--listen", "--address")),
    "no address for metrics": Case(lambda: metrics.parse_address("x"), ("--metrics 'x'",)),
    "metrics that are not installed": Case(without_prometheus, ("prometheus-client",)),
    "events of no call": Case(lambda: nb.events("in-1"), ("'in-1'",)),
    "map twice": Case(lambda: twice(f.map([])), ("f.map",)),
    "starmap of no tuples": Case(lambda: list(f.starmap([3])), ("starmap", "3")),
    "spawn_map of nothing": Case(lambda: f.spawn_map(), ("spawn_map",)),  # noqa: PLW0108
    "generator closed": Case(lambda: _closed(), ("items.remote_gen",)),  # noqa: PLW0108
    "call's id": Case(lambda: nb.FunctionCall.from_id("in-1"), ("'in-1'",)),
    "call's timeout": Case(lambda: call.get("1"), ("timeout='1'",)),  # type: ignore[arg-type]
    "call's index's type": Case(
        lambda: call.get(index="1"),  # type: ignore[arg-type]
        ("index='1'",),
    ),
    "iter's start's type": Case(
        lambda: call.iter("1"),  # type: ignore[arg-type]
        ("start='1'",),
    ),
    "call's index": Case(lambda: call.get(index=-1), ("index=-1",)),
    "call's range": Case(lambda: call.iter(start=-1), ("start=-1",)),
    "get of a generator": Case(
        lambda: nb.FunctionCall.from_id("fc-g", is_generator=True).get(), ("fc-g",)
    ),
    "get_gen of none": Case(
        lambda: nb.FunctionCall("fc-nobody", num_inputs=1).get_gen(), ("fc-nobody",)
    ),
    "gather": Case(lambda: nb.gather(3), ("gather", "3")),  # type: ignore[arg-type]
    "calls' status": Case(lambda: nb.calls(status="x"), ("status='x'",)),
    "calls' limit": Case(lambda: nb.calls(limit=0), ("limit=0",)),
    # deployment
    "deploy without a name": Case(lambda: nb.App().deploy(), ("name=None",)),
    "deploy's tag": Case(lambda: app.deploy(tag=3), ("tag=3",)),  # type: ignore[arg-type]
    "deploy of nothing": Case(lambda: nb.App("empty").deploy(), ("name='empty'",)),
    "deploy's other words": Case(lambda: app.deploy(nmae="x"), ("nmae='x'",)),
    "deploy of another's": Case(lambda: stray.deploy(), ("stray_refers",)),  # noqa: PLW0108
    "deploy of two of a name": Case(
        lambda: both_under_one_name().deploy(), ("name='mixed'", "'Kind'")
    ),
    "lookup of a class as a function": Case(lambda: looked_up(nb.Function, "Kind"), ("Kind",)),
    "lookup of a function as a class": Case(lambda: looked_up(nb.Cls, "plain"), ("plain",)),
    "from_name": Case(lambda: nb.Function.from_name("a", "b/c"), ("name='b/c'",)),
    "from_name twice": Case(
        lambda: nb.Function.from_name("a", "b", tag="c"), ("tag='c'", "name='b'")
    ),
    "another profile": Case(lambda: cloud.select_profile("x"), ("environment_name='x'",)),
    # images
    "image": Case(option(image=3), ("image=3",)),
    "another Python": Case(lambda: slim("2.7"), ("python_version='2.7'",)),
    "debian_slim's other words": Case(lambda: slim(nmae=1), ("nmae=1", "debian_slim")),
    "what the machine has to have": Case(
        lambda: slim().apt_install("git"), ("Image.apt_install('git')",)
    ),
    "no package": Case(lambda: slim().pip_install(), ("pip_install()",)),
    "what is no package": Case(
        lambda: slim().pip_install(3),  # type: ignore[arg-type]
        ("pip_install(3)",),
    ),
    "a package that is not there": Case(
        lambda: slim().pip_install("./nowhere"), ("package='./nowhere'",)
    ),
    "an image's secrets": Case(lambda: slim().pip_install("a", secrets=["b"]), ("secrets", "str")),
    "extras that are not there": Case(
        lambda: slim().pip_install_from_pyproject(ROOT / "pyproject.toml", ["nothing"]),
        ("optional_dependencies=['nothing']",),
    ),
    "run_function of a remote one": Case(lambda: slim().run_function(f), ("run_function", "f")),
    "workdir": Case(lambda: slim().workdir(""), ("path=''",)),
    "a place outside of the image": Case(
        lambda: slim().add_local_file(__file__, "/srv/x"), ("remote_path='/srv/x'",)
    ),
    "a module that is not there": Case(
        lambda: slim().add_local_python_source("nowhere"), ("'nowhere'",)
    ),
    "files that are too many": Case(too_many_files, ("add_local_", "MiB")),
    # secrets
    "from_dict": Case(lambda: nb.Secret.from_dict([1]), ("env_dict=", "list")),  # type: ignore[arg-type]
    "from_local_environ": Case(lambda: nb.Secret.from_local_environ("A"), ("env_keys='A'",)),
    "from_local_environ's names": Case(
        lambda: nb.Secret.from_local_environ(["NOT_SET_HERE"]), ("NOT_SET_HERE",)
    ),
    "from_name of a secret": Case(lambda: nb.Secret.from_name("a/b"), ("'a/b'",)),
    "a secret without variables": Case(
        lambda: secret_commands.secret_create.main(["s"], standalone_mode=False), ("'s'",)
    ),
    "a secret twice": Case(stored_twice, ("'twice'", "--force")),
    "dotenv": Case(lambda: nb.Secret.from_dotenv(Path(__file__)), ("line 1",)),
    "a dotenv that is no text": Case(
        lambda: nb.Secret.from_dotenv(Path(sys.executable)), (sys.executable, "UTF-8")
    ),
    "a stored secret that is torn": Case(
        lambda: secret_store._read(Path(__file__), "torn"), ("'torn'", __file__, "--force torn")
    ),
    # the command line
    "no type of a command line": Case(
        lambda: entrypoint.parse(listed, "listed", []), ("listed", "xs")
    ),
    "a script that is none": Case(lambda: migrate.look("def", "s.py"), ("s.py",)),
    "several apps": Case(lambda: several(with_functions=False).app(), ("s.py::a", "s.py::b")),
    "several functions": Case(
        lambda: several(with_functions=True).runnable(),
        ("s.py::m", "s.py::n"),
    ),
}


def plain(self: Any = None) -> None: ...


def _both() -> object:
    twins = nb.App("twins")
    twins.function(name="Shared")(max)
    twins.cls(name="Shared")(type("Shared", (), {}))
    return twins.deploy()


def deployed(look_up: Callable[[], object]) -> Callable[[], object]:
    """Return what looks for something after an app `mixed` was deployed."""

    def run() -> object:
        mixed = nb.App("mixed")
        mixed.function(name="f")(listed)
        mixed.cls()(Taking)
        mixed.deploy()
        return look_up()

    return run


def _starred(*args: Any) -> list[Any]:
    return list(args)


def member(value: Any) -> Callable[[], object]:
    """Return what makes a class with one member remote."""
    return lambda: nb.App("members").cls()(type("Owner", (), {"m": value}))


def made(name: str, value: Any) -> Any:
    value.__name__, value.__qualname__ = name, f"Owner.{name}"
    return value


class Nameless:
    def __call__(self) -> None: ...


class Bare:
    @nb.method()
    def run(self) -> None: ...

    @nb.method()
    def gives(self) -> Any:
        yield 1


class Declared:
    name: str = nb.parameter()
    size: int = nb.parameter(default=1)
    hidden: int = nb.parameter(default=1, init=False)


class Taking:
    def __init__(self, x: int) -> None: ...


Remote: Any = nb.App("classes").cls()(Bare)
RemoteDeclared: Any = nb.App("classes").cls()(Declared)
RemoteTaking: Any = nb.App("classes").cls()(Taking)

CASES |= {
    # generators are asked for what they cannot give
    "spawn_map of a generator": Case(lambda: g.spawn_map([1]), ("items.spawn_map",)),
    "map of a generator": Case(lambda: g.map([1]), ("items.map",)),
    "starmap of a generator": Case(lambda: g.starmap([(1,)]), ("items.starmap",)),
    "for_each of a generator": Case(lambda: g.for_each([1]), ("items.for_each",)),
    "iter of a generator": Case(
        lambda: nb.FunctionCall.from_id("fc-g", is_generator=True).iter(), ("fc-g",)
    ),
    "get of what turns out to be a generator": Case(
        lambda: nb.FunctionCall.from_id(g.spawn().object_id).get(), ("generator", "get_gen")
    ),
    "get_gen of what turns out to be none": Case(
        lambda: list(nb.FunctionCall.from_id(f.spawn().object_id, is_generator=True).get_gen()),
        ("no generator", ".get()"),
    ),
    "a concurrent generator": Case(
        lambda: app.function()(nb.concurrent(max_inputs=2)(made("g2", lambda: (yield)))),
        ("max_inputs=2", "g2"),
    ),
    # sharing a worker
    "both spellings of concurrent": Case(
        lambda: app.function(allow_concurrent_inputs=3)(
            nb.concurrent(max_inputs=2)(made("h", lambda: None))
        ),
        ("allow_concurrent_inputs=3", "max_inputs=2"),
    ),
    "target_inputs": Case(
        lambda: nb.concurrent(max_inputs=2, target_inputs=3), ("target_inputs=3", "max_inputs=2")
    ),
    "memory's limit": Case(option(memory=(200, 100)), ("memory=(200, 100)",)),
    "concurrent and batched": Case(
        lambda: f.with_concurrency(max_inputs=2).with_batching(max_batch_size=2, wait_ms=1),
        ("max_inputs=2", "max_batch_size=2"),
    ),
    "concurrent and single use": Case(
        lambda: f.with_concurrency(max_inputs=2).with_options(single_use_containers=True),
        ("single_use_containers=True", "max_inputs"),
    ),
    "concurrent without options": Case(lambda: nb.concurrent(plain), ("@concurrent", "plain")),  # type: ignore[arg-type]
    "concurrent above": Case(lambda: nb.concurrent(max_inputs=2)(f), ("@concurrent",)),
    "concurrent on a value": Case(lambda: nb.concurrent(max_inputs=2)(3), ("@concurrent", "3")),
    "concurrent twice": Case(
        lambda: nb.concurrent(max_inputs=2)(nb.concurrent(max_inputs=2)(lambda: None)),
        ("max_inputs",),
    ),
    "a batched generator": Case(
        lambda: nb.batched(max_batch_size=2, wait_ms=1)(g.get_raw_f()), ("@batched on g",)
    ),
    "batched stars": Case(
        lambda: nb.batched(max_batch_size=2, wait_ms=1)(_starred), ("_starred", "*args")
    ),
    "a concurrent method": Case(
        member(nb.concurrent(max_inputs=2)(made("m", lambda self: None))), ("max_inputs=2", "m")
    ),
    # classes
    "is_generator of a class": Case(lambda: app.cls(is_generator=True), ("is_generator=True",)),
    "a class as a function": Case(lambda: app.function()(Bare), ("Bare",)),
    "nothing with a name": Case(
        lambda: app.function()(functools.partial(Nameless())), ("Nameless",)
    ),
    "a method as a function": Case(lambda: app.function()(vars(Bare)["run"]), ("Bare.run",)),
    "a class twice": Case(lambda: app.cls()(Remote), ("Bare",)),
    "no class": Case(lambda: app.cls()(plain), ("plain",)),  # type: ignore[arg-type]
    "a function as a member": Case(member(f), ("Owner.m",)),
    "a batched hook": Case(
        member(nb.enter()(nb.batched(max_batch_size=2, wait_ms=1)(made("m", lambda self: None)))),
        ("max_batch_size=2", "m"),
    ),
    "a hook with an argument": Case(
        lambda: nb.enter()(made("m", lambda self, path: None)), ("Owner.m", "path")
    ),
    "a batched method beside others": Case(
        lambda: nb.App("members").cls()(
            type(
                "Owner",
                (Bare,),
                {"m": nb.batched(max_batch_size=2, wait_ms=1)(made("m", lambda self: None))},
            )
        ),
        ("max_batch_size=2", "Owner.m"),
    ),
    "with_batching of several methods": Case(
        lambda: Remote.with_batching(max_batch_size=2, wait_ms=1), ("Bare.with_batching", "gives")
    ),
    "a variant of a class that is looked up": Case(
        lambda: nb.Cls.from_name("a", "B").with_options(timeout=3), ("B",)
    ),
    "keep_warm on a method": Case(lambda: Remote().run.keep_warm(1), ("Bare.run.keep_warm",)),
    "update_autoscaler on a method": Case(
        lambda: Remote().run.update_autoscaler(max_containers=1),
        ("Bare.run.update_autoscaler",),
    ),
    "autoscaler of a method": Case(lambda: Remote().run.autoscaler, ("Bare.run.autoscaler",)),
    "with_options on a method": Case(
        lambda: Remote().run.with_options(timeout=3), ("Bare.run.with_options",)
    ),
    "a function and a class of one name": Case(lambda: _both(), ("'Shared'",)),  # noqa: PLW0108
    "a function looked up as a class": Case(
        deployed(lambda: nb.Cls.lookup("mixed", "f")), ("is a function",)
    ),
    "a class looked up as a function": Case(
        deployed(lambda: nb.Function.lookup("mixed", "Taking")), ("is a class",)
    ),
    "a function of here as a parameter of what is deployed": Case(
        deployed(lambda: nb.Cls.from_name("mixed", "Taking")(f)), ("Taking", "f is defined here")
    ),
    # parameters
    "both ways of parameters": Case(
        lambda: app.cls()(type("Two", (Taking, Declared), {})), ("Two", "__init__")
    ),
    "an argument too few": Case(lambda: RemoteTaking(), ("Taking", "'x'")),  # noqa: PLW0108
    "a parameter too few": Case(lambda: RemoteDeclared(), ("Declared", "'name'")),  # noqa: PLW0108
    "parameters too many": Case(lambda: RemoteDeclared("a", 2, 3), ("Declared", "3 were given")),
    "a parameter twice": Case(lambda: RemoteDeclared("a", name="b"), ("Declared", "'name'")),
    "no parameter": Case(lambda: RemoteDeclared("a", hidden=3), ("Declared", "hidden")),
    "a parameter's type": Case(lambda: RemoteDeclared(3), ("name=3", "str")),
    # hooks and methods
    "a method without an instance": Case(vars(Bare)["run"], ("Bare.run",)),
    "an attribute of a method": Case(lambda: vars(Bare)["run"].remote, (".remote", "Bare.run")),
    "a method that runs here only": Case(lambda: Bare().run.remote(), ("Bare.run",)),  # noqa: PLW0108
    "an instance in its own hook": Case(lambda: in_its_own_hook(), ("Declared", "Declared.load")),  # noqa: PLW0108
    "a hook that is a method": Case(
        lambda: nb.enter()(nb.method()(made("m", lambda self: None))), ("Owner.m",)
    ),
    "a method that is a hook": Case(
        lambda: nb.method()(nb.enter()(made("m", lambda self: None))), ("Owner.m",)
    ),
    "method without parentheses": Case(lambda: nb.method(plain), ("@nb.method on plain",)),
    "an option by position": Case(lambda: nb.enter(1), ("@nb.enter(1)",)),
    "method on a property": Case(lambda: nb.method()(property(plain)), ("property",)),  # type: ignore[arg-type]
    "method on a class": Case(lambda: nb.method()(Bare), ("Bare",)),
    "method on a value": Case(lambda: nb.method()(3), ("3",)),  # type: ignore[arg-type]
    "snap": Case(lambda: nb.enter(snap=1), ("snap=1",)),  # type: ignore[arg-type]
    "parameter by position": Case(lambda: nb.parameter("x"), ("'x'",)),
    "parameter's init": Case(lambda: nb.parameter(init=1), ("init=1",)),  # type: ignore[arg-type]
}


CASES |= {name: Case(*each) for name, each in refused.CASES.items()}


def in_its_own_hook() -> object:
    """Call an instance as a worker does whose hook makes it."""
    elsewhere = nb.Cls.reference(*RemoteDeclared.__reduce__()[1])("a")
    entering = msgspec.structs.replace(make_spec(), key=elsewhere.__remote_reference__())
    context.worker_identity = context.WorkerIdentity(WorkerId("ta"), "", {}, entering=entering)
    instances.running.append("Declared.load")
    try:
        return elsewhere._pool.pool_stats()
    finally:
        instances.running.pop()
        context.worker_identity = None


def _closed() -> object:
    run = g.remote_gen()
    run.close()
    return list(run)


@pytest.fixture
def raised(request: pytest.FixtureRequest, live: nb.App) -> Callable[[str], InvalidError]:
    """Return what runs a case and gives its error."""
    assert live.name

    def run(name: str) -> InvalidError:
        process.current()
        with pytest.raises(InvalidError) as caught:
            CASES[name].does()
        assert not isinstance(caught.value, click.ClickException)
        return caught.value

    return run


@pytest.mark.parametrize("name", CASES)
def test_it_names_what_was_given_and_what_to_do(
    name: str, raised: Callable[[str], InvalidError]
) -> None:
    message = str(raised(name))
    assert [part for part in CASES[name].names if part not in message] == [], message
    assert REMEDY.search(message), message


def test_there_is_a_case_for_every_place(raised: Callable[[str], InvalidError]) -> None:
    places = _places()
    assert len(places) > 50
    for name in CASES:
        for frame in reversed(traceback.extract_tb(raised(name).__traceback__)):
            path = Path(frame.filename)
            if path.is_relative_to(ROOM) and frame.lineno is not None:
                lines = range(frame.lineno, (frame.end_lineno or frame.lineno) + 1)
                hit = {place for place in places if place[0] == path and set(lines) & set(place[1])}
                places -= hit
                if hit:
                    break
    left = sorted(f"{path.relative_to(ROOM)}:{lines.start}" for path, lines in places)
    assert left == [], " ".join(left)


def _places() -> set[tuple[Path, range]]:
    """Return each place that raises an `InvalidError`: its file and lines."""
    found = set()
    for path in ROOM.rglob("*.py"):
        tree = ast.parse(path.read_text())
        makers = {"InvalidError"} | {
            each.name
            for each in ast.walk(tree)
            if isinstance(each, ast.FunctionDef)
            and isinstance(each.returns, ast.Name)
            and each.returns.id == "InvalidError"
        }
        for each in ast.walk(tree):
            if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call):
                maker = each.exc.func
                name = maker.attr if isinstance(maker, ast.Attribute) else getattr(maker, "id", "")
                if name in makers:
                    found.add((path, range(each.lineno, (each.end_lineno or each.lineno) + 1)))
    return found
