"""`python -m benchmarks.web`: what does a request cost that a worker answers, beside plain uvicorn?

The same FastAPI app, deployed with one warm worker, and under plain uvicorn: ApacheBench (`ab`, of
Debian's apache2-utils) makes 1,000 requests by 50 connections that are kept, to either in turn, in
three rounds after one that is not counted. Then the same while a worker of another endpoint, and
then one of this, is killed. Printed, and with `--json PATH` written: medians of the rounds. The
limits: no failed request, p50 at most 3 times that of plain uvicorn; of a killed worker's, no more
than 50 requests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, become_subreaper, isolated_environment, sweep

REQUESTS, CONNECTIONS = 1_000, 50
LIMIT_RATIO = 3.0
PLAIN_PORT = 18_765
SITE = """
import os
from fastapi import FastAPI

def made():
    api = FastAPI()

    @api.get("/")
    async def root():
        return {"pid": os.getpid()}

    return api
"""
DEPLOY = """
import notebook_ext as nb
from site_app import made

app = nb.App("bench")

@app.function(min_containers=WORKERS, max_containers=WORKERS)
@nb.concurrent(max_inputs=100)
@nb.asgi_app()
def site():
    return made()

print(app.deploy().urls["site"])
"""


def load(url: str, requests: int = REQUESTS) -> dict[str, float]:
    """Return what ApacheBench says: failed requests, and milliseconds."""
    done = subprocess.run(
        ["ab", "-k", "-l", "-n", str(requests), "-c", str(CONNECTIONS), url],  # noqa: S607  Debian's
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    failed = int(_found(r"Failed requests: +(\d+)", done.stdout) or 0)
    other = int(_found(r"Non-2xx responses: +(\d+)", done.stdout) or 0)
    return {
        "failed": failed + other,
        "p50_ms": float(_found(r"50% +(\d+)", done.stdout) or 0),
        "p99_ms": float(_found(r"99% +(\d+)", done.stdout) or 0),
        "per_second": float(_found(r"Requests per second: +([\d.]+)", done.stdout) or 0),
    }


def _found(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None


def _wait_for(url: str) -> str:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  ours
                text: str = answer.read().decode()
                return text
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}")


def measure(workers: int, rounds: int) -> dict[str, Any]:
    """Return what came of it."""
    directory = Path(tempfile.mkdtemp(prefix="nbx-"))
    (directory / "site_app.py").write_text(SITE)
    environment = isolated_environment(directory)
    environment["PYTHONPATH"] = f"{directory}:{ROOT}"
    plain = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "site_app:made", "--log-level", "critical",
         "--no-access-log", "--port", str(PLAIN_PORT)],
        env=environment, cwd=directory,
    )  # fmt: skip
    try:
        text = DEPLOY.replace("WORKERS", str(workers))
        (directory / "deploy.py").write_text(text)
        ours = subprocess.run(
            [sys.executable, "deploy.py"],
            env=environment, cwd=directory, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        urls = {"uvicorn": f"http://127.0.0.1:{PLAIN_PORT}/", "notebook-ext": f"{ours}/"}
        for url in urls.values():
            _wait_for(url)
            load(url)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
        for at in range(rounds):
            for name in sorted(urls, reverse=bool(at % 2)):
                found[name].append(load(urls[name]))
        killed = _with_a_killed_worker(urls["notebook-ext"])
    finally:
        plain.terminate()
        plain.wait()
        sweep(set())
        shutil.rmtree(directory, ignore_errors=True)
    medians: dict[str, Any] = {
        name: {key: statistics.median(each[key] for each in all_) for key in all_[0]}
        for name, all_ in found.items()
    }
    medians["p50_ratio"] = medians["notebook-ext"]["p50_ms"] / medians["uvicorn"]["p50_ms"]
    medians["failed"] = sum(each["failed"] for all_ in found.values() for each in all_)
    medians["killed"] = killed
    return medians


def _with_a_killed_worker(url: str) -> dict[str, float]:
    """Return the load's outcome where a worker is killed in the middle of it."""
    pid = int(json.loads(_wait_for(url))["pid"])
    done: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: done.append(load(url, 4 * REQUESTS)))
    thread.start()
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    return done[0]


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if shutil.which("ab") is None:
        sys.exit("ApacheBench is needed: apt-get install apache2-utils")
    become_subreaper()
    found = measure(given.workers, given.rounds)
    for name in ("uvicorn", "notebook-ext", "killed"):
        row = found[name]
        print(
            f"{name:14} p50 {row['p50_ms']:6.1f} ms   p99 {row['p99_ms']:6.1f} ms   "
            f"{row['per_second']:7.0f} /s   failed {row['failed']:.0f}"
        )
    print(f"p50 of plain uvicorn's: {found['p50_ratio']:.2f} (limit {LIMIT_RATIO:g})")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    good = found["failed"] == 0 and found["p50_ratio"] <= LIMIT_RATIO
    sys.exit(0 if good and found["killed"]["failed"] <= CONNECTIONS else 1)


if __name__ == "__main__":
    main()
