"""The gateway of what is deployed is back by itself where it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

_LIVES = """
import os, signal, sys
from pathlib import Path
from notebook_ext.web import keeping
lives = Path(sys.argv[1])
keeping.keep()
print("here", flush=True)
with lives.open("a") as file:
    file.write(f"{os.getpid()} {os.getppid()}\\n")
if len(lives.read_text().splitlines()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(7)
"""


def test_one_that_is_killed_is_started_again_and_one_that_ends_is_not(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    done = subprocess.run(
        [sys.executable, "-c", _LIVES, str(lives)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60 * PATIENCE,
    )
    children, parents = zip(*map(str.split, lives.read_text().splitlines()), strict=True)
    assert (len(set(children)), len(set(parents))) == (3, 1)
    assert done.returncode == 7, "the keeper ends as the gateway did"
    assert done.stdout == b"here\n", "who has started it is told once where it is"
