"""A client keeps nothing of a call that is over, whichever way it was made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.places import Place
from tests.waiting import PATIENCE


def test_nothing_of_a_call_stays_in_the_client(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.objects"],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | Place(tmp_path).variables,
        timeout=110 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {}
