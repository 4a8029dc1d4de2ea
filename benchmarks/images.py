"""`python -m benchmarks.images`: what an image costs, when it is built and when it is there.

Printed, and written as JSON: seconds from nothing running to the first result, of a function
without an image, of one whose image is built by that, and of the same in a new broker when the
image is in the cache; and of warm calls. The package is the user's choice (`--package`); where it
comes from is what pip and uv are configured to, and what these keep themselves is the machine's.
Medians over rounds; each round has directories, a broker and a cache of images of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

FIGURES = {
    "plain_start": "first result, no image (s)",
    "built_start": "first result, the image is built (s)",
    "cached_start": "first result, the image is in the cache (s)",
    "plain_warm": "warm call, no image (ms)",
    "imaged_warm": "warm call, in the image (ms)",
}
_WARM_CALLS = 200

Answer = dict[str, float | str]


def probe(package: str, module: str) -> Answer:
    """Run in the measured process: first and warm calls; in no image if `package` is empty."""
    begun = time.perf_counter()
    import notebook_ext as nb  # noqa: PLC0415  as its users have it

    app = nb.App("images")
    image = nb.Image.debian_slim().pip_install(package) if package else None
    names: dict[str, Any] = {"app": app, "image": image, "__name__": "__main__"}
    text = (
        "@app.function(image=image, max_containers=1)\n"
        f"def version():\n    import {module}\n    return {module}.__version__\n"
    )
    exec(text, names)  # noqa: S102  globals of its own, as a notebook's
    version = names["version"].remote()
    start = time.perf_counter() - begun
    warm = []
    for _ in range(_WARM_CALLS):
        begun = time.perf_counter()
        names["version"].remote()
        warm.append(time.perf_counter() - begun)
    return {"start": start, "warm": statistics.median(warm) * 1000, "version": version}


def measure(options: argparse.Namespace) -> Answer:
    """Run one round from nothing and return what it measured."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    own = isolated_environment(directory)
    kept = {name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in os.environ}
    answer: Answer = {}
    try:
        for name, package in (
            ("plain", ""),
            ("built", options.package),
            ("cached", options.package),
        ):
            ended = subprocess.run(
                [sys.executable, "-m", "benchmarks.images", "--probe", package, options.module],
                stdout=subprocess.PIPE,
                env={**own, **kept},
                cwd=directory,
                check=True,
                timeout=600,
            )
            found = json.loads(ended.stdout)
            answer[f"{name}_start"] = found["start"]
            answer["imaged_warm" if package else "plain_warm"] = found["warm"]
            answer[f"{name}_version"] = found["version"]
            sweep(set())  # the next one starts from nothing
    finally:
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    return answer


def main(arguments: list[str]) -> None:
    """Run the rounds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--package", default="numpy==1.26.4")
    parser.add_argument("--module", default="numpy", help="whose __version__ is asked for")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "images.json")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        print(json.dumps(probe(*options.probe)))
        return
    become_subreaper()
    rounds = [measure(options) for _ in range(options.rounds)]
    medians = {name: statistics.median(float(each[name]) for each in rounds) for name in FIGURES}
    options.json.write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=1) + "\n")
    for name, title in FIGURES.items():
        print(f"{title:50} {medians[name]:8.3f}")
    last = rounds[-1]
    print(f"{options.module}: {last['plain_version']} here, {last['built_version']} in the image")


if __name__ == "__main__":
    main(sys.argv[1:])
