"""Single inputs are gathered into batches, which a model takes faster."""

import notebook_ext as modal

app = modal.App("example-batching")


@app.function()
@modal.batched(max_batch_size=8, wait_ms=200)
async def embed(texts: list[str]) -> list[tuple[int, int]]:
    return [(len(text), len(texts)) for text in texts]


@app.local_entrypoint()
def main() -> None:
    results = list(embed.map(["a" * n for n in range(24)]))
    print("lengths", [length for length, _ in results][:5], "…")
    print("largest batch", max(size for _, size in results))
