"""API.md section 1: the options of a function, in the names of 2024 and of 2026."""

from __future__ import annotations

import pytest

from tests.acceptance.api.surfaces import Lines

READ = """
import os

@app.function(
    env={"MODE": "mine"},
    secrets=[nb.Secret.from_dict({"TOKEN": "t-1", "MODE": "secret's"})],
    name="reads", tags={"team": "a"}, serialized=True, cpu=1, memory=64,
)
def read():
    return os.environ["TOKEN"], os.environ["MODE"]
"""


def test_with_app_run_is_accepted_everywhere_and_does_nothing(lines: Lines) -> None:
    lines.run(f"""{READ}
with app.run():
    one = read.remote()
with nb.enable_output(), app.run(detach=True, show_progress=False) as running:
    two = read.remote()
same = running is app
""")
    assert lines.value("one == two == ('t-1', 'mine') and same")


def test_async_with_app_run(cells: Lines) -> None:
    cells.run(f"{READ}\nasync with app.run() as running:\n    found = await read.remote.aio()")
    assert cells.value("found, running is app") == (("t-1", "mine"), True)


def test_secrets_and_env_are_the_environment_of_the_worker(lines: Lines) -> None:
    lines.run(f"""{READ}
other = read.with_options(env={{"MODE": "another"}})
one, two = read.remote(), other.remote()
""")
    assert lines.value("one, two") == (("t-1", "mine"), ("t-1", "another"))
    assert lines.value("read.name, 'TOKEN' in os.environ") == ("reads", False)
    assert lines.value("'t-1' not in repr(read.info())")


def test_the_names_of_2024_mean_the_same(lines: Lines) -> None:
    lines.run("""
@app.function(keep_warm=0, concurrency_limit=2, container_idle_timeout=7, retries=1)
def old(): return 1
@app.function(min_containers=0, max_containers=2, scaledown_window=7, retries=nb.Retries(1, 1.0))
def new(): return 1
one, two = old.remote(), new.remote()
""")
    settings = "{0}.autoscaler.settings()"
    assert lines.value(f"{settings.format('old')} == {settings.format('new')} and one == two")
    assert lines.value("old.info().options == new.info().options")


def test_what_means_something_on_a_cloud_only_warns_once(lines: Lines) -> None:
    lines.run("""
import warnings
from notebook_ext import cloud
cloud._warned.clear()
told = []
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        @app.function(region="eu", cloud="x", client=3, namespace="n", environment_name=None)
        def f(): return 1
    told.append(len(caught))
one = f.remote()
""")
    assert lines.value("told, one") == ([4, 0], 1)


def test_the_documented_import_paths(lines: Lines) -> None:
    lines.run("""
from notebook_ext.functions import Function, FunctionCall, FunctionStats, gather
from notebook_ext.call_graph import InputInfo, InputStatus
from notebook_ext.exception import InvalidError, NotFoundError, TimeoutError
""")
    assert lines.value(
        "(Function, FunctionCall) == (nb.Function, nb.FunctionCall)"
        " and FunctionStats is nb.FunctionStats"
        " and gather is nb.gather and nb.functions.gather is gather"
        " and nb.call_graph.InputInfo is InputInfo and InputStatus.SUCCESS.name == 'SUCCESS'"
        " and nb.exception.InvalidError is InvalidError and issubclass(InvalidError, nb.Error)"
    )


REFUSED = {
    "cpu=0": "cpu=0: allowed is a number of cores above 0",
    "gpu='H200:0'": "gpu='H200:0': allowed is None, \"any\"",
    "min_containers=-1": "min_containers=-1: allowed is an int",
    "max_containers=0": "max_containers=0: allowed is an int from 1 on",
    "min_containers=3, max_containers=2": "allowed is at most max_containers=2",
    "timeout='1h'": "timeout='1h': allowed is a number",
    "retries=11": "retries=11: allowed is an int, 0 to 10, or Retries(...)",
    "env={'A': 3}": "env={'A': <int>}: allowed is a dict of names",
    "secrets=['x']": "secrets=<list>: allowed is a list of Secret",
    "name='a/b'": "name='a/b': allowed is a non-empty str without a slash",
    "tmeout=3": "tmeout is no option of a function. Did you mean timeout?",
    "schedule=object": "schedule=<class 'object'>: allowed is Cron(",
    "image=object": "image=<class 'object'>: allowed is an Image",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_bad_value_is_named_at_the_decorator_with_what_is_allowed(
    cells: Lines, given: str
) -> None:
    raised = cells.fails(f"@app.function({given})\ndef f(): pass")
    assert raised.name == "InvalidError"
    assert REFUSED[given] in raised.message
