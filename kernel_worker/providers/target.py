"""What `ray://…`, `dask://…` and the like mean: the engine, where it is, and the options.

    ray://auto?max_hosts=4          the Ray of this machine
    ray://head.example:10001        by its client server
    dask://scheduler.example:8786   a scheduler
    slurm://gpu?account=physics     a partition of the Slurm cluster whose commands are here
    local://?cpus=2&gpus=H200:2     processes of this machine

Options of any target, in the address or by name: `max_hosts`, `min_hosts`, `idle` (seconds until a
host that nothing uses is given back), `cpus`, `gpus` and `memory` (MiB) of a host at most. Those of
a batch system alone: `account`, `walltime`, `scheduler_options`, `worker_init`, `python`.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES: Final = ("local", "ray", "dask", "slurm")
_EXAMPLES: Final = "ray://auto, ray://HOST:10001, dask://HOST:8786, slurm://PARTITION and local://"
_GPUS: Final = re.compile(r"(?:(?P<kind>[A-Za-z0-9][A-Za-z0-9-]*):)?(?P<count>[0-9]{1,3})")
_WALLTIME: Final = re.compile(
    r"(?P<whole>[0-9]{1,6})"
    r"|((?P<days>[0-9]{1,3})-)?(?P<hours>[0-9]{1,4}):(?P<minutes>[0-5][0-9]):[0-5][0-9]"
)
_PLACE: Final = re.compile(r"(auto|[A-Za-z0-9_.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5})?")


class Target(msgspec.Struct, frozen=True):
    """An engine, and how many hosts of which size may be had of it."""

    engine: str
    address: str
    """`HOST:PORT`, `auto`, a partition, or empty."""
    max_hosts: int = 8
    min_hosts: int = 0
    idle_seconds: float = 60.0
    cpus: int = 0
    """Of a host at most; 0: as many as a machine has."""
    gpus: int = -1
    """Of a host at most; -1: as many as a machine has."""
    gpu_kind: str = ""
    memory_mib: int = 0
    """That the engine is to reserve for a host; 0: it is not asked to."""
    account: str = ""
    """Who pays; empty: as the batch system does by itself."""
    walltime_minutes: int = 240
    """How long a host may last."""
    scheduler_options: str = ""
    """More options of `sbatch`, as they are on its command line or in a script of it."""
    worker_init: str = ""
    """Lines of the shell that run on the machine before the host is started."""
    python: str = ""
    """The interpreter there; empty: the path of the agent's."""

    @property
    def name(self) -> str:
        """What it is called in file names: the same for the same engine."""
        return re.sub(r"[^A-Za-z0-9.-]", "-", f"{self.engine}-{self.address}".rstrip("-"))


def parse(text: str, options: Mapping[str, object] = {}) -> Target:
    """Return what an address means; `options` are stronger than those in it.

    Raises:
        InvalidError: it is none, or an option is unknown or has a value that is not allowed.
    """
    engine, mark, rest = text.partition("://")
    if not mark or engine not in ENGINES:
        raise InvalidError(f"{text!r} is no cluster; allowed are {_EXAMPLES}")
    address, _, query = rest.partition("?")
    address = address.rstrip("/")
    if not _PLACE.fullmatch(address) or (engine == "dask" and ":" not in address):
        raise InvalidError(f"{text!r}: {address!r} is no HOST:PORT; allowed are {_EXAMPLES}")
    said: dict[str, object] = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    said |= {name: value for name, value in options.items() if value is not None}
    return _with_options(Target(engine, address), said, text)


def _with_options(target: Target, said: Mapping[str, object], text: str) -> Target:
    values: dict[str, object] = {}
    for name, value in said.items():
        match name:
            case "max_hosts" | "cpus":
                values[name] = _whole(text, name, value, 1)
            case "min_hosts":
                values[name] = _whole(text, name, value, 0)
            case "memory":
                values["memory_mib"] = _whole(text, name, value, 1)
            case "idle":
                values["idle_seconds"] = float(_whole(text, name, value, 0))
            case "gpus":
                found = _GPUS.fullmatch(str(value))
                if not found:
                    raise _bad(text, name, value, "a number such as 2, or H200:2")
                values |= {"gpus": int(found["count"]), "gpu_kind": found["kind"] or ""}
            case "walltime" if target.engine in _BATCH:
                values["walltime_minutes"] = _minutes(text, value)
            case "account" if target.engine in _BATCH:
                if not re.fullmatch(r"[A-Za-z0-9_.@+-]+", str(value)):
                    raise _bad(text, name, value, "the name of an account")
                values[name] = str(value)
            case "scheduler_options" | "worker_init" | "python" if target.engine in _BATCH:
                values[name] = str(value)
            case _:
                raise InvalidError(
                    f"{text}: there is no option {name!r}; allowed are {_OPTIONS}"
                    + (f", {_BATCH_OPTIONS}" if target.engine in _BATCH else "")
                )
    made = msgspec.structs.replace(target, **values)
    if made.min_hosts > made.max_hosts:
        raise _bad(text, "min_hosts", made.min_hosts, f"at most max_hosts, {made.max_hosts}")
    return made


_OPTIONS: Final = "max_hosts, min_hosts, idle, cpus, gpus, memory"
_BATCH: Final = ("slurm",)
_BATCH_OPTIONS: Final = "account, walltime, scheduler_options, worker_init, python"


def _minutes(text: str, value: object) -> int:
    found = _WALLTIME.fullmatch(str(value))
    minutes = 0
    if found and found["whole"]:
        minutes = int(found["whole"])
    elif found:
        hours = 24 * int(found["days"] or 0) + int(found["hours"])
        minutes = 60 * hours + int(found["minutes"])
    if minutes < _LEAST_MINUTES:
        allowed = f"from {_LEAST_MINUTES} minutes on: 90, 01:30:00 or 1-12:00:00"
        raise _bad(text, "walltime", value, allowed)
    return minutes


_LEAST_MINUTES: Final = 5
"""A host is asked to leave one or two before that."""


def _whole(text: str, name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)):
        raise _bad(text, name, value, f"a whole number from {least} on")
    if int(str(value)) < least:
        raise _bad(text, name, value, f"a whole number from {least} on")
    return int(str(value))


def _bad(text: str, name: str, value: object, allowed: str) -> InvalidError:
    return InvalidError(f"{text}: {name}={value!r}; allowed is {allowed}")
