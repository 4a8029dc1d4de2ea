"""Every `InvalidError` says what was given, as which value, and what is allowed or to do instead.

A table with a case for each place that raises one. A test finds these places in the source and
compares: a new one needs a case here.
"""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import notebook_ext as nb
from kernel_worker.model import FunctionKey
from notebook_ext import cloud, entrypoint, process, script
from notebook_ext.exception import InvalidError

ROOM = Path(nb.__file__).parent
REMEDY = re.compile(
    r"allowed|use \.?|[Cc]all (it|\.|\w)|give |[Dd]efine |say which|write |takes |needs "
    r"|leave it out|Keep |There are|from 0 on|are had with|is for "
)
COMPLETE = {
    "arrival.py", "cloud.py", "deployment.py", "entrypoint.py", "feed.py", "gather.py",
    "looked_up.py", "maps.py", "package.py", "script.py", "secret.py",
}  # fmt: skip
"""Files of which every place has a case; a place in another one may have its case elsewhere."""

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


def several(*, with_functions: bool) -> script.Script:
    a, b = nb.App("a"), nb.App("b")
    if with_functions:
        a.function(name="m")(max)
        b.function(name="n")(min)
    return script.Script("s.py", "", {"a": a, "b": b})


def listed(xs: list[int]) -> None: ...


CASES = {
    # options
    "unknown option": Case(option(tmeout=3), ("tmeout", "timeout")),
    "both spellings": Case(option(keep_warm=1, min_containers=2), ("min_containers=2",)),
    "not built": Case(option(schedule=3), ("schedule=3",)),
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
    # secrets
    "from_dict": Case(lambda: nb.Secret.from_dict([1]), ("env_dict=", "list")),  # type: ignore[arg-type]
    "from_local_environ": Case(lambda: nb.Secret.from_local_environ("A"), ("env_keys='A'",)),
    "from_local_environ's names": Case(
        lambda: nb.Secret.from_local_environ(["NOT_SET_HERE"]), ("NOT_SET_HERE",)
    ),
    "from_name of a secret": Case(lambda: nb.Secret.from_name("s"), ("'s'",)),
    "dotenv": Case(lambda: nb.Secret.from_dotenv(Path(__file__)), ("line 1",)),
    # the command line
    "no type of a command line": Case(
        lambda: entrypoint.parse(listed, "listed", []), ("listed", "xs")
    ),
    "several apps": Case(lambda: several(with_functions=False).app(), ("s.py::a", "s.py::b")),
    "several functions": Case(
        lambda: several(with_functions=True).runnable(),
        ("s.py::m", "s.py::n"),
    ),
}


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
    left = {f"{path.relative_to(ROOM)}:{lines.start}" for path, lines in places}
    assert {each for each in left if each.split(":")[0] in COMPLETE} == set()


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
