"""What an agent ends that a former one has left, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.waiting import wait_until

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
AGENT = """
import subprocess, sys
from kernel_worker.host import orphans
ours = subprocess.Popen(["sleep", "60"])
orphans.end_those_of_a_former_agent(sys.argv[1], 0)
print(ours.poll())
ours.kill()
"""


def test_what_began_before_the_agent_is_ended_and_what_its_own_workers_executed_is_not(
    tmp_path: Path,
) -> None:
    place = str(tmp_path / "connection.json")
    environment = os.environ | {"NOTEBOOK_EXT_WORKPLACE": place}
    elsewhere = os.environ | {"NOTEBOOK_EXT_WORKPLACE": f"{place}.other"}
    with (
        subprocess.Popen(SLEEPER, env=environment) as former,
        subprocess.Popen(SLEEPER, env=elsewhere) as other,
    ):
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + 0.02, 10, "the system's clock has ticked")
        command = [sys.executable, "-c", AGENT, place]
        said = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout == "None\n"
        assert former.wait(20) == -9
        assert other.poll() is None
        other.kill()
