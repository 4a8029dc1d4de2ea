"""The first example: one call, and a map over all workers."""

import notebook_ext as modal

app = modal.App("example-hello")


@app.function()
def square(x: int) -> int:
    print("This code is running on a remote worker!")
    return x**2


@app.local_entrypoint()
def main(n: int = 4) -> None:
    with modal.enable_output():
        print("the square is", square.remote(42))
    print(sum(square.map(range(n))), square.local(3))
