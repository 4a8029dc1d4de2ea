"""A job is started, its id kept, and its result asked for until it is there."""

import tempfile
import time
from pathlib import Path

import notebook_ext as modal

app = modal.App("example-polling")


@app.function()
def slow(gate: str, n: int) -> int:
    while not Path(gate).exists():
        time.sleep(0.01)
    return n * n


def submit(gate: str, n: int) -> str:
    """Return what a web server would give its client."""
    return slow.spawn(gate, n).object_id


def poll(call_id: str) -> tuple[str, int | None]:
    call = modal.FunctionCall.from_id(call_id)
    try:
        return "done", call.get(timeout=0)
    except TimeoutError:
        return "pending", None


@app.local_entrypoint()
def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        call_id = submit(f"{place}/gate", 7)
        print(poll(call_id))
        Path(place, "gate").touch()
        while poll(call_id)[0] == "pending":
            time.sleep(0.01)
        print(poll(call_id))
