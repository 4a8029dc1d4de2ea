"""From laptop to cluster: the same script, whose functions run on hosts that an engine places.

Devices are declared, and only the engine's hosts have any: what asks for one runs there. On Ray,
Dask and Slurm it is `make providers`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import Laptop, Site
from tests.providers.engines import ENGINES, Engine, skip_without
from tests.waiting import PATIENCE, wait_until

ON = [
    pytest.param(
        name, marks=[] if name == "local" else [pytest.mark.engine, pytest.mark.timeout(400)]
    )
    for name in ENGINES
]
SCRIPT = """
from kernel_worker import context

def where():
    kind, name, *_ = context.worker_identity.connection_file.split("/")[-2].split("-")
    return name if kind == "host" else "broker's"

@app.function()
def here(x):
    return where(), x

@app.function(gpu=1)
def there(x):
    time.sleep(0.5)
    return where(), os.environ["CUDA_VISIBLE_DEVICES"] != "", os.getpid(), x * x

@app.function(gpu=1)
def waits(mark):
    while not os.path.exists(mark):
        time.sleep(0.05)
    return where()

@app.function(gpu="A100")
def never(): ...
"""


@pytest.fixture(scope="module", params=ON)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    skip_without(request.param)
    with ENGINES[request.param](tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def site(engine: Engine, own_place: Place, tmp_path: Path) -> Iterator[Site]:
    home = tmp_path / "there"
    home.mkdir()
    made = Site(own_place, home)
    made.variables |= {"NOTEBOOK_EXT_HOST_LEASE": "3", **engine.variables}
    yield made
    for line in made.types("provider", "list").splitlines():
        made.types("provider", "stop", line.split()[0])
    made.types("broker", "stop")


@pytest.fixture
def notebook(site: Site, tmp_path: Path) -> Laptop:
    """Whoever calls, on the broker's machine."""
    home = tmp_path / "here"
    home.mkdir()
    made = Laptop(home, None)
    made.variables = site.variables
    return made


def starts(notebook: Laptop, code: str) -> subprocess.Popen[str]:
    return notebook.starts(SCRIPT + code)


def runs(notebook: Laptop, code: str) -> object:
    with starts(notebook, code) as process:
        said, wrong = process.communicate(timeout=100 * PATIENCE)
    assert not process.returncode, wrong
    return json.loads(said.splitlines()[-1])


def test_the_same_script_runs_on_the_engines_hosts_and_gives_them_back(
    engine: Engine, site: Site, notebook: Laptop
) -> None:
    mark = notebook.home / "mark"
    name = engine.target().engine
    said = runs(
        notebook,
        f"""
found = [here.remote(1)]
said = nb.connect({engine.address!r}, max_hosts=2, gpus="H200:2", idle=2)
found.append("up to 2 hosts" in said)
found.append(here.remote(2))
results = list(there.map(range(6)))
found.append(sorted({{(place, has) for place, has, *_ in results}}))
found.append(len({{pid for _, _, pid, _ in results}}))
found.append([square for *_, square in results])
try:
    never.remote()
except nb.exception.Error as error:
    found.append("A100" in str(error))
print(json.dumps(found))
""",
    )
    assert isinstance(said, list)
    assert said == [
        ["broker's", 1],
        True,
        ["broker's", 2],
        [[name, True]],
        2,
        [x * x for x in range(6)],
        True,
    ]
    # An agent that was killed is followed by one that knows its hosts; nothing is lost meanwhile.
    with starts(
        notebook,
        f"""
call = waits.spawn({str(mark)!r})
print(call.object_id, flush=True)
found = [call.get()]
try:
    nb.disconnect("local://elsewhere")
except nb.exception.NotFoundError as error:
    found.append(str(error))
found += [nb.disconnect(), nb.disconnect()]
print(json.dumps(found))
""",
    ) as process:
        wait_until(lambda: "busy" in site.types("status"), 60, "it runs")
        (line,) = site.types("provider", "list").splitlines()
        os.kill(int(line.split()[-1]), signal.SIGKILL)
        wait_until(lambda: not site.types("provider", "list"), 20, "the agent is gone")
        assert "up to 2 hosts" in site.types(
            "provider", "start", engine.address, "--max-hosts=2", "--gpus=H200:2", "--idle=2"
        )
        before = {host for host in _hosts(site) if f"ho-{name}-" in host}
        assert before
        mark.touch()
        out, wrong = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, wrong
    place, unknown, given_back, nothing = json.loads(out.splitlines()[-1])
    assert place == name
    assert "no hosts come from local://elsewhere (agents that run: " in unknown
    assert f"Given back: all hosts of {name}" in given_back
    assert nothing == "No cluster was connected."
    assert len(before) <= 2
    assert not site.types("provider", "list")


@pytest.mark.engine
def test_what_is_warm_is_kept_and_what_is_not_needed_is_given_back(
    engine: Engine, site: Site, notebook: Laptop
) -> None:
    name = engine.target().engine
    with starts(
        notebook,
        f"""
@app.function(gpu=1, min_containers=1, scaledown_window=1)
def warm():
    return where()

nb.connect({engine.address!r}, max_hosts=1, gpus="H200:1", idle=2)
print(warm.update_autoscaler(min_containers=1).min_containers, flush=True)
sys.stdin.readline()
print(warm.update_autoscaler(min_containers=0).min_containers, flush=True)
sys.stdin.readline()
""",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        wait_until(lambda: _idle(site), 90, "it is warm")
        assert [host for host in _hosts(site) if f"ho-{name}-" in host]
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
        wait_until(
            lambda: not [host for host in _hosts(site) if f"ho-{name}-" in host],
            90,
            "the host is given back",
        )
        process.stdin.write("\n")
        process.communicate(timeout=30 * PATIENCE)
        assert not process.returncode


def _hosts(site: Site) -> list[str]:
    return [word for word in site.types("status").split() if word.startswith("ho-")]


def _idle(site: Site) -> bool:
    return any(" idle" in line and "ta-" in line for line in site.types("status").splitlines())
