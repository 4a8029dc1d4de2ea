"""Runs a notebook here and prints what each cell shows, as it comes: what `make demo` runs.

    python -m tools.run_notebook notebooks/quickstart.ipynb

With `--save` the file gets the outputs (paths below the clone made relative, notices of waits left
out, widgets as pictures); else it is left as it is. The kernel, its broker and all that they write
live in a directory of this run's own, which is removed at the end together with what runs in it.
Exits with 1 if a cell failed that is not tagged `raises-exception`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.own_directories import own_directories

CELL_SECONDS = 300
_WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Writes to standard output; colours and rewritten lines only where a person looks."""

    def __init__(self) -> None:
        self.is_live = sys.stdout.isatty()
        self._held = ""

    def write(self, text: str) -> None:
        """Show output of a cell; a line that rewrites itself reaches a log in its last form."""
        if self.is_live:
            print(text, end="", flush=True)
            return
        *lines, self._held = (self._held + _ESCAPES.sub("", text)).split("\n")
        for line in lines:
            print(_last_form(line), flush=True)

    def rule(self, text: str, colour: int) -> None:
        """Show a line that is not output, on a line of its own."""
        if self._held:
            self.write("\n")
        print(f"\x1b[{colour}m{text}\x1b[0m" if self.is_live else text, flush=True)


def _last_form(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2].rstrip() if "\r" in line else line


class PrintingClient(NotebookClient):
    """Executes a notebook and shows each cell and its output."""

    def __init__(self, notebook: nbformat.NotebookNode, directory: Path) -> None:
        resources = {"metadata": {"path": str(directory)}}
        super().__init__(notebook, timeout=CELL_SECONDS, resources=resources, record_timing=False)
        self.terminal = Terminal()
        self.on_cell_start = self._show_source

    def _show_source(self, cell: nbformat.NotebookNode, **_: object) -> None:
        if cell.cell_type == "markdown":
            self.terminal.rule(f"\n{cell.source}", colour=1)
        elif cell.cell_type == "code":
            source = "\n".join(f"  │ {line}" for line in cell.source.splitlines())
            self.terminal.rule(f"\n{source}", colour=36)

    def process_message(
        self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int
    ) -> nbformat.NotebookNode | None:
        """Show a message of the running cell, then let nbclient file it."""
        if text := _text_of(msg["msg_type"], msg["content"]):
            self.terminal.write(text)
        output: nbformat.NotebookNode | None = super().process_message(msg, cell, cell_index)
        return output


def _text_of(kind: str, content: Mapping[str, Any]) -> str:
    if kind == "stream":
        return str(content["text"])
    if kind in {"display_data", "execute_result"}:
        return f"{content['data'].get('text/plain', '')}\n"
    if kind == "error":
        return "\n".join(content["traceback"]) + "\n"
    return ""


def run(path: Path, *, save: bool) -> bool:
    """Run the notebook; return whether all of its cells did what they should."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = PrintingClient(notebook, path.parent)
    client.store_widget_state = False  # the display's still picture is what a saved one shows
    manager = client.create_kernel_manager()
    manager.transport, manager.ip = "ipc", f"{os.environ['JUPYTER_RUNTIME_DIR']}/k"  # no port
    started = time.monotonic()
    try:
        client.execute()
    except CellExecutionError:
        client.terminal.rule(f"\n{path.name}: the last cell above failed", colour=31)
        return False
    if save:
        _forget_waits(notebook)
        _leave_pictures(notebook)
        saved: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
        path.write_text(saved.replace(f"{Path.cwd()}/", "") + "\n")
    seconds = time.monotonic() - started
    client.terminal.rule(f"\n{path.name}: every cell ran, in {seconds:.0f} s", colour=32)
    return True


def _forget_waits(notebook: nbformat.NotebookNode) -> None:
    """Leave the notices out that say what a call waited for: another time it waits for nothing."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if not _is_notice(each)]


def _leave_pictures(notebook: nbformat.NotebookNode) -> None:
    """Leave of each widget its picture: where there is no kernel, it would be an error."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", {}):
                output.data.pop(_WIDGET_MIME, None)


def _is_notice(output: nbformat.NotebookNode) -> bool:
    return bool(output.output_type == "stream" and output.text.startswith("notebook_ext: waits: "))


def main() -> int:
    """Run the notebook that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--save", action="store_true", help="write the outputs into the file")
    arguments = parser.parse_args()
    with own_directories():
        os.environ["NOTEBOOK_EXT_PROGRESS"] = "auto" if arguments.save else "text"
        return 0 if run(arguments.notebook.resolve(), save=arguments.save) else 1


if __name__ == "__main__":
    sys.exit(main())
