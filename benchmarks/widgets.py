"""What live widgets cost: 100,000 inputs at 10 Hz, in the kernel and in the page, and a click.

    python -m benchmarks.widgets            all; the page and the clicks need a Chromium
    python -m benchmarks.widgets --kernel   the kernel alone

The bars: under 6 ms of CPU a tick in the kernel, frames under 20 ms at the 95th percentile in
JupyterLab, and a click that has its effect within a second while its cell runs. CPU is that of the
UI thread; frames are the intervals between animation frames while the widget is redrawn ten times
a second; a click is measured from the press to the word that the page then shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.browser.labkit import NotebookPage

INPUTS: Final = 100_000
TICKS: Final = 100
CHANGES: Final = 2_000
"""Inputs that change in a tick, scattered: each is a range of its own."""

KERNEL: Final = f"""
import json, random, threading, time
from notebook_ext.facts import DONE, RUNNING, MapFacts
from notebook_ext.widgets import progress, show_again, ticker, watched

facts = MapFacts("score.map", {INPUTS})
order = random.Random(1).sample(range({INPUTS}), {INPUTS})
spent = []
draw = watched.Watched.tick

def timed(self, now, *, last):
    began = time.thread_time()
    alive = draw(self, now, last=last)
    spent.append(time.thread_time() - began)
    return alive

watched.Watched.tick = timed
show_again(facts)
for tick in range({TICKS}):
    seen = len(spent)
    for at in order[tick * {CHANGES} // 2:(tick + 1) * {CHANGES} // 2]:
        facts.note(at, at + 1, RUNNING)
        facts.count(at, 1, DONE)
    while len(spent) == seen:
        threading.Event().wait(0.005)
facts.finish("done")
ticker.settle()
spent = sorted(spent[3:])
print(json.dumps({{"mean": sum(spent) / len(spent), "p95": spent[int(len(spent) * 0.95)]}}))
"""

PRESSES: Final = 5
DEFINED: Final = """
import notebook_ext as nb, time
app = nb.App("pressed")

@app.function(max_containers=2)
def score(x):
    time.sleep(0.05)
    return x

score.remote(0)
"""
MAPPED: Final = "for x in score.map(range(3000)): pass"
SHOWN: Final = "%load_ext notebook_ext\n%remote_pool score\n" + MAPPED

WATCH: Final = """
() => {
    window.frames_ = [];
    let last = performance.now();
    const step = (now) => {
        window.frames_.push(now - last);
        last = now;
        window.watching = requestAnimationFrame(step);
    };
    window.watching = requestAnimationFrame(step);
}
"""


def kernel_cost() -> dict[str, float]:
    """Return the CPU of the UI thread in seconds a tick: its mean and its 95th percentile."""
    from jupyter_client.manager import start_new_kernel  # noqa: PLC0415

    manager, client = start_new_kernel()
    try:
        printed: list[str] = []
        reply = client.execute_interactive(
            KERNEL,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
            timeout=120,
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        found: dict[str, float] = json.loads("".join(printed).strip().splitlines()[-1])
        return found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def page_cost() -> dict[str, float]:
    """Return the frames of JupyterLab in seconds while it shows that: median and percentiles."""
    with _opened(KERNEL) as notebook:
        page = notebook.page
        page.evaluate(WATCH)
        idle = _frames(notebook)
        notebook.begin(0)
        notebook.cell(0).locator(".nbx-progress canvas").wait_for()
        page.evaluate("() => { window.frames_ = []; }")
        page.wait_for_function(
            "() => window.panel.content.widgets[0].model.executionState === 'idle'",
            timeout=120_000,
        )
        busy = _frames(notebook)
    return {
        "idle p95": _at(idle, 0.95),
        "median": _at(busy, 0.5),
        "p95": _at(busy, 0.95),
        "p99": _at(busy, 0.99),
    }


def click_cost() -> dict[str, float]:
    """Return the median seconds from a click to its effect, each while the cell is blocked."""
    found: dict[str, list[float]] = {}
    with _opened(DEFINED, *[MAPPED] * PRESSES, *[SHOWN] * PRESSES) as notebook:
        notebook.run(0)
        for index in range(1, 1 + PRESSES):
            notebook.begin(index)
            shown = notebook.cell(index).locator(".nbx-progress")
            shown.get_by_text("running").first.wait_for()
            for name, effect in (("Pause", "paused"), ("Cancel", "cancelled")):
                button = shown.get_by_role("button", name=name)
                found.setdefault(name, []).append(
                    _pressed(button, shown.get_by_text(effect, exact=True).first)
                )
            _idle(notebook, index)  # a cell that waits behind one that fails is not run
        for index in range(1 + PRESSES, 1 + 2 * PRESSES):
            notebook.begin(index)
            cell = notebook.cell(index)
            cell.get_by_role("button", name="Stop worker").first.wait_for()
            stopped = cell.locator("tbody th .nbx-code").first.inner_text()
            row = cell.locator("tbody tr", has_text=stopped)
            button = row.get_by_role("button", name="Stop worker")
            # It is hidden as the worker is stopping, and gone with it.
            found.setdefault("Stop worker", []).append(_pressed(button, button, "hidden"))
            cell.get_by_role("button", name="Cancel").first.click()
            _idle(notebook, index)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _pressed(
    button: Locator, effect: Locator, state: Literal["visible", "hidden"] = "visible"
) -> float:
    button.wait_for()
    began = time.perf_counter()
    button.click()
    effect.wait_for(state=state)
    return time.perf_counter() - began


def _idle(notebook: NotebookPage, index: int) -> None:
    notebook.page.wait_for_function(
        "(i) => window.panel.content.widgets[i].model.executionState === 'idle'", arg=index
    )


@contextmanager
def _opened(*cells: str) -> Iterator[NotebookPage]:
    """Open a notebook with these cells in JupyterLab."""
    from tests.browser.labkit import (  # noqa: PLC0415
        LabServer,
        NotebookPage,
        browser,
        write_notebook,
    )

    with tempfile.TemporaryDirectory(prefix="nbx-bench-", dir="/tmp") as made:
        base = Path(made)
        (base / "notebooks").mkdir()
        server = LabServer(base / "notebooks", base / "lab")
        try:
            with browser(base) as running:
                write_notebook(base / "notebooks/live.ipynb", *cells)
                page = running.new_page(viewport={"width": 1200, "height": 900})
                yield NotebookPage(server, page, "live.ipynb")
                server.end_kernels()
        finally:
            server.close()


def _frames(notebook: NotebookPage) -> list[float]:
    page = notebook.page
    page.wait_for_function("() => window.frames_.length > 60")
    found = page.evaluate("() => window.frames_.splice(0)")
    return sorted(found[1:])


def _at(values: list[float], part: float) -> float:
    return values[min(int(len(values) * part), len(values) - 1)] / 1000


def main() -> None:
    """Print all, in milliseconds, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kernel", action="store_true", help="leave the page and the clicks out")
    given = parser.parse_args()
    found = {"kernel, CPU a tick": kernel_cost()}
    if not given.kernel:
        found["page, frames"] = page_cost()
        found["click to effect"] = click_cost()
    in_ms = {
        what: {name: round(1000 * value, 2) for name, value in values.items()}
        for what, values in found.items()
    }
    print(json.dumps(in_ms, indent=2))


if __name__ == "__main__":
    main()
