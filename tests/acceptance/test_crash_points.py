"""The broker dies at every point of its loop, one after the other, and nothing is lost.

The points are all kinds of effects (before and after each is performed) and all kinds of journal
entries (before and after they are on the disk), as the code lists them. All run by `make chaos`,
and two always: the broker has said that a call is safe; a result is about to be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leftovers
from tests.acceptance import journals
from tests.acceptance.crashing_broker import POINTS
from tests.acceptance.places import IDLE_EXIT_SECONDS, Place
from tests.waiting import PATIENCE, wait_until

BROKER = Path(__file__).with_name("crashing_broker.py")
ALWAYS = {"after AcceptCall", "before Fact RangeSucceeded"}
LOAD = Path(__file__).with_name("chaos_load.py")


def _dies(point: str, place: Place, directory: Path) -> None:
    mark = directory / "mark"
    environment = os.environ | place.variables | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said, ready = os.pipe()
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, str(BROKER), point, str(mark), "--ready-fd", str(ready)],
            env=environment,
            pass_fds=[ready],
            stderr=log,
            start_new_session=True,
        ),
    ):
        os.close(ready)
    assert os.read(said, 16) == b"ready"
    os.close(said)
    (directory / "stop").touch()
    ended = subprocess.run(
        [sys.executable, str(LOAD), str(directory)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=directory,
        timeout=60 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    for kind, tally in json.loads((directory / "tally").read_text()).items():
        assert tally["right"] + sum(tally["failures"].values()) == tally["given"], kind
    once = (directory / "ran-once").read_text().split()
    assert len(once) == len(set(once)), "at most once"
    wait_until(lambda: not place.processes(), IDLE_EXIT_SECONDS + 20, "no process is left")
    assert mark.exists(), f"it never came to the point {point}"
    assert not leftovers.files(place.runtime_dir)
    journals.check(directory / "p")


@pytest.mark.parametrize(
    "point",
    [pytest.param(each, marks=() if each in ALWAYS else pytest.mark.chaos) for each in POINTS],
)
def test_the_broker_dies_at_every_point_of_its_loop(
    own_place: Place, tmp_path: Path, point: str
) -> None:
    _dies(point, own_place, tmp_path)
