"""Two brokers of one machine that offer the same device: it has one live owner at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel_worker import rendezvous
from tests.acceptance.places import Place
from tests.waiting import PATIENCE, wait_until

HEAD = """
import os, time
import notebook_ext as nb

app = nb.App("devices")

@app.function(gpu=1)
def has(mark, until):
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not os.path.exists(until):
        time.sleep(0.02)
    return os.environ["CUDA_VISIBLE_DEVICES"]
"""
Starts = Callable[[Place, str], "subprocess.Popen[str]"]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    """Give two places, whose brokers offer the same declared device."""
    made = Place(tmp_path / "one"), Place(tmp_path / "two")
    for place in made:
        place.variables["NOTEBOOK_EXT_GPUS"] = "0:H200"
        place.variables["NOTEBOOK_EXT_DEVICE_LOCKS"] = str(tmp_path / "locks")
    yield made
    for place in made:
        place.end()


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    """Give a function that starts a script at a place."""
    started: list[subprocess.Popen[str]] = []

    def start(place: Place, code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HEAD + code]
        variables = os.environ | place.variables
        started.append(
            subprocess.Popen(
                command, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60 * PATIENCE)[0]


def runs(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_device_that_another_broker_uses_is_waited_for_and_shown(
    places: tuple[Place, Place], starts: Starts, tmp_path: Path
) -> None:
    one, two = places
    first, second, never = (str(tmp_path / name) for name in ("first", "second", "never"))
    caller = starts(one, f"has.remote({first!r}, {never!r})")
    wait_until(lambda: Path(first).exists(), 30, "the first one has the device")
    other = starts(
        two,
        f"""
call = has.spawn({second!r}, {second!r})
from notebook_ext import inquiry

def reason():
    return next((pool.waiting_for for pool in inquiry.status().pools), "")

while "other brokers" not in reason():
    time.sleep(0.05)
print(reason(), flush=True)
status = inquiry.status()
print([host.held for host in status.hosts], flush=True)
print(call.get(timeout=60), flush=True)
print([host.held for host in inquiry.status().hosts])
""",
    )
    assert other.stdout is not None
    reason, held = other.stdout.readline(), other.stdout.readline()
    assert reason == "no free GPU: other brokers of the same machine have 1\n"
    assert held == "[(0,)]\n"
    assert not Path(second).exists()
    pid = int(Path(first).read_text())
    broker = one.broker()
    assert broker is not None
    agent = rendezvous.living_agent(broker.path)
    for one_of_them in (caller.pid, broker.pid, agent):  # nobody could give the device back
        os.kill(one_of_them, signal.SIGKILL)
    assert said(other) == "0\n[()]\n"
    assert not runs(pid), "who had it was gone before"


def test_brokers_take_turns_and_nothing_fails(
    places: tuple[Place, Place], starts: Starts, tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    running = [
        starts(
            place,
            f"""
@app.function(gpu=1, scaledown_window=0.01)
def alone(x):
    file = os.open({mark!r}, os.O_CREAT | os.O_EXCL)
    time.sleep(0.005)
    os.unlink({mark!r})
    os.close(file)
    return x

for x in range(5):
    assert alone.remote(x) == x
    time.sleep(0.05)  # its worker leaves
print(sum(alone.map(range(50))))
""",
        )
        for place in places
    ]
    assert [said(process) for process in running] == ["1225\n"] * 2
