"""API.md sections 1 (`image`: the notebook's own environment) and 4 (`VersionError`).

Workers start with the interpreter and the packages of the notebook that calls, so that on one
machine nothing can differ: two notebooks in two virtual environments share a broker, and each runs
its own.
"""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.packages import environment, wheel

WHICH = f"""
{HEAD}
import flavour

@app.function()
def which():
    import importlib.metadata, sys
    return flavour.NAME, importlib.metadata.version('flavour'), sys.prefix
"""


def test_two_virtual_environments_on_one_machine_each_run_their_own_packages(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    """`image`: the default is the notebook's own environment, an install in it included."""
    places = {version: tmp_path / f"env{version}" for version in ("1.0", "2.0")}
    kernels = {
        version: start_kernel(
            tmp_path, own_place.variables, environment(place, wheel(tmp_path, version))
        )
        for version, place in places.items()
    }
    for kernel in kernels.values():
        typed(kernel, WHICH)
    for _ in range(2):
        for version, kernel in kernels.items():
            expected = (f"flavour {version}", version, str(places[version]))
            assert value(kernel, "which.remote()") == expected
    assert len([p for p in own_place.processes().values() if "kernel_worker.broker" in p]) == 1

    newer = wheel(tmp_path, "3.0")
    typed(kernels["1.0"], f"%pip install --no-index --no-deps {newer}", timeout=60)
    assert value(kernels["1.0"], "which.remote()[:2]") == ("flavour 3.0", "3.0")
    assert value(kernels["1.0"], "flavour.NAME") == "flavour 1.0", "the kernel has imported it"
    assert value(kernels["2.0"], "which.remote()[:2]") == ("flavour 2.0", "2.0")
