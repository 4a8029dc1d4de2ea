"""Secrets and variables, options of today and of 2024, and what runs where."""

import os

import notebook_ext as modal

app = modal.App("example-environment")


@app.function(
    secrets=[modal.Secret.from_dict({"API_KEY": "s3cret"})],
    env={"MODE": "test"},
    region="us-east",
    keep_warm=0,
    concurrency_limit=2,
    container_idle_timeout=20,
)
def where() -> tuple[str, str, bool]:
    return os.environ["API_KEY"][:2], os.environ["MODE"], modal.is_local()


@app.function(serialized=True, name="renamed")
def ids() -> bool:
    return (modal.current_input_id() or "").startswith("in-")


@app.local_entrypoint()
def main() -> None:
    print(where.remote(), modal.is_local())
    print(ids.remote())
    stats = where.get_current_stats()
    print(stats.backlog, stats.num_total_runners >= 1)
    where.update_autoscaler(min_containers=0, scaledown_window=10)
