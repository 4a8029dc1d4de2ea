"""What fails by chance is tried again, later each time; what always fails is given back."""

import tempfile
from pathlib import Path

import notebook_ext as modal

app = modal.App("example-retries")


@app.function(
    retries=modal.Retries(max_retries=3, backoff_coefficient=2.0, initial_delay=0.01, max_delay=0.1)
)
def flaky(marks: str, name: str) -> str:
    place = Path(marks, name)
    tries = len(place.read_text()) if place.exists() else 0
    place.write_text("x" * (tries + 1))
    if tries < 2:
        raise ConnectionResetError(f"{name} is not there yet")
    return f"{name} after {tries + 1} tries"


@app.function(retries=0)
def broken(x: int) -> float:
    return 1 / x


@app.local_entrypoint()
def main() -> None:
    with tempfile.TemporaryDirectory() as marks:
        print(", ".join(flaky.map([marks] * 2, ["one", "two"])))
    results = list(broken.map([1, 0, 2], return_exceptions=True))
    print(results)
    try:
        broken.remote(0)
    except ZeroDivisionError as error:
        print("raised:", error)
