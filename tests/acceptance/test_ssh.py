"""`ssh://`: a broker on a machine that only ssh reaches; by a real sshd, and by a stand-in for it.

The other machine is this one with directories of its own. The program `ssh` that is found first
either reaches a real sshd of the test's own, by a configuration of the test's own, or is a stand-in
that runs the command here: with it the rest is tested where no sshd is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_worker import rendezvous, settings
from kernel_worker.keys import Keys
from kernel_worker.wire import bulk
from tests import leftovers
from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import COMMAND, Laptop, free_port
from tests.waiting import PATIENCE, wait_until

STAND_IN = Path(__file__).parents[1] / "notebook_ext" / "ssh" / "stand_in.py"
SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


class Machine:
    """The machine that ssh reaches, and the laptop from where."""

    def __init__(self, place: Place, home: Path) -> None:
        self.place = place
        self.programs = home / "programs"
        self.programs.mkdir()
        (home / "there").mkdir()
        self.variables = {
            **place.variables,
            "HOME": str(home / "there"),
            "PATH": f"{self.commands(home)}:/usr/bin:/bin",
            "NOTEBOOK_EXT_IDLE_EXIT_SECONDS": "600",
        }
        (home / "here").mkdir()
        self.laptop = Laptop(home / "here", None)
        self.laptop.variables["PATH"] = f"{self.programs}:{os.environ['PATH']}"

    @staticmethod
    def commands(home: Path) -> Path:
        """Return a folder that has a `notebook-ext`, of this interpreter."""
        folder = home / "commands"
        folder.mkdir()
        program(folder / "notebook-ext", f'exec {sys.executable} -m notebook_ext "$@"')
        return folder

    def keys(self) -> list[str]:
        """Return the names of those that are let in there."""
        configured = settings.load(environ=os.environ | self.place.variables)
        known = Keys(rendezvous.journal_path(configured).parent)
        return [*known.listed().values(), *known.listed("host").values()]

    def here(self) -> dict[int, str]:
        """Return the processes on the laptop's side."""
        return leftovers.processes(Path(self.laptop.variables["NOTEBOOK_EXT_RUNTIME_DIR"]))


def program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o700)


def by_stand_in(machine: Machine, home: Path) -> None:
    (home / "machine").write_text(json.dumps(machine.variables))
    machine.laptop.variables["STAND_IN"] = str(home)
    program(machine.programs / "ssh", f'exec {sys.executable} {STAND_IN} "$@"')


class Sshd:
    """A real one, on a port of the loopback address, which lets one key in."""

    def __init__(self, machine: Machine, home: Path) -> None:
        self.port = free_port()
        for name in ("host", "user"):
            key = ["-q", "-t", "ed25519", "-N", "", "-f", str(home / name)]
            subprocess.run([str(shutil.which("ssh-keygen")), *key], check=True)
        shutil.copy(home / "user.pub", home / "authorized")
        known = (home / "host.pub").read_text()
        (home / "known").write_text(f"[127.0.0.1]:{self.port} {known}")
        variables = " ".join(f'"{name}={value}"' for name, value in machine.variables.items())
        (home / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {home / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {home / 'authorized'}\nStrictModes no\nUsePAM no\n"
            f"SetEnv {variables}\n"
        )
        (home / "ssh_config").write_text(
            f"Host box\n HostName 127.0.0.1\n Port {self.port}\n IdentityFile {home / 'user'}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {home / 'known'}\n"
        )
        ssh = shutil.which("ssh")
        program(machine.programs / "ssh", f'exec {ssh} -F {home / "ssh_config"} "$@"')
        self._made = Path("/run/sshd")
        self._is_made = os.getuid() == 0 and not self._made.exists()
        if self._is_made:
            self._made.mkdir(mode=0o755)
        self._log = (home / "sshd.log").open("w+b")
        self._process = subprocess.Popen(
            [str(SSHD), "-D", "-e", "-f", str(home / "sshd_config")], stderr=self._log
        )
        wait_until(self._listens, what="sshd listens")

    def _listens(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        with socket.socket() as dialled:
            return not dialled.connect_ex(("127.0.0.1", self.port))

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10 * PATIENCE)
        self._log.close()
        if self._is_made:
            self._made.rmdir()


@pytest.fixture
def machine(own_place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(own_place, tmp_path)
    sshd = None
    if getattr(request, "param", "") == "sshd":
        sshd = Sshd(made, tmp_path)
    else:
        by_stand_in(made, tmp_path)
    yield made
    stop = [*COMMAND, "broker", "stop"]
    subprocess.run(stop, env=os.environ | own_place.variables, check=True, capture_output=True)
    wait_until(lambda: not made.here(), what="nothing of it is left here")
    wait_until(lambda: not own_place.processes(), 20, what="nor there")
    if sshd is not None:
        sshd.end()


SAYS = """
def tell(value):
    print(json.dumps(value), flush=True)

@app.function()
def square(x):
    return x * x, os.environ["HOME"].split("/")[-1]

@app.function()
def slowly(x):
    time.sleep(0.01)
    return x
"""

LARGE_BYTES = 8_000_000
LARGE = f"""
import os
import notebook_ext as nb
app = nb.App()

@app.function(gpu=1)
def turned(data):
    return data[::-1]

data = os.urandom({LARGE_BYTES})
print(turned.remote(data) == data[::-1])
"""

WAYS = [
    "stand-in",
    pytest.param("sshd", marks=pytest.mark.skipif(SSHD is None, reason="no sshd is installed")),
]


@pytest.mark.parametrize("machine", WAYS, indirect=True)
def test_calls_run_there_whatever_is_cut_and_nothing_is_left(machine: Machine) -> None:
    with machine.laptop.starts(
        SAYS
        + """
said = nb.connect("ssh://box")
found = [said, square.remote(3)[0]]
tell(found)
results = []
for x in slowly.map(range(600)):
    results.append(x)
    if x in (100, 300):
        tell(x)
        sys.stdin.readline()
tell(results == list(range(600)))
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def hears() -> Any:
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line, process.communicate()
            return json.loads(line)

        def goes_on() -> None:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        said, squared = hears()
        assert said.startswith("Connected to the broker at ssh://box, with ")
        assert squared == 9
        assert len(machine.keys()) == 1
        shown = "\n".join([*machine.here().values(), *machine.place.processes().values()])
        assert hears() == 100
        for pid, line in machine.here().items():
            if "-L" in line and "broker.sock" in line:
                os.kill(pid, signal.SIGKILL)
        goes_on()
        assert hears() == 300
        os.kill(machine.place.broker_pid(), signal.SIGKILL)
        goes_on()
        assert hears() is True
        goes_on()
        process.wait(30 * PATIENCE)
    wait_until(lambda: not machine.keys(), what="the key is listed no more")
    wait_until(lambda: not machine.here(), what="its processes have ended")
    assert not [line for line in machine.place.processes().values() if "tunnel" in line]
    places = set(re.findall(r"/tmp/notebook-ext-ssh-[^/: ]+", shown))
    assert len(places) > 1, "sockets on both sides"
    assert not [place for place in places if Path(place).exists()]


def test_a_machine_joins_by_ssh_and_takes_the_way_along_when_it_is_killed(
    machine: Machine, tmp_path: Path
) -> None:
    laptop = machine.laptop
    here = os.environ | laptop.variables
    options = ["--connect", "ssh://box", "--name", "box", "--gpus", "0:H200", "--cpus", "1"]
    with (tmp_path / "log").open("wb") as log:
        host = subprocess.Popen(
            [*COMMAND, "host", "start", *options], env=here, stdout=log, stderr=log
        )

        def status() -> str:
            done = subprocess.run(
                [*COMMAND, "status"],
                env=os.environ | machine.place.variables,
                capture_output=True,
                text=True,
                check=False,
            )
            return done.stdout

        wait_until(lambda: "ho-box-" in status(), 30, what="it has joined")
        way = "large values go by the broker's socket"
        wait_until(lambda: way in (tmp_path / "log").read_text(), what=way)
        there = subprocess.run(
            [sys.executable, "-c", LARGE],
            env=os.environ | machine.place.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert there.stdout == "True\n", there.stderr
        by_bulk, by_zmq = (
            sum(int(each.read_text()) for each in tmp_path.glob(f"passed-{first}-*"))
            for first in (bulk.MAGIC[0], 0xFF)
        )
        assert by_bulk > 2 * LARGE_BYTES, "there and back"
        assert 0 < by_zmq < LARGE_BYTES
        host.kill()
        host.wait()
    wait_until(lambda: not machine.keys(), what="its key is listed no more")
    wait_until(lambda: not machine.here(), what="nothing of it is left")
