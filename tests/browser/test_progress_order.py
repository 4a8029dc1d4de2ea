"""What arrives in a burst is shown in the order in which it was sent, the last state last."""

from __future__ import annotations

import zlib
from typing import Any

from playwright.sync_api import Browser

from notebook_ext.widgets.progress import ProgressWidget

BURST = """async ([code, before, after]) => {
    const url = URL.createObjectURL(new Blob([code], {type: "text/javascript"}));
    const widget = (await import(url)).default();
    const listeners = [];
    const model = {
        state: before,
        get(name) {
            const value = this.state[name];
            return name === "snapshot" ? new DataView(new Uint8Array(value).buffer) : value;
        },
        on(names, listener) { names.split(" ").forEach((n) => listeners.push([n, listener])) },
        off() {},
        send() {},
        tell(name, ...rest) { listeners.forEach(([n, listen]) => n === name && listen(...rest)) },
    };
    widget.initialize({model});
    const el = document.body.appendChild(document.createElement("div"));
    widget.render({model, el});
    model.tell("change:snapshot");   // inflates: what comes now waits for it
    const delta = new DataView(new ArrayBuffer(0));
    model.tell("msg:custom", {op: "tick", stats: before.stats, base: 0, count: 3}, [delta]);
    model.state = after;
    model.tell("change:stats");
    model.tell("change:snapshot");
}"""


def state(percent: str, done: int, code: int) -> dict[str, Any]:
    """Return the traits of a widget of three inputs, all of them in the state `code`."""
    word = "running" if done < 3 else "done"
    stats = {"state": word, "percent": percent, "done": done, "total": 3, "summary": percent}
    snapshot = list(zlib.compress(bytes([code] * 3)))
    common = {"title": "f.map", "notice": "", "hint": "", "base": 0, "count": 3}
    return {**common, "stats": stats, "snapshot": snapshot}


def test_a_tick_that_waits_for_a_snapshot_does_not_undo_the_end(chromium: Browser) -> None:
    page = chromium.new_page()
    try:
        arguments = [str(ProgressWidget._esm), state("33 %", 1, 2), state("100 %", 3, 3)]
        page.evaluate(BURST, arguments)
        page.get_by_text("3 done").wait_for(timeout=10_000)
        assert page.get_by_text("33 %", exact=True).count() == 0
        assert page.locator(".nbx-percent").inner_text() == "100 %"
    finally:
        page.close()
