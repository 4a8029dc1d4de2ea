"""Errors of functions, and what takes too long, as the caller sees them."""

import time

import notebook_ext as modal

app = modal.App("example-failing")


class ModelError(Exception):
    pass


@app.function()
def check(x: int) -> int:
    if x == 2:
        raise ModelError("two is no good")
    return x


@app.function(timeout=1)
def sleeper() -> None:
    time.sleep(30)


@app.local_entrypoint()
def main() -> None:
    late = sleeper.spawn()
    print(list(check.map(range(4), return_exceptions=True)))
    try:
        list(check.map(range(4)))
    except ModelError as error:
        print("stopped by:", error)
    check.for_each(range(4), ignore_exceptions=True)
    try:
        late.get()
    except modal.exception.FunctionTimeoutError:
        print("too slow")
