"""One worker runs many inputs at once where they mostly wait."""

import asyncio
import os

import notebook_ext as modal

app = modal.App("example-concurrency")


@app.function(max_containers=1)
@modal.concurrent(max_inputs=50, target_inputs=20)
async def fetch(n: int) -> tuple[int, int]:
    await asyncio.sleep(0.05)
    return n, os.getpid()


@app.local_entrypoint()
async def main() -> None:
    results = await asyncio.gather(*(fetch.remote.aio(n) for n in range(20)))
    print("fetched", sum(n for n, _ in results), "in", len({pid for _, pid in results}), "worker")
    mapped = [n async for n, _ in fetch.map.aio(range(5))]
    print(mapped)
