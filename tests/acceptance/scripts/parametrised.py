"""A class loads once and serves many calls; each set of parameters has workers of its own."""

import notebook_ext as modal

app = modal.App("example-parametrised")


@app.cls(scaledown_window=30, max_containers=2)
class Model:
    name: str = modal.parameter(default="base")
    size: int = modal.parameter(default=1)

    @modal.enter()
    def load(self) -> None:
        self.weights = [len(self.name)] * self.size

    @modal.method()
    def predict(self, x: int) -> int:
        return x * sum(self.weights)

    @modal.method()
    def describe(self) -> str:
        return f"{self.name} × {self.size}"

    @modal.exit()
    def close(self) -> None:
        self.weights.clear()


@app.local_entrypoint()
def main() -> None:
    base, tuned = Model(), Model(name="fine-tuned", size=2)
    print(base.describe.remote(), base.predict.remote(2))
    print(tuned.describe.remote(), list(tuned.predict.map(range(4))))
    Wide = Model.with_options(cpu=0.5)
    print(Wide(name="wide").predict.remote(10))
