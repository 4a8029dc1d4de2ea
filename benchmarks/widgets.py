"""What a live progress costs: 100,000 inputs at 10 Hz, in the kernel and in the page.

    python -m benchmarks.widgets            both; the page needs a Chromium
    python -m benchmarks.widgets --kernel   the kernel alone

The bars: under 6 ms of CPU a tick in the kernel, and frames under 20 ms at the 95th percentile in
JupyterLab. CPU is that of the UI thread; frames are the intervals between animation frames while
the widget is redrawn ten times a second, and draws what our own code takes of one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Final

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
                write_notebook(base / "notebooks/live.ipynb", KERNEL)
                page = running.new_page(viewport={"width": 1200, "height": 900})
                notebook = NotebookPage(server, page, "live.ipynb")
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
                server.end_kernels()
        finally:
            server.close()
    return {
        "idle p95": _at(idle, 0.95),
        "median": _at(busy, 0.5),
        "p95": _at(busy, 0.95),
        "p99": _at(busy, 0.99),
    }


def _frames(notebook: object) -> list[float]:
    page = notebook.page  # type: ignore[attr-defined]
    page.wait_for_function("() => window.frames_.length > 60")
    found = page.evaluate("() => window.frames_.splice(0)")
    return sorted(found[1:])


def _at(values: list[float], part: float) -> float:
    return values[min(int(len(values) * part), len(values) - 1)] / 1000


def main() -> None:
    """Print both, in milliseconds, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kernel", action="store_true", help="leave the page out")
    given = parser.parse_args()
    found = {"kernel, CPU a tick": kernel_cost()}
    if not given.kernel:
        found["page, frames"] = page_cost()
    in_ms = {
        what: {name: round(1000 * value, 2) for name, value in values.items()}
        for what, values in found.items()
    }
    print(json.dumps(in_ms, indent=2))


if __name__ == "__main__":
    main()
