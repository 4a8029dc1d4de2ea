"""`python -m kernel_worker.providers.job`: the process of a batch job that has a host as its child.

It is told by its command line what the host may use, and by its input the connection file. SIGTERM,
which is what the batch system sends before it takes the machine back, lets what runs end; a second
one, or SIGINT, does not wait. How the host ended is written into the job's comment, where the agent
finds it: a job has no other way to say something that needs no common file system.

Slurm gives no device to two jobs. Where it shows each job its own alone, both call theirs 0, which
the machine's locks (`host/devices`) would take for one: so each job has a directory of locks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec

from kernel_worker.errors import InvalidError
from kernel_worker.providers.node import HostProcess
from kernel_worker.providers.provider import HostSpec

GRACE_SECONDS: Final = 25.0
"""Batch systems kill 30 s after SIGTERM, unless they are set up otherwise."""
_LOOK_SECONDS: Final = 0.2
_SAYING_SECONDS: Final = 10.0
_MOST_SAID: Final = 400
_SAID: Final = "said"
_HEARD: Final = {signal.SIGTERM, signal.SIGINT}


def comment(spec: HostSpec, said: str = "") -> str:
    """Return the comment of a host's job: what it is, and what became of it."""
    fields = {**msgspec.to_builtins(spec), **({_SAID: said[:_MOST_SAID]} if said else {})}
    return urlencode(fields)


def read_comment(text: str) -> tuple[HostSpec, str]:
    """Return what a job's comment says: the host, and what became of it.

    Raises:
        ValueError: it is none of ours.
    """
    fields = dict(parse_qsl(text.strip()))
    said = fields.pop(_SAID, "")
    return msgspec.convert(fields, HostSpec, strict=False), said


def devices(spec: HostSpec, variables: dict[str, str]) -> tuple[str, ...]:
    """Return the indices of a host's devices, as this job sees them.

    Raises:
        InvalidError: they are no whole devices.
    """
    if not spec.gpus:
        return ()
    seen = variables.get("CUDA_VISIBLE_DEVICES") or variables.get("SLURM_JOB_GPUS", "")
    found = tuple(filter(None, seen.split(",")))
    if len(found) != spec.gpus or not all(word.isdigit() for word in found):
        raise InvalidError(
            f"the job was given the devices {seen!r}, where {spec.gpus} whole one(s) were asked "
            "for; see whether gres.conf names their files, and whether they are cut into parts"
        )
    return found


def main(arguments: list[str]) -> int:
    """Be the job; return the exit status."""
    spec, _ = read_comment(arguments[0])
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    with tempfile.TemporaryDirectory(prefix="notebook-ext-locks-") as locks:
        os.environ["NOTEBOOK_EXT_DEVICE_LOCKS"] = locks
        try:
            how = _run(HostProcess(spec, sys.stdin.buffer.read(), devices(spec, dict(os.environ))))
        except (InvalidError, OSError) as error:
            how = f"exit code 1: {error}"
    say(spec, how)
    return 0 if how.startswith("exit code 0") else 1


def _run(process: HostProcess) -> str:
    """Wait for a host's end, and have it end when that is asked for; return how it ended."""
    is_leaving = False
    while process.is_alive():
        heard = signal.sigtimedwait(_HEARD, _LOOK_SECONDS)
        if heard is not None:
            waits = heard.si_signo == signal.SIGTERM and not is_leaving
            is_leaving = True
            grace_seconds = GRACE_SECONDS if waits else 0.0
            threading.Thread(target=process.stop, args=[grace_seconds]).start()
    return process.wait()


def say(spec: HostSpec, how: str) -> None:
    """Write into the job's comment what became of its host, if the batch system lets it."""
    words = ["scontrol", "update", f"JobId={os.environ.get('SLURM_JOB_ID')}"]
    words.append(f"Comment={comment(spec, how)}")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_SAYING_SECONDS,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
