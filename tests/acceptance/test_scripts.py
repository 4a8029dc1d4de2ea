"""Scripts in Modal's idiom, run by `notebook-ext run`: what they print.

All in one process and on one broker: what is shown is what scripts do, not how the command starts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

SCRIPTS = Path(__file__).parent / "scripts"
RUN_ALL = """
import contextlib, io, json, sys
from notebook_ext.cli import main

said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            main(words, standalone_mode=False)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
    said.append(out.getvalue())
print(json.dumps(said))
"""

EXPECTED = {
    "hello.py": ["the square is 1764", "14 9"],
    "generators.py": ["got [0, 1, 2]", "MODAL"],
    "grid_search.py": ["12 models, best: slope=3.0 offset=-1.0 loss=0.000"],
    "batching.py": ["lengths [0, 1, 2, 3, 4] …", "largest batch 8"],
    "retrying.py": [
        "one after 3 tries, two after 3 tries",
        "[1.0, UserCodeException(ZeroDivisionError('division by zero')), 0.5]",
        "raised: division by zero",
    ],
    "job_queue.py": ["done 10 left 0", "(9, 81) 10", "tries 3"],
    "polling.py": ["('pending', None)", "('done', 49)"],
    "scheduled.py": ["nothing to report True"],
    "parametrised.py": ["base × 1 8", "fine-tuned × 2 [0, 20, 40, 60]", "40"],  # noqa: RUF001  printed
    "concurrency.py": ["fetched 190 in 1 worker", "[0, 1, 2, 3, 4]"],
    "failing.py": [
        "[0, 1, UserCodeException(ModelError('two is no good')), 3]",
        "stopped by: two is no good",
        "too slow",
    ],
    "gathering.py": ["[6, 4]", "document_count SUCCESS ['word_count']", "[1, 2, 3]"],
    "files.py": ["['one.txt', 'two.txt'] 14", "b'22'"],
    "web_app.py": ['202 … {"result":81}', "0 1 2 ", '"hello ada"'],
    "environment.py": ["('s3', 'test', False) True", "True", "0 True"],
}
"""What each script prints itself, in order; what its functions print comes between."""


SCHEDULED = (
    ["deploy", str(SCRIPTS / "scheduled.py")],
    ["app", "list"],
    ["app", "stop", "example-scheduled"],
)


@pytest.fixture(scope="module")
def said(own_directories: Path) -> dict[str, str]:
    """Return what each script wrote, and what commands do about one that has schedules."""
    commands = [*(["run", str(SCRIPTS / name)] for name in EXPECTED), *SCHEDULED]
    ran = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(commands)],
        check=True,
        capture_output=True,
        text=True,
        timeout=100 * PATIENCE,
    )
    names = [*EXPECTED, "deploy", "list", "stop"]
    return dict(zip(names, json.loads(ran.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("script", EXPECTED)
def test_a_script_prints_what_it_says(said: dict[str, str], script: str) -> None:
    lines = said[script].splitlines()
    place = -1
    for expected in EXPECTED[script]:
        assert expected in lines[place + 1 :], said[script]
        place = lines.index(expected, place + 1)


def test_what_functions_print_is_shown_too(said: dict[str, str]) -> None:
    assert "This code is running on a remote worker!" in said["hello.py"]
    assert "making 2" in said["generators.py"]
    assert "region='us-east' means something on a cloud only" in said["environment.py"]


def test_every_script_is_run() -> None:
    assert {path.name for path in SCRIPTS.glob("*.py")} == set(EXPECTED)


def test_the_scheduled_one_is_deployed_listed_and_stopped(said: dict[str, str]) -> None:
    deployed, report, check = said["deploy"].splitlines()
    assert deployed.startswith("Deployed example-scheduled v")
    assert report.startswith("report: 0 9 * * MON-FRI (America/New_York), next 20")
    assert check.startswith("check: every 300 s, next 20")
    assert "report 20" in said["list"]
    assert said["stop"].startswith("Stopped: example-scheduled v")
