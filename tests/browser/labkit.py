"""JupyterLab and Notebook 7 in a real browser: a server of the test's own, a notebook to drive.

A notebook is opened alone in the page (`/doc/tree/…`) and driven through Lab's own commands, as
its menus do; what a person sees is looked for in the page, what the notebook holds in its model.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.browser import chromium
from tests.waiting import PATIENCE, wait_until

SETTINGS: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
"""What Lab would ask the network for, and what would change notebooks, is off."""

PAGE = {"disabledExtensions": {"ipyparallel-labextension": True}}
"""A peer that `make bench` installs opens a dialog in every page."""

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-extensions",
)


class LabServer:
    """A Jupyter server whose notebooks lie in `notebooks` and whose own files in `files`."""

    def __init__(self, notebooks: Path, files: Path) -> None:
        self.notebooks = notebooks
        self._token = secrets.token_hex(16)
        self._port = _free_port()
        self._log = files / "server.log"
        (files / "settings").mkdir(parents=True)
        (files / "settings/overrides.json").write_text(json.dumps(SETTINGS))
        (files / "settings/page_config.json").write_text(json.dumps(PAGE))
        self._process = self._start(files)
        try:
            wait_until(self._answers, 60, "JupyterLab answers")
        except BaseException:
            self.close()
            raise

    def _start(self, files: Path) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, str(Path(__file__).with_name("server.py"))),
            *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self._port}"),
            "--expose-app-in-browser",
            "--ServerApp.port_retries=0",
            "--ServerApp.jpserver_extensions=notebook=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            f"--ServerApp.root_dir={self.notebooks}",
            f"--IdentityProvider.token={self._token}",
            f"--LabApp.app_settings_dir={files}/settings",
            f"--LabApp.workspaces_dir={files}/workspaces",
            f"--LabApp.user_settings_dir={files}/user-settings",
        ]
        # Without configuration Jupyter makes an empty directory for it and leaves it there.
        (files / "temporary").mkdir()
        variables = {
            "JUPYTER_NO_CONFIG": "1",
            "JUPYTER_PLATFORM_DIRS": "1",
            "TMPDIR": str(files / "temporary"),
        }
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.notebooks,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            self.ask("/api/status")
        except OSError:
            return False
        return True

    def log(self) -> str:
        """Return the end of what the server has said."""
        return self._log.read_text(errors="replace")[-4000:]

    def address(self, name: str, front_end: str = "lab") -> str:
        """Return where the notebook `name` opens, alone in its page: in `lab` or in `notebook`."""
        where = {"lab": "doc/tree", "notebook": "notebooks"}[front_end]
        return f"http://127.0.0.1:{self._port}/{where}/{name}?token={self._token}&reset"

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the answer of the server's REST interface."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            headers={"Authorization": f"token {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  always http
            body = response.read()
        return json.loads(body) if body else None

    def end_kernels(self) -> None:
        """Close every session, and with it its kernel."""
        for session in self.ask("/api/sessions"):
            self.ask(f"/api/sessions/{session['id']}", "DELETE")

    def close(self) -> None:
        """End the server, by asking first: it then ends its kernels."""
        try:
            self.ask("/api/shutdown", "POST")
            self._process.wait(15)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook with these code cells."""
    blank: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    made = [{**blank, "execution_count": None, "source": each} for each in cells]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": made}
    path.write_text(json.dumps(notebook))


@contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """Start Chromium with its files below `home`."""
    path = chromium.executable()
    assert shutil.which(path), "no Chromium: run `make setup`, or set CHROMIUM to one"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path,
            args=list(CHROMIUM_ARGUMENTS),
            env={**os.environ, "HOME": str(home)},
        )
        try:
            yield running
        finally:
            running.close()


class NotebookPage:
    """One notebook in one page, on a kernel of its own."""

    def __init__(self, server: LabServer, page: Page, name: str, front_end: str = "lab") -> None:
        self.server = server
        self.page = page
        self.path = server.notebooks / name
        """Where it is saved."""
        self.console: list[str] = []
        """What the page has logged."""
        page.set_default_timeout(30_000 * PATIENCE)
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        page.goto(server.address(name, front_end))
        self._attach()

    def _attach(self) -> None:
        page = self.page
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context")
        page.evaluate("""async () => {
            const panel = window.jupyterapp.shell.currentWidget;
            await panel.context.ready;
            await panel.revealed;
            await panel.sessionContext.ready;
            await panel.sessionContext.session.kernel.info;
            window.panel = panel;
        }""")

    def reload(self) -> None:
        """Save the notebook and reload the page, whether a cell runs or not."""
        self.page.evaluate("async () => { await window.panel.context.save(); }")
        self.page.evaluate("() => { window.panel = undefined; window.jupyterapp = undefined; }")
        self.page.reload()
        self._attach()

    def restart_kernel(self) -> None:
        """Restart the kernel, without the question that the menu asks."""
        self.page.evaluate(
            "async () => { await window.panel.sessionContext.session.kernel.restart() }"
        )

    def use_theme(self, name: str) -> None:
        """Change to a theme, `JupyterLab Dark` for example."""
        self.page.evaluate(
            "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        self.page.wait_for_function(
            "(theme) => document.body.dataset.jpThemeName === theme", arg=name
        )

    def open_output_view(self, index: int) -> None:
        """Show the outputs of the cell at `index` a second time, as Lab's menu does."""
        self.page.evaluate(
            """(index) => {
                window.panel.content.activeCellIndex = index;
                window.jupyterapp.commands.execute('notebook:create-output-view');
            }""",
            index,
        )

    def begin(self, index: int) -> None:
        """Run the cell at `index` and return at once."""
        self.page.evaluate(
            """(index) => {
                const notebook = window.panel.content;
                notebook.activeCellIndex = index;
                notebook.deselectAll();
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            index,
        )

    def run(self, index: int, timeout: float = 60.0) -> None:
        """Run the cell at `index` and wait, at most `timeout` seconds, until it has ended."""
        self.begin(index)
        self.page.wait_for_function(
            """(index) => {
                const model = window.panel.content.widgets[index].model;
                return model.executionState === 'idle' && model.executionCount !== null;
            }""",
            arg=index,
            timeout=timeout * 1000 * PATIENCE,
        )

    def run_all(self, timeout: float = 120.0) -> None:
        """Run all cells, as the menu does; wait, at most `timeout` seconds, until they ended."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(
            """() => window.panel.content.widgets.every(({model}) => model.type !== 'code'
                || (model.executionState === 'idle' && model.executionCount !== null))""",
            timeout=timeout * 1000 * PATIENCE,
        )

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """Return the outputs that the notebook holds for the cell at `index`."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "(index) => window.panel.content.widgets[index].model.outputs.toJSON()", index
        )
        return found

    def index_of(self, text: str) -> int:
        """Return the position of the first code cell whose source has `text` in it."""
        found: int = self.page.evaluate(
            """(text) => window.panel.content.widgets.findIndex(({model}) =>
                model.type === 'code' && model.sharedModel.getSource().includes(text))""",
            text,
        )
        assert found >= 0, f"no cell with {text!r}"
        return found

    def show_at_top(self, index: int) -> None:
        """Scroll so that the cell at `index` is the first in view."""
        self.cell(index).evaluate("(cell) => cell.scrollIntoView({block: 'start'})")

    def all_errors(self) -> dict[int, list[str]]:
        """Return the names of all exceptions shown, by cell."""
        count: int = self.page.evaluate("() => window.panel.content.widgets.length")
        code = [i for i in range(count) if self._is_code(i)]
        return {index: names for index in code if (names := self.errors(index))}

    def _is_code(self, index: int) -> bool:
        kind = self.page.evaluate("(i) => window.panel.content.widgets[i].model.type", index)
        return bool(kind == "code")

    def errors(self, index: int) -> list[str]:
        """Return the names of the exceptions shown below the cell at `index`."""
        return [o["ename"] for o in self.outputs(index) if o["output_type"] == "error"]

    def cell(self, index: int) -> Locator:
        """Return the cell at `index` as the page shows it."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def evaluate(self, expression: str) -> Any:
        """Ask the kernel itself for a value that JSON can carry."""
        reply = self.page.evaluate(
            """async (expression) => {
                const kernel = window.panel.sessionContext.session.kernel;
                for (;;) {
                    const future = kernel.requestExecute({
                        code: '', silent: true, store_history: false,
                        user_expressions: {value: expression},
                    });
                    const {content} = await future.done;
                    // A cell that ends with an exception aborts what waits behind it: ask again.
                    if (content.status !== 'aborted') return content.user_expressions.value;
                }
            }""",
            f"__import__('json').dumps({expression})",
        )
        assert reply["status"] == "ok", reply
        return json.loads(ast.literal_eval(reply["data"]["text/plain"]))
