"""Chaos: processes of ours are killed and stopped at random moments under a mixed load.

`make chaos` runs it for 5 minutes (`NOTEBOOK_EXT_CHAOS_SECONDS` changes that). The moments come
from the seed that the run prints. At the end every accepted input has exactly one outcome, every
value is right, nothing ran again but where a worker or the broker died, no process and no file is
left, and the journal is sound.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker import rendezvous
from kernel_worker.rendezvous import Connection
from tests import leftovers
from tests.acceptance import journals
from tests.acceptance.places import IDLE_EXIT_SECONDS, Place
from tests.waiting import PATIENCE, wait_until

CHAOS_SECONDS = float(os.environ.get("NOTEBOOK_EXT_CHAOS_SECONDS", "300"))
PAUSE_SECONDS = 2.0
LOAD = Path(__file__).with_name("chaos_load.py")
KINDS = ("attached", "spawned", "retried", "nested", "leaf", "streamed", "once")
_AT_ONCE = 64
"""More inputs than all workers run, and have answered without a record, at any moment."""


class Killer:
    """Kills and stops processes of a place."""

    def __init__(self, place: Place, load: int, chance: random.Random) -> None:
        self._place, self._load, self._chance = place, load, chance
        self.kills: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()

    def strike(self) -> None:
        """Kill one process at random, or stop one for up to two seconds."""
        broker = self._place.broker()
        if broker is None:
            return  # another one is on its way
        roles: dict[str, list[int]] = {}
        for pid in sorted(self._place.processes()):
            if pid != self._load:
                roles.setdefault(_role(pid, broker), []).append(pid)
        role = self._chance.choice(sorted(roles))
        pid = self._chance.choice(roles[role])
        with contextlib.suppress(ProcessLookupError):
            if self._chance.random() < 0.75:
                os.kill(pid, signal.SIGKILL)
                self.kills[role] += 1
            else:
                os.kill(pid, signal.SIGSTOP)
                self.stops[role] += 1
                time.sleep(self._chance.random() * PAUSE_SECONDS)
                os.kill(pid, signal.SIGCONT)


def _role(pid: int, broker: Connection) -> str:
    if pid == broker.pid:
        return "broker"
    return "agent" if pid == rendezvous.living_agent(broker.path) else "template or worker"


@pytest.fixture
def load(own_place: Place, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(LOAD), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own_place.variables,
        cwd=tmp_path,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.chaos
@pytest.mark.timeout(CHAOS_SECONDS + 300)
def test_whatever_dies_nothing_is_lost(
    load: subprocess.Popen[str], own_place: Place, tmp_path: Path
) -> None:
    killer = Killer(own_place, load.pid, random.Random(random.randrange(2**32)))
    wait_until((tmp_path / "ran-spawned").exists, 30, "the load runs")
    until = time.monotonic() + CHAOS_SECONDS
    while time.monotonic() < until and load.poll() is None:
        time.sleep(killer._chance.random() * 2 * PAUSE_SECONDS)  # a moment, not a condition
        killer.strike()
    (tmp_path / "stop").touch()
    _, errors = load.communicate(timeout=180 * PATIENCE)
    said = (tmp_path / "tally").read_text()
    print(f"killed {dict(killer.kills)}, stopped {dict(killer.stops)}\n{said}")  # noqa: T201
    assert load.returncode == 0, errors
    told = json.loads(said)
    for kind, tally in told.items():
        assert tally["right"] + sum(tally["failures"].values()) == tally["given"], kind
        assert tally["right"], kind
    ran = {kind: _ran(tmp_path, kind) for kind in KINDS}
    for kind, executions in ran.items():
        print(f"{kind}: {len(executions)} inputs, {executions.total()} executions")  # noqa: T201
    assert set(ran["once"].values()) <= {1}, "at most once"
    for kind in ("attached", "spawned"):
        assert len(ran[kind]) == told[kind]["given"], f"each of {kind} ran"
        again = ran[kind].total() - len(ran[kind])
        assert again <= killer.kills.total() * _AT_ONCE, f"{again} of {kind} ran again"
    wait_until(lambda: not own_place.processes(), IDLE_EXIT_SECONDS + 20, "no process is left")
    assert not leftovers.files(own_place.runtime_dir)
    journals.check(tmp_path / "p")


def _ran(directory: Path, kind: str) -> Counter[int]:
    path = directory / f"ran-{kind}"
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()
