"""Hosts on the machines of a Slurm cluster: each is the child of a batch job (`job`).

Slurm accounts for CPUs, GPUs and memory and places the job when they are free. The host's name
begins the job's name, and what the host is to have is its comment: so asking twice gives one, and a
later agent finds it, whenever the former one was killed. Parsl's provider writes the script,
submits and cancels, and tells what became of a job that Slurm lists no more.

Nothing lies in a common file system. The connection file goes into the job's script, which the
submitter and Slurm's administrators alone can read; here it is removed as soon as it is submitted.

A host is asked to leave by SIGTERM, a minute before its time is over too; it is told not to wait by
SIGINT, and what is left after that is cancelled, which Slurm enforces. A cluster is looked at every
`LOOK_SECONDS`: its controller has others to serve.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider as ParslSlurm
from parsl.providers.errors import SubmitException

from kernel_worker.errors import ConnectionError, NotFoundError  # noqa: A004  ours
from kernel_worker.providers import slurm_commands
from kernel_worker.providers.job import comment, read_comment
from kernel_worker.providers.provider import Cause, HostSpec, Phase, Sight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kernel_worker.model import HostResources
    from kernel_worker.providers.slurm_commands import Job
    from kernel_worker.providers.target import Target

LOOK_SECONDS: Final = 2.0
END_SECONDS: Final = 15.0
"""How long a host may take to kill what it runs, before its job is cancelled."""
_PENDING: Final = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
)
_RUNNING: Final = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
_LOST: Final = frozenset({"NODE_FAIL", "BOOT_FAIL"})
_TRANSIENT: Final = ("contact slurm", "timed out", "temporarily", "connection", "try again")
_SCRIPT: Final = """\
said=$({python} -P -c 'import kernel_worker.providers.job' 2>&1) || {{
    said=$(printf %s "$said" | tail -n 1 | tr -c 'A-Za-z0-9._/:-' +)
    scontrol update "JobId=$SLURM_JOB_ID" "Comment={comment}&said=$said"
    exit 1
}}
exec {python} -P -m kernel_worker.providers.job '{comment}' <<'END_OF_THE_CONNECTION_FILE'
{invitation}
END_OF_THE_CONNECTION_FILE
"""
"""What a job runs. A machine without notebook-ext says so; else nobody would ever see it."""
_CLEAN: Final = """\
unset ${!NOTEBOOK_EXT_@}  # they are of the machine that submits
[ -d "${XDG_RUNTIME_DIR:-/}" ] || unset XDG_RUNTIME_DIR
"""


class _Known:
    """A host that is a job."""

    def __init__(self, number: str, spec: HostSpec) -> None:
        self.number = number
        self.spec = spec
        self.sight = Sight(spec, Phase.PENDING, detail="Slurm has not looked at it yet")


class SlurmProvider:
    """One partition of a Slurm cluster."""

    def __init__(self, target: Target, _directory: Path, prefix: str, invitation: bytes) -> None:
        """Find the hosts that are there already.

        Raises:
            ConnectionError: Slurm's commands are not here, or its controller does not answer.
            NotFoundError: there is no such partition.
        """
        self._target = target
        self._prefix = prefix
        self._invitation = invitation.decode()
        self._known: dict[str, _Known] = {}
        self._refused: dict[str, Sight] = {}
        self._kills: dict[str, list[tuple[float, str]]] = {}
        """What is done next to hosts that were asked to end, each with the time."""
        self._looked_at = -LOOK_SECONDS
        self._is_unsure = False
        """Slurm was asked to take a job, and may have done so without an answer."""
        self._shapes: tuple[HostResources, ...] = ()
        there = slurm_commands.jobs(prefix)
        if not self.shapes():
            raise NotFoundError(
                f"the Slurm cluster has no partition {target.address!r} with a machine; see there "
                "by `sinfo --summarize` which there are"
            )
        logging.getLogger("parsl").setLevel(logging.CRITICAL)  # what it logs, it raises too
        with _answering():
            self._jobs: Any = ParslSlurm(
                partition=target.address or None,
                account=target.account or None,
                walltime=f"{target.walltime_minutes // 60}:{target.walltime_minutes % 60:02}:00",
                scheduler_options="\n".join([*_OPTIONS, *_directives(target.scheduler_options)]),
                worker_init=f"{_CLEAN}{target.worker_init}",
                cmd_timeout=slurm_commands.LIMIT_SECONDS,
                exclusive=False,
                launcher=SimpleLauncher(),
            )
        self._options = self._jobs.scheduler_options
        self._adopt(there)

    def shapes(self) -> tuple[HostResources, ...]:
        """Return what the partition's machines have."""
        self._shapes = slurm_commands.machines(self._target.address)
        return self._shapes

    def request(self, spec: HostSpec) -> None:
        """Submit a job, unless there is one."""
        if spec.name in self._known or spec.name in self._refused:
            return
        if not any(_fits(spec, shape) for shape in self._shapes):
            why = f"no machine has {spec.cpus} CPUs and {spec.gpus} GPUs"
            self._refused[spec.name] = Sight(spec, Phase.GONE, Cause.UNSCHEDULABLE, why)
            return
        was_unsure, self._is_unsure = self._is_unsure, True
        try:
            with _answering():
                number = self._submit(spec)
        except SubmitException as error:
            said = " ".join((error.stderr or str(error)).split())
            if any(word in said.lower() for word in _TRANSIENT):
                raise ConnectionError(
                    f"Slurm has not said that it took a job: {said[:300]}"
                ) from error
            self._refused[spec.name] = Sight(spec, Phase.GONE, Cause.FAILED, said[:300])
        else:
            self._known[spec.name] = _Known(number, spec)
            self._looked_at = -LOOK_SECONDS
        self._is_unsure = was_unsure

    def look(self) -> Mapping[str, Sight]:
        """Return how each host stands."""
        now = time.monotonic()
        is_due = any(when <= now for steps in self._kills.values() for when, _ in steps)
        is_due = is_due or now - self._looked_at >= LOOK_SECONDS
        if (self._known or self._is_unsure) and is_due:
            there = slurm_commands.jobs(self._prefix)
            self._adopt(there)
            jobs = {job.number: job for job in there}
            for known in self._known.values():
                if known.sight.phase is not Phase.GONE:
                    self._note(known, jobs.get(known.number))
            self._looked_at = now
            self._kill_overdue(now)
        return {**self._refused, **{name: known.sight for name, known in self._known.items()}}

    def release(self, name: str, grace_seconds: float) -> None:
        """End a host, or forget one that has ended."""
        self._refused.pop(name, None)
        known = self._known.get(name)
        if known is None:
            return
        if known.sight.phase is Phase.GONE:
            self._jobs.resources.pop(known.number, None)
            self._kills.pop(name, None)
            del self._known[name]
            return
        now = time.monotonic()
        ends = now + max(0.0, grace_seconds)
        steps = [(ends, "INT"), (ends + END_SECONDS, "")]
        if known.sight.phase is Phase.PENDING:
            steps = [(now, "")]
        elif grace_seconds > 0:
            steps = [(now, "TERM"), *steps]
        self._kills[name] = steps
        self._kill_overdue(now)
        self._looked_at = -LOOK_SECONDS

    def close(self) -> None:
        """Let go of the cluster; jobs stay."""

    # ---- one host ---------------------------------------------------------------------------

    def _adopt(self, jobs: list[Job]) -> None:
        """Take over what a former agent has submitted, or this one without hearing the answer."""
        known = {each.number for each in self._known.values()}
        for job in jobs:
            if job.number in known or job.state not in _PENDING | _RUNNING:
                continue
            with contextlib.suppress(ValueError):  # a comment that somebody has changed
                spec, _ = read_comment(job.comment)
                self._known[spec.name] = _Known(job.number, spec)
                self._jobs.resources[job.number] = {
                    "job_id": job.number,
                    "status": JobStatus(JobState.PENDING),
                    "job_stdout_path": None,
                    "job_stderr_path": None,
                }

    def _submit(self, spec: HostSpec) -> str:
        words = _SCRIPT.format(
            python=self._target.python or shlex.quote(sys.executable),
            comment=comment(spec),
            invitation=self._invitation,
        )
        options = [f"#SBATCH --comment={comment(spec)}"]
        if spec.memory_mib:
            options.append(f"#SBATCH --mem={spec.memory_mib}M")
        if spec.gpus:
            options.append(f"#SBATCH --gres=gpu:{_kind(spec, self._shapes)}{spec.gpus}")
        self._jobs.cores_per_node = spec.cpus
        self._jobs.scheduler_options = "\n".join([*options, self._options, ""])
        with tempfile.TemporaryDirectory(prefix="notebook-ext-job-") as directory:
            self._jobs.script_dir = directory
            number: str = self._jobs.submit(words, 1, spec.name)
        return number

    def _note(self, known: _Known, job: Job | None) -> None:
        spec, sight = known.spec, known.sight
        if job is None:
            with _answering():
                (status,) = self._jobs.status([known.number])
            how = f"Slurm lists its job no more; the last that is known is {status.state.name}"
            known.sight = Sight(spec, Phase.GONE, Cause.ENDED, how, sight.node, sight.devices)
        elif job.state in _PENDING:
            why = "Slurm has not looked at it yet" if job.reason == "None" else job.reason
            known.sight = Sight(spec, Phase.PENDING, detail=f"Slurm: {why}")
        elif job.state in _RUNNING:
            if sight.phase is Phase.PENDING:
                devices = slurm_commands.devices(job.number) if spec.gpus else ()
                known.sight = Sight(spec, Phase.RUNNING, node=job.node, devices=devices)
        else:
            node = job.node or sight.node
            why = _said(job) or f"Slurm says {job.state}, {job.reason}"
            cause = Cause.LOST if job.state in _LOST else Cause.ENDED if node else Cause.FAILED
            known.sight = Sight(spec, Phase.GONE, cause, why, node, sight.devices)

    def _kill_overdue(self, now: float) -> None:
        for name, steps in list(self._kills.items()):
            known = self._known.get(name)
            if known is None or known.sight.phase is Phase.GONE:
                del self._kills[name]
                continue
            while steps[0][0] <= now:
                _, signal = steps.pop(0)
                if signal:
                    with contextlib.suppress(ConnectionError):  # it has ended, or: see below
                        slurm_commands.signal(known.number, signal)
                else:
                    steps.append((now + END_SECONDS, ""))  # until it is gone
                    with _answering():
                        self._jobs.cancel([known.number])


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Translate what Parsl raises where a command is not done in time."""
    try:
        yield
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConnectionError(f"Slurm has not answered: {error}") from error


_OPTIONS: Final = (
    "#SBATCH --output=/dev/null --error=/dev/null",  # where Parsl has them is not there
    "#SBATCH --no-requeue --signal=B:TERM@60",
)


def _said(job: Job) -> str:
    """Return what a job has said at its end; a cluster may allow no comments, or change them."""
    with contextlib.suppress(ValueError):
        return read_comment(job.comment)[1]
    return ""


def _directives(options: str) -> list[str]:
    """Return options of `sbatch` as lines of a script."""
    lines = [line.strip() for line in options.splitlines() if line.strip()]
    return [line if line.startswith("#SBATCH") else f"#SBATCH {line}" for line in lines]


def _kind(spec: HostSpec, shapes: tuple[HostResources, ...]) -> str:
    """Return Slurm's word for a kind of device, with a colon; empty where it has none."""
    there = dict.fromkeys(device.kind for shape in shapes for device in shape.devices)
    wanted = spec.gpu_kind.lower()
    return next((f"{kind}:" for kind in there if wanted and wanted in kind.lower()), "")


def _fits(spec: HostSpec, shape: HostResources) -> bool:
    return (
        spec.cpus <= shape.cpu
        and spec.gpus <= len(shape.devices)
        and spec.memory_mib <= shape.memory_mib
    )
