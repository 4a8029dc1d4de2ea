"""Hyperparameters of a model are searched in parallel; the best ones win."""

import itertools
import random

import notebook_ext as modal

app = modal.App("example-grid-search")

TRUE_SLOPE, TRUE_OFFSET = 3.0, -1.0


@app.function(cpu=1.0, memory=256, timeout=60)
def score(slope: float, offset: float, *, samples: int = 100) -> tuple[float, float, float]:
    rng = random.Random(0)
    xs = [rng.uniform(-1, 1) for _ in range(samples)]
    loss = sum((TRUE_SLOPE * x + TRUE_OFFSET - slope * x - offset) ** 2 for x in xs) / samples
    return loss, slope, offset


@app.local_entrypoint()
def main() -> None:
    grid = itertools.product((1.0, 2.0, 3.0, 4.0), (-2.0, -1.0, 0.0))
    results = list(score.starmap(grid, kwargs={"samples": 50}, order_outputs=False))
    loss, slope, offset = min(results)
    print(f"{len(results)} models, best: slope={slope} offset={offset} loss={loss:.3f}")
