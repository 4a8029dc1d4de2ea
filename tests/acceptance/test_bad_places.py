"""Small, full, read-only and odd places: a fallback that works, or a line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.locks import WITHOUT_LOCKS
from tests.waiting import PATIENCE, wait_until

SCRIPT = """
import array
import notebook_ext as nb
from kernel_worker import rendezvous, settings
from notebook_ext import delivery

app = nb.App("places")

@app.function()
def grow(n):
    return bytes([n]) * 3_000_000

@app.function()
def total(values):
    return sum(values)

@app.function()
def echo(value):
    return value

large = array.array("q", range(2_500_000))  # 20 MB
expected = sum(large)
assert total.remote(large) == expected
assert [len(each) for each in echo.map([bytes(4_000_000)] * 6)] == [4_000_000] * 6
handle = nb.put(large)
assert list(total.map([handle] * 3)) == [expected] * 3
assert echo.spawn("kept").get() == "kept"

delivery.HELD_BYTES = 1_000_000  # a file for what is more, where a directory takes it
values = grow.map(range(8))
next(values)
assert [value[0] for value in values] == list(range(1, 8))

print("all there", rendezvous.find_or_start(settings.load()).address)
"""
MAY_MOUNT = (
    Path("/usr/bin/unshare").exists()
    and subprocess.run(
        ["/usr/bin/unshare", "-m", "true"], check=False, capture_output=True
    ).returncode
    == 0
)
needs_mounts = pytest.mark.skipif(not MAY_MOUNT, reason="only root may mount")

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]


@pytest.fixture
def run(own_place: Place, tmp_path: Path) -> Run:
    """Run a script: `run(text, mounts, variables)`, with what `mounts` mounts for it alone."""

    def run_it(text: str, mounts: str = "", variables: dict[str, str] | None = None) -> Ended:
        (tmp_path / "script.py").write_text(text)
        command = [sys.executable, str(tmp_path / "script.py")]
        if mounts:
            command = ["unshare", "-m", "sh", "-ec", f'{mounts}; exec "$@"', "-", *command]
        environ = os.environ | own_place.variables | (variables or {})
        limit = 60 * PATIENCE
        return subprocess.run(
            command, check=False, capture_output=True, text=True, env=environ, timeout=limit
        )

    return run_it


def said(ended: Ended) -> str:
    """Return the one line of ours with which a script has failed."""
    assert ended.returncode == 1
    assert "all there" not in ended.stdout
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("kernel_worker.errors."), ended.stderr
    return line.partition(": ")[2]


@needs_mounts
def test_in_8_mb_everything_works(run: Run, tmp_path: Path) -> None:
    """Also large values, with little shared memory, and nowhere else for temporary files."""
    small = tmp_path / "small"
    small.mkdir()
    mounts = f"mount -t tmpfs -o size=8m t {small}; mount -t tmpfs -o size=16k,ro t /dev/shm"
    places = {
        "NOTEBOOK_EXT_RUNTIME_DIR": f"{small}/r",
        "NOTEBOOK_EXT_DATA_DIR": f"{small}/d",
        "TMPDIR": str(small),
    }
    ended = run(SCRIPT, mounts, places)
    assert ended.stdout.startswith("all there"), ended.stderr


def test_with_a_long_path_and_small_files_everything_works(run: Run, own_place: Place) -> None:
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))\n"
    variables = {"NOTEBOOK_EXT_RUNTIME_DIR": f"{own_place.runtime_dir}/{'long' * 30}/r"}
    ended = run(limited + SCRIPT, variables=variables)
    assert ended.stdout.startswith("all there"), ended.stderr
    path = Path(ended.stdout.strip().rpartition("ipc://")[2])
    assert path.is_relative_to(f"/tmp/notebook-ext-{os.getuid()}"), "a short one for the socket"
    wait_until(lambda: not path.exists(), what="the socket goes with the broker")


STARTING = """
from kernel_worker import errors, rendezvous, settings

for name in ("runtime_dir", "data_dir"):
    for place in ("ro/x", "full/x", "open"):
        try:
            rendezvous.find_or_start(settings.load({name: f"PLACES/{place}"}))
        except errors.Error as error:
            print(place, error)
"""
PROBLEMS = {
    "ro/x": "cannot be used: Read-only file system",
    "full/x": "No space left on device",
    "open": "can be written by others (mode 0777); `chmod go-w",
}


@needs_mounts
def test_a_directory_that_cannot_be_used_is_one_line(run: Run, tmp_path: Path) -> None:
    for name in ("ro", "full", "open"):
        (tmp_path / name).mkdir()
    (tmp_path / "open").chmod(0o777)
    mounts = (
        f"mount -t tmpfs -o ro t {tmp_path}/ro; mount -t tmpfs -o size=4k t {tmp_path}/full;"
        f" head -c 4096 /dev/zero > {tmp_path}/full/file"
    )
    ended = run(STARTING.replace("PLACES", str(tmp_path)), mounts)
    lines = ended.stdout.splitlines()
    assert len(lines) == 6, ended
    for line, variable in zip(lines, ["RUNTIME"] * 3 + ["DATA"] * 3, strict=True):
        place, _, message = line.partition(" ")
        assert f"{tmp_path}/{place}" in message
        assert PROBLEMS[place] in message
        assert f"set NOTEBOOK_EXT_{variable}_DIR to a" in message
    assert list((tmp_path / "open").iterdir()) == []


def test_a_file_system_without_locks_is_one_line(run: Run) -> None:
    line = said(run(WITHOUT_LOCKS + SCRIPT))
    assert "cannot be used: No locks available; set NOTEBOOK_EXT_RUNTIME_DIR to" in line


SPAWNING = """
import subprocess
import sys
import threading
import notebook_ext as nb

app = nb.App("places")

@app.function()
def size(value):
    return len(value)

small = sys.argv[1]
assert size.remote(b"warm") == 4

def make_room():
    assert size.remote(bytes(9_000_000)) == 9_000_000  # attached calls go on
    subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)

class Told:
    def write(self, text):
        sys.__stderr__.write(text)
        if "cannot be written" in text:
            threading.Thread(target=make_room).start()
    def flush(self):
        pass

sys.stderr = Told()
call = size.spawn(bytes(9_000_000))
assert call.get() == 9_000_000
print("all there")
"""


@needs_mounts
def test_a_spawn_waits_for_room_and_says_so(run: Run, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    text = SPAWNING.replace("sys.argv[1]", repr(str(small)))
    mounts = f"mount -t tmpfs -o size=8m t {small}"
    ended = run(text, mounts, {"NOTEBOOK_EXT_DATA_DIR": f"{small}/d"})
    assert ended.stdout == "all there\n", ended.stderr
    (notice,) = [line for line in ended.stderr.splitlines() if "cannot be written" in line]
    assert notice.startswith(f"notebook_ext: waits: {small}/d/")
    assert notice.endswith("cannot be written (database or disk is full): make room there")
