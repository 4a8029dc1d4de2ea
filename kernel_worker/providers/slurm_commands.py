"""What Slurm's own commands say: machines, their addresses, and the jobs of this user.

Nothing of Parsl is here, so that a notebook may ask at which address a cluster's machines see it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

import msgspec

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.model import Device, HostResources

LIMIT_SECONDS: Final = 20
"""For an answer: a busy controller takes its time. The broker waits 150 s for an agent."""
_SILENT: Final = ("controller", "configuration source", "timed out")
_GPUS: Final = re.compile(r"gpu(?::(?P<kind>[^:,(]+))?:(?P<count>[0-9]+)")
_INDICES: Final = re.compile(r"gpu[^ ]*?\(IDX:([0-9,-]+)\)")
_JOB: Final = "%i|%j|%T|%N|%r|%k"


class Job(msgspec.Struct, frozen=True):
    """A job of this user, as `squeue` shows it."""

    number: str
    name: str
    state: str
    """Such as `RUNNING`."""
    node: str
    """Empty before it has one."""
    reason: str
    """Why it waits, or has ended."""
    comment: str


def run(*words: str) -> str:
    """Run a command of Slurm; return what it says.

    Raises:
        ConnectionError: it is not here, or the controller does not answer, or refuses.
    """
    if shutil.which(words[0]) is None:
        raise ConnectionError(
            f"there is no {words[0]} here: on a machine where Slurm's commands work, such as the "
            "login node, run notebook-ext provider start slurm://PARTITION --connect FILE "
            "--hosts FILE"
        )
    try:
        done = subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _silent(f"{words[0]} was not done after {LIMIT_SECONDS:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:400]
        if any(word in said for word in _SILENT):
            raise _silent(said)
        raise ConnectionError(f"{words[0]} ended with {done.returncode}: {said}")
    return done.stdout


def _silent(why: str) -> ConnectionError:
    return ConnectionError(
        f"no Slurm controller answers at what slurm.conf (or SLURM_CONF) names: {why}; see whether "
        "`sinfo` works here"
    )


def machines(partition: str) -> tuple[HostResources, ...]:
    """Return what the machines of a partition have, each kind once; empty: of the default one."""
    found = run("sinfo", "--noheader", "--exact", *_of(partition), "--format=%P|%c|%m|%G")
    return tuple(dict.fromkeys(shapes(found, only_default=not partition)))


def shapes(said: str, *, only_default: bool) -> list[HostResources]:
    """Return what `sinfo` says of machines, by its format `%P|%c|%m|%G`.

    Args:
        said: its lines.
        only_default: leave out those of partitions that a job comes into only if it says so.
    """
    found = []
    for line in said.splitlines():
        partition, cpus, memory_mib, gres = line.strip().split("|")
        if only_default and not partition.endswith("*"):
            continue
        kinds = [
            kind or ""
            for kind, count in _GPUS.findall(gres if gres.startswith("gpu") else f",{gres}")
            for _ in range(int(count))
        ]
        devices = tuple(Device(index, kind) for index, kind in enumerate(kinds))
        found.append(HostResources(float(cpus), int(memory_mib), devices))
    return found


def address(partition: str) -> str:
    """Return the address of one of a partition's machines."""
    return run("sinfo", "--noheader", *_of(partition), "--format=%o").partition("\n")[0].strip()


def jobs(prefix: str) -> list[Job]:
    """Return this user's jobs whose names begin with `prefix`, and those that ended just now."""
    said = run("squeue", "--me", "--noheader", "--states=all", f"--format={_JOB}")
    return read_jobs(said, prefix)


def read_jobs(said: str, prefix: str) -> list[Job]:
    """Return the jobs that `squeue` has listed, of those whose names begin with `prefix`."""
    rows = [line.split("|", 5) for line in said.splitlines() if line.count("|") >= _JOB.count("|")]
    return [Job(*row) for row in rows if row[1].startswith(prefix)]


def devices(number: str) -> tuple[str, ...]:
    """Return the devices of a job that runs, by their indices on its machine."""
    return read_devices(run("scontrol", "show", "job", "--details", "--oneliner", number))


def read_devices(said: str) -> tuple[str, ...]:
    """Return the devices that `scontrol show job --details` names."""
    found = _INDICES.search(said)
    indices: list[str] = []
    for part in found[1].split(",") if found else ():
        first, _, last = part.partition("-")
        indices += map(str, range(int(first), int(last or first) + 1))
    return tuple(indices)


def signal(number: str, name: str) -> None:
    """Send a signal to a job's first process alone; one that has ended meanwhile is none."""
    run("scancel", "--quiet", "--batch", f"--signal={name}", number)


def _of(partition: str) -> list[str]:
    return [f"--partition={partition}"] if partition else []
