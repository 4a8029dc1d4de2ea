"""A client on another machine: it has the connection file, and shares nothing else with the broker.

Here that is another process with directories of its own, which finds no broker but by the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.cells import typed
from tests.acceptance.places import Place
from tests.acceptance.test_intruders import contents, ports
from tests.plain_kernel import PlainKernel
from tests.relay import Relay
from tests.waiting import PATIENCE, wait_until

COMMAND = [sys.executable, "-m", "notebook_ext"]
HEAD = """
import json, os, sys, time
import notebook_ext as nb

app = nb.App("elsewhere")
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Site:
    """The broker's machine: what is typed there."""

    def __init__(self, place: Place, home: Path) -> None:
        self.place = place
        self.home = home
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.variables = os.environ | place.variables | {"HOME": str(home), "ONLY_THERE": "yes"}
        self.on: list[str] = []
        """What commands begin with there."""

    def types(self, *words: str, into: Path | None = None) -> str:
        with contextlib.ExitStack() as stack:
            output = subprocess.PIPE if into is None else stack.enter_context(into.open("w"))
            done = subprocess.run(
                [*self.on, *COMMAND, *words],
                env=self.variables,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60 * PATIENCE,
                check=False,
            )
        assert not done.returncode, done.stderr
        return done.stdout or ""

    def invite(self, name: str, file: Path, *options: str) -> Path:
        self.types("broker", "invite", name, *options, into=file)
        assert file.stat().st_mode & 0o777 == 0o600
        return file


class Laptop:
    """The client's machine: directories of its own, and a connection file."""

    def __init__(self, home: Path, file: Path | None) -> None:
        self.home = home
        self.variables = {
            "HOME": str(home),
            "NOTEBOOK_EXT_RUNTIME_DIR": str(home / "run"),
            "NOTEBOOK_EXT_DATA_DIR": str(home / "data"),
        }
        if file is not None:
            self.variables["NOTEBOOK_EXT_CONNECTION_FILE"] = str(file)
        self.on: list[str] = []

    def starts(self, code: str) -> subprocess.Popen[str]:
        script = self.home / "script.py"
        script.write_text(HEAD + textwrap.dedent(code))
        return subprocess.Popen(
            [*self.on, sys.executable, str(script)],
            env=os.environ | self.variables,
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def runs(self, code: str) -> str:
        with self.starts(code) as process:
            said, wrong = process.communicate(timeout=90 * PATIENCE)
        assert not process.returncode, wrong
        return said


@pytest.fixture
def site(own_place: Place, tmp_path: Path) -> Iterator[Site]:
    home = tmp_path / "there"
    home.mkdir()
    made = Site(own_place, home)
    yield made
    made.types("broker", "stop")


@pytest.fixture
def laptop(site: Site, tmp_path: Path) -> Callable[..., Laptop]:
    """Give a function that returns a laptop with an invitation, to a relay's address maybe."""

    def invited(*options: str) -> Laptop:
        home = tmp_path / "here"
        home.mkdir()
        return Laptop(home, site.invite("laptop", home / "box.json", *options))

    return invited


def test_calls_of_an_invited_client_run_there(site: Site, laptop: Callable[..., Laptop]) -> None:
    assert site.address in site.types("broker", "start", "--listen", site.address)
    client = laptop()
    said = client.runs(
        """
        @app.function(secrets=[nb.Secret.from_dict({"TOKEN": "-".join(["marker", "7f3a91"])})])
        def look(x):
            print("printed there")
            return x, os.environ.get("ONLY_THERE"), os.environ["SET"], len(os.environ["TOKEN"])

        @app.function()
        def square(x):
            return x * x

        @app.function()
        def nested(n):
            return sum(square.map(range(n)))

        os.environ["SET"] = "here"
        first = look.remote(1)
        squares = list(square.map(range(1000))) == [x * x for x in range(1000)]
        calls = [square.remote(x) for x in range(50)]
        spawned = square.spawn(7)
        try:
            square.remote("x")
        except TypeError as error:
            failed = type(error).__name__
        from notebook_ext import process
        lines = process.current().lines.count
        print(json.dumps([first, squares, calls[-1], spawned.get(), nested.remote(10),
                          failed, lines]))
        """
    )
    assert "printed there" in said
    assert json.loads(said.splitlines()[-1]) == [
        [1, "yes", "here", 13],
        True,
        49 * 49,
        49,
        285,
        "TypeError",
        0,
    ]
    assert sorted(path.name for path in client.home.iterdir()) == ["box.json", "script.py"]
    secret = json.loads((client.home / "box.json").read_text())["client"]["secret"]
    pids = site.place.processes()
    listening = {pid: found for pid in pids if (found := ports(pid))}
    assert list(listening) == [site.place.broker_pid()], listening
    (open_ports,) = listening.values()
    assert sum(line.split()[4] == "0A" for line in open_ports) == 1, open_ports
    data = Path(site.place.variables["NOTEBOOK_EXT_DATA_DIR"])
    shown = [line.encode() for line in pids.values()]
    shown += [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
    for text in (*shown, *contents(site.place.runtime_dir, data).values()):
        assert secret.encode() not in text
        assert b"marker-7f3a91" not in text
    attached = client.runs(
        """
        from notebook_ext import inquiry

        print(nb.attach(inquiry.status().workers[0].worker))
        """
    )
    assert attached.startswith(f"On the machine of {site.address}, where these commands work")


def test_a_map_goes_on_where_the_network_was_cut_and_where_the_broker_died(
    site: Site, laptop: Callable[..., Laptop]
) -> None:
    site.types("broker", "start", "--listen", site.address)
    with Relay(site.address) as relay:
        client = laptop("--address", relay.address)
        progress = client.home / "progress"
        with client.starts(
            f"""
@app.function(max_containers=2)
def slowly(x):
    time.sleep(0.01)
    return x

done = []
for x in slowly.map(range(400)):
    done.append(x)
    open({str(progress)!r}, "w").write(str(x))
spawned = slowly.spawn(3).get()
print(json.dumps([done == list(range(400)), spawned]))
"""
        ) as process:

            def got(count: int) -> Callable[[], bool]:
                def is_there() -> bool:
                    assert process.poll() is None, process.communicate()
                    return progress.exists() and int(progress.read_text() or 0) >= count

                return is_there

            for count in (10, 60, 110):
                wait_until(got(count), 60, f"{count} results")
                relay.cut()
            wait_until(got(160), 60, "160 results")
            relay.close()
            os.kill(site.place.broker_pid(), signal.SIGKILL)
            wait_until(lambda: site.place.broker() is None, what="the broker is gone")
            assert site.address in site.types("broker", "start"), "it follows the one before it"
            relay.open()
            said, wrong = process.communicate(timeout=60 * PATIENCE)
        assert not process.returncode, wrong
        assert json.loads(said) == [True, 3]


def test_a_notebook_connects_to_it_and_back_and_is_told_what_is_wrong(
    site: Site, laptop: Callable[..., Laptop], notebook: PlainKernel
) -> None:
    site.types("broker", "start", "--listen", site.address)
    file = laptop().home / "box.json"
    run = notebook.run
    assert run("%load_ext notebook_ext").error is None
    typed(
        notebook,
        """
        import os

        @app.function()
        def where():
            return os.environ.get('ONLY_THERE')
        """,
    )
    assert f"broker at {site.address}" in run(f"%remote_connect {file}").stdout
    assert run("print(where.remote())").stdout == "yes\n"
    assert "Connected to the broker of this machine" in run("%remote_connect local").stdout
    assert run("print(where.remote())").stdout == "None\n"
    assert "revoked" in site.types("broker", "revoke", "laptop").lower()
    refused = run(f"%remote_connect {file}")
    said = refused.stderr + str(refused.error)
    assert "does not let the key of 'laptop' in" in said
    assert run("print(where.remote())").stdout == "None\n", "it has stayed where it was"
