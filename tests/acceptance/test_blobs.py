"""Large values on one machine: they lie in shared memory, whatever dies, and nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests import leftovers
from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.waiting import wait_until

DEFINITIONS = """
import os, time
import numpy as np
from notebook_ext.blobs import here

array = np.arange(500_000, dtype=np.float64)

@app.function(max_containers=1)
def echo(x): return x

@app.function(max_containers=1)
def changed(x, path='', gate=''):
    if path:
        open(path, 'a').close()
        while not os.path.exists(gate):
            time.sleep(0.02)
    x[0] = os.getpid()
    return x

@app.function(max_containers=1)
def late(x):
    time.sleep(0.03)  # its outcome comes by the broker
    return x

large = np.arange(1_000_000, dtype=np.float64)

def large_segments():
    from kernel_worker.store.segments import entries
    return sum(entry.size_bytes >= large.nbytes for entry in entries(here.directory))

@app.function(max_containers=1)
def items(n):
    for at in range(n):
        yield np.full(50_000, at)

@app.function(max_containers=2)
def total(x, table):
    table[0] += x
    return float(table[0] + table[-1])
"""


def stores(place: Place) -> list[Path]:
    return leftovers.stores(place.runtime_dir)


def test_values_of_every_kind_of_call_lie_there_and_nobody_sees_what_others_write(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    assert (
        value(kernel, "[bool((echo.remote(array) == array).all()) for _ in range(3)]") == [True] * 3
    )
    assert value(kernel, "len(echo.remote(b'x' * 1_000_000))") == 1_000_000
    pid, first = value(kernel, "(lambda y: (float(y[0]), float(array[0])))(changed.remote(array))")
    assert pid > 1
    assert first == 0.0
    assert value(kernel, "[float(y[-1]) for y in changed.map([array, array])]") == [499_999.0] * 2
    assert value(kernel, "[int(y.sum()) for y in items.remote_gen(5)]") == [
        at * 50_000 for at in range(5)
    ]
    expected = [at + 499_999.0 for at in range(20)]
    assert value(kernel, "list(total.map(range(20), kwargs={'table': array}))") == expected
    assert value(kernel, "float(echo.spawn(array).get(timeout=60)[-1])") == 499_999.0
    typed(kernel, "kept = echo.remote(array)")
    (store,) = stores(own_place)
    wait_until(
        lambda: len([*store.glob("b-*")]) == 1,
        what="only what is kept is not free",
    )
    typed(kernel, "from notebook_ext import process; process.close()")
    assert stores(own_place) == []
    assert value(kernel, "float(kept[-1])") == 499_999.0


def test_calls_in_a_row_need_one_segment_however_their_outcomes_come(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    for name in ("late", "echo"):
        ends = f"[float({name}.remote(large)[-1]) for _ in range(6)]"
        assert value(kernel, ends) == [999_999.0] * 6
        assert value(kernel, "large_segments()") == 1


def test_a_call_whose_broker_is_killed_has_its_buffers_still(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    kernel = start_kernel(tmp_path, own_place.variables)
    typed(kernel, HEAD + DEFINITIONS)
    typed(
        kernel,
        f"""
        import threading
        found = []
        args = (array, {str(mark)!r}, {str(gate)!r})
        waits = threading.Thread(target=lambda: found.append(changed.remote(*args)))
        waits.start()
        """,
    )
    wait_until(mark.exists, what="the input runs")
    own_place.kill_broker()
    gate.touch()
    assert value(kernel, "waits.join(60), float(found[0][-1])")[1] == 499_999.0


def test_what_a_killed_client_and_a_killed_worker_leave_goes(
    start_kernel: KernelStarter, own_place: Place, tmp_path: Path
) -> None:
    first, second = (start_kernel(tmp_path, own_place.variables) for _ in range(2))
    for kernel in (first, second):
        typed(kernel, HEAD + DEFINITIONS)
        value(kernel, "float(echo.remote(array)[0])")
    pid = value(second, "int(changed.remote(array)[0])")
    os.kill(pid, signal.SIGKILL)
    assert value(second, "int(changed.remote(array)[0])") != pid
    assert len(stores(own_place)) == 2
    os.kill(value(first, "os.getpid()"), signal.SIGKILL)
    wait_until(lambda: len(stores(own_place)) == 1, what="the store of the dead one is gone")
    assert value(second, "float(echo.remote(array)[-1])") == 499_999.0
