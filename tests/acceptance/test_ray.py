"""A notebook on a real Ray cluster, end to end; `make providers`.

The notebook's machine has one CPU and no GPU to give, so that what asks for more runs on hosts that
Ray has placed: it has three nodes here, two of them with two CPUs and a declared device. What Ray
has given out is asked of Ray itself. By its client server everything is the same.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cells import begun, typed, value
from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import Laptop, Site
from tests.conftest import KernelStarter
from tests.notebooks.test_notebooks import HERE, nbval
from tests.plain_kernel import PlainKernel
from tests.providers.engines import ENGINES, Engine
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
GIVEN_BACK_SECONDS = 90
CELL = """
import os, time
import numpy as np
import notebook_ext as nb
from kernel_worker import context

app = nb.App("on-ray")

def where():
    kind, name, *_ = context.worker_identity.connection_file.split("/")[-2].split("-")
    return name if kind == "host" else "here"

@app.function(cpu=2, scaledown_window=1)
def square(x):
    return where(), x * x

@app.function(gpu=1, max_containers=2)
def device(seconds=0.0):
    time.sleep(seconds)
    return where(), os.environ["CUDA_VISIBLE_DEVICES"]

@app.function(gpu=1)
def twice(array):
    return where(), array * 2

@app.function(gpu=1)
def waits(mark):
    while not os.path.exists(mark):
        time.sleep(0.05)
    return where()

@app.cls(gpu=1, max_containers=1)
class Counter:
    start: int = nb.parameter(default=0)

    @nb.enter()
    def begin(self):
        self.count = self.start

    @nb.method()
    def add(self, number):
        self.count += number
        return where(), self.count
"""


@pytest.fixture(scope="module", params=["ray", "ray-client"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    pytest.importorskip("ray")
    with ENGINES[request.param](tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Any]:
    """Give Ray itself: what it has to give, and what of that it has not given."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, said in engine.variables.items():
            patch.setenv(name, said)
        ray.init("auto", log_to_driver=False, logging_level=40, configure_logging=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def site(engine: Engine, own_place: Place, tmp_path: Path) -> Iterator[Site]:
    """The machine of notebook and broker."""
    home = tmp_path / "there"
    home.mkdir()
    made = Site(own_place, home)
    more = {"NOTEBOOK_EXT_MAX_WORKERS": "1", "NOTEBOOK_EXT_GPUS": ""}
    made.variables |= {**more, **engine.variables}
    yield made
    for line in made.types("provider", "list").splitlines():
        made.types("provider", "stop", line.split()[0])
    made.types("broker", "stop")


@pytest.fixture
def kernel(site: Site, start_kernel: KernelStarter) -> PlainKernel:
    return start_kernel(variables=site.variables)


def given(ray: Any, kind: str) -> float:
    """Return how much of a resource Ray has given out."""
    return float(ray.cluster_resources().get(kind, 0) - ray.available_resources().get(kind, 0))


def awaits_all_back(ray: Any) -> None:
    def is_all_back() -> bool:
        return not given(ray, "CPU") and not given(ray, "GPU")

    wait_until(is_all_back, GIVEN_BACK_SECONDS, "Ray has all CPUs and GPUs back")
    assert not ray.util.list_named_actors(all_namespaces=True)


def test_a_notebooks_calls_run_on_what_ray_has_placed_and_all_is_given_back(
    engine: Engine, cluster: Any, site: Site, kernel: PlainKernel, tmp_path: Path
) -> None:
    typed(kernel, CELL)
    said = value(kernel, f"nb.connect({engine.address!r}, gpus='H200:1', max_hosts=2, idle=1)", 90)
    assert "Connected to the broker of this machine" in said
    assert "ray: up to 2 hosts" in said
    assert not given(cluster, "CPU")

    assert value(kernel, "square.remote(7)", 90) == ("ray", 49)
    assert value(kernel, "list(square.map(range(20)))", 90) == [("ray", x * x) for x in range(20)]
    assert given(cluster, "CPU") >= 2

    assert value(kernel, "device.remote()", 90) in {("ray", "1"), ("ray", "2")}
    two = "device.keep_warm(2).min_containers, device.get_current_stats().num_total_runners"
    wait_until(lambda: value(kernel, two, 60) == (2, 2), 90, "a second device is there")
    assert given(cluster, "GPU") == 2
    found = value(kernel, "sorted(set(device.map([0.3] * 12)))", 60)
    assert found == [("ray", "1"), ("ray", "2")], "as Ray has given them, and each its own"
    typed(kernel, "device.keep_warm(0)")

    arrays = "table = np.arange(4_000_000.0); place, got = twice.remote(table)"
    typed(kernel, arrays, 90)
    assert value(kernel, "place, got.nbytes, bool((got == table * 2).all())") == (
        "ray",
        32_000_000,
        True,
    )
    assert value(kernel, "[Counter(start=5).add.remote(x) for x in (1, 2)]", 60) == [
        ("ray", 6),
        ("ray", 8),
    ]

    mark = tmp_path / "mark"
    typed(kernel, f"call = waits.spawn({str(mark)!r})")
    wait_until(lambda: "busy" in site.types("status"), 60, "it runs")
    cell = begun(kernel, "print('started', flush=True); print(list(device.map([0.2] * 15)))")
    killed = site.place.broker_pid()
    site.place.kill_broker()
    kernel.finish(cell, 120)
    assert cell.error is None, cell.error.traceback
    assert cell.stdout.count("'ray'") == 15
    mark.touch()
    assert value(kernel, "call.get()", 90) == "ray"
    assert site.place.broker_pid() != killed

    assert "Given back: all hosts of ray-" in value(kernel, "nb.disconnect()", 120)
    awaits_all_back(cluster)
    assert value(kernel, "nb.disconnect()") == "No cluster was connected."


def test_idle_hosts_are_given_back_by_themselves(
    engine: Engine, cluster: Any, kernel: PlainKernel
) -> None:
    typed(kernel, CELL)
    typed(kernel, "%load_ext notebook_ext")
    said = typed(kernel, f"%remote_connect {engine.address}?gpus=H200:1&idle=1", 90).stdout
    assert "ray: up to 8 hosts" in said
    assert value(kernel, "square.remote(7)", 90) == ("ray", 49)
    assert given(cluster, "CPU") == 2
    awaits_all_back(cluster)


@pytest.mark.parametrize("name", ["laptop_to_cluster", "gpu_workers"])
def test_the_notebook_shows_the_same_as_on_one_machine(
    name: str, engine: Engine, cluster: Any, site: Site, tmp_path: Path
) -> None:
    """The only CPU of the notebook's machine is busy, so that Ray's hosts run all of it."""
    site.variables |= {"CLUSTER": f"{engine.address}?gpus=H200:1&idle=2", "CLUSTER_GPU": "1"}
    if name == "gpu_workers":
        site.variables["NOTEBOOK_EXT_PROFILE"] = "gpu-tour"
    mark = tmp_path / "mark"
    keeps_the_cpu_busy(site, mark)
    with subprocess.Popen(
        nbval(HERE / f"{name}.ipynb", tmp_path / "t"),
        cwd=HERE.parent,
        env=os.environ | site.variables,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: given(cluster, "CPU") > 0, 120, "Ray has given something")
        out, _ = process.communicate(timeout=240 * PATIENCE)
    assert process.returncode == 0, out
    mark.touch()
    for line in site.types("provider", "list").splitlines():
        site.types("provider", "stop", line.split()[0])
    awaits_all_back(cluster)


def keeps_the_cpu_busy(site: Site, mark: Path) -> None:
    """Have a call run until there is a file, on a broker that listens for hosts."""
    site.types("broker", "start", "--listen", site.address)
    laptop = Laptop(mark.parent / "there", None)
    laptop.variables = site.variables
    laptop.runs(
        f"""
@app.function()
def has_the_cpu():
    while not os.path.exists({str(mark)!r}):
        time.sleep(0.2)

has_the_cpu.spawn()
"""
    )
    wait_until(lambda: "busy" in site.types("status"), 60, "nothing else can run here")
