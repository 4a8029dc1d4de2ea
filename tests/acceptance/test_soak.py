"""Nothing grows: a function that is called and redefined again and again leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE


def test_calls_and_redefinitions_leave_everything_as_large_as_before(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--json", str(tmp_path / "soak.json")]
    ended = subprocess.run(
        [*command, "--calls", "2000", "--redefinitions", "100"],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env=dict(os.environ),
        timeout=120 * PATIENCE,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
