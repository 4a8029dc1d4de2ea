"""API.md section 1: web endpoints from the command line: `serve`, `deploy`, `app stop`."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.waiting import PATIENCE, wait_until

SHOP = """
import notebook_ext as nb
app = nb.App("shop")

@app.function()
@nb.fastapi_endpoint()
def price(x: int):
    print("asked for", x)
    return {factor} * x

@app.cls()
class Model:
    @nb.fastapi_endpoint(label="the-model")
    def name(self):
        return "base"
"""
CLI = [sys.executable, "-m", "notebook_ext.cli"]

Command = Callable[..., str]


def fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60 * PATIENCE) as answer:  # noqa: S310  ours
            found: str = answer.read().decode()
            return found
    except urllib.error.HTTPError as error:
        with error:
            return str(error.code)
    except OSError:
        return "nothing"


@pytest.fixture
def command(own_place: Place, tmp_path: Path) -> Iterator[Command]:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*CLI, *arguments],
            env=os.environ | own_place.variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("broker", "stop")
    wait_until(lambda: not own_place.processes(), what="the gateway ends with its broker")


def urls_of(text: str) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in text.splitlines() if ": http" in line)
    return {name.split()[-1]: url for name, url in pairs}


def test_deployed_endpoints_live_on_until_the_app_is_stopped(
    command: Command, own_place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "shop.py"
    file.write_text(SHOP.format(factor=10))
    urls = urls_of(command("deploy", "shop.py"))
    assert urls.keys() == {"price", "Model.name"}
    assert fetched(urls["price"] + "/?x=4") == "40"
    assert fetched(urls["Model.name"]) == '"base"'
    file.write_text(SHOP.format(factor=20))
    assert urls_of(command("deploy", "shop.py")) == urls
    assert fetched(urls["price"] + "/?x=4") == "80"
    (known,) = own_place.runtime_dir.rglob("web.json")
    gateway = json.loads(known.read_text())["pid"]
    os.kill(gateway, signal.SIGKILL)
    wait_until(lambda: gateway not in own_place.processes())
    wait_until(lambda: fetched(urls["price"] + "/?x=4") == "80", 60, what="it is back by itself")
    assert _found(command, tmp_path).split() == [urls["price"], urls["Model.name"]]
    own_place.kill_broker()
    wait_until(lambda: fetched(urls["price"] + "/?x=4") == "80", what="the next broker serves it")
    assert "shop  price" in command("web", "list")
    command("app", "stop", "shop")
    wait_until(lambda: fetched(urls["price"] + "/?x=4") == "nothing")
    assert command("web", "list") == ""


def _found(command: Command, directory: Path) -> str:
    (directory / "find.py").write_text(
        "import notebook_ext as nb\napp = nb.App()\n@app.local_entrypoint()\ndef main():\n"
        "    print(nb.Function.lookup('shop', 'price').web_url)\n"
        "    print(nb.Cls.from_name('shop', 'Model')().name.web_url)\n"
    )
    return command("run", "find.py")


def test_serve_reloads_what_changes(command: Command, own_place: Place, tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text(SHOP.format(factor=10))
    serving = subprocess.Popen(
        [*CLI, "serve", "shop.py"],
        env=os.environ | own_place.variables | {"PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        url = serving.stdout.readline().split(": ", 1)[1].strip()
        assert serving.stdout.readline().startswith("Serving Model.name: http")
        assert fetched(url + "/?x=4") == "40"
        assert serving.stdout.readline() == "asked for 4\n"
        stdout = serving.stdout

        def reloads() -> bool:
            file.write_text("")
            return bool(select.select([stdout], [], [], 1.0)[0])

        wait_until(reloads, 60)
        assert stdout.readline() == "Reloading.\n", "and no app, which is said"
        file.write_text("an error")
        file.write_text(SHOP.format(factor=30))
        wait_until(lambda: fetched(url + "/?x=4") == "120")
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert fetched(url + "/?x=4") == "nothing"
