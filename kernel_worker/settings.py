"""One place for configuration: what can be set, where it comes from and what is allowed.

A value is looked for in this order, the first one wins: what the program set (`nb.config`),
environment variables `NOTEBOOK_EXT_<NAME>`, the table `[tool.notebook_ext]` of the nearest
`pyproject.toml` above the working directory, the default. Settings that are times may be written
with or without `_seconds` everywhere (`result_ttl` and `result_ttl_seconds` are one).

A broker, host agent or worker gets the settings of the client that started it through its
environment (`as_environment`), and reads no file.

Guaranteed: a `Settings` holds only allowed values; a bad one is an `InvalidError` that names the
setting, the value, where it stands and what is allowed. Not guaranteed: that directories exist or
can be written (`rendezvous` and the journal say so when they use them).
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "NOTEBOOK_EXT_"
TABLE = "notebook_ext"

_PROFILE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,31}")
DEVICE = re.compile(r"(\d+)(?::([A-Za-z0-9][A-Za-z0-9-]*))?")
"""How a device is named: its index, and what it is where nobody is to look (see `gpus`)."""
_ADDRESS = re.compile(r"tcp://(\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORT = 9465
_MOST_PORTS = 65_535
SHARED = (Path("/run/lock"), Path("/dev/shm"))  # noqa: S108  see `host.devices`
"""Directories in which every user of a machine may have files, the better one first."""
_CHOICES = {"progress": ("auto", "widget", "text", "off"), "log_format": ("text", "json")}
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be configured; made by `load`."""

    runtime_dir: Path
    """Where sockets, locks and connection files lie (created with mode 0700)."""
    data_dir: Path
    """Where the journal lies."""
    profile: str = "default"
    """Profiles have brokers of their own."""
    idle_exit_seconds: float = 600.0
    """A broker with no client and nothing to do exits after this long."""
    connect_timeout_seconds: float = 30.0
    """How long a client tries to find, start or reach a broker."""
    max_workers: int | None = None
    """How many workers may run user code at once on this host; None: as many as it has cores."""
    gpus: tuple[int | str, ...] | None = None
    """The devices that may be used; () for none, None for all that are found.

    By index; one that is believed to be there, and not looked for, as text: `"0:H200"`.
    """
    device_locks: Path = SHARED[0]
    """Where all brokers of this machine see which devices others use: a directory of its users."""
    client_grace_seconds: float = 600.0
    """How long a silent client's attached calls are kept."""
    broker_grace_seconds: float = 30.0
    """How long workers live on without a broker, until another one is there; 0: not at all."""
    host_lease_seconds: float = 10.0
    """How long a host on another machine may be silent before its inputs are given to others."""
    host_fence_seconds: float = 60.0
    """After how long without its broker such a host kills what it runs."""
    result_ttl_seconds: float = 7 * 24 * 3600.0
    """How long results of spawned calls are kept after they have ended."""
    check_packages: bool = True
    """Whether a host compares what is installed there with what functions were captured with."""
    image_ttl_seconds: float = 30 * 24 * 3600.0
    """Images that nobody has used for so long are removed, when a host agent starts."""
    progress: str = "auto"
    """How a map shows its progress: auto, widget, text or off."""
    log_prefix: bool = False
    """Whether each line of output carries the function and input that wrote it."""
    log_format: str = "text"
    """How the broker and its host agent write their log: text, or json (an object in each line)."""
    keep_failed_seconds: float = 0.0
    """How long a worker keeps the frames of an input that failed, for `%remote_debug`; 0: not."""
    max_request_mib: int = 512
    """How much the arguments of one input may be together, pickled; what was put does not count,
    nor what lies in shared memory."""
    store_mib: int = 4096
    """How much of a client's large values may lie in shared memory at once; more go to a disk."""
    listen: str | None = None
    """Where a broker lets clients of other machines in, by their keys: `tcp://ADDRESS:PORT`."""
    web_address: str = "127.0.0.1"
    """Where web endpoints listen; off the loopback address, requests need the token."""
    web_port: int = 0
    """The first port that web endpoints may have; 0: one by the endpoint's label."""
    connection_file: Path | None = None
    """Made by `notebook-ext broker invite`: calls go to that broker; None, or `local`: here."""
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """For each setting where its value came from."""


NAMES = tuple(each.name for each in dataclasses.fields(Settings) if each.name != "origins")


def load(
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    start: Path | str | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        overrides: What the program set, by name; None values count as not set.
        environ: Environment variables; those of this process by default.
        start: Where the search for `pyproject.toml` begins; the working directory by default.

    Raises:
        InvalidError: A value is not allowed, or a name of `overrides` or of the table is unknown.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = dict(_defaults(environ))
    origins = dict.fromkeys(NAMES, "default")
    for name, value, origin in [
        *_from_pyproject(start),
        *_from_environment(environ),
        *_from_overrides(overrides or {}),
    ]:
        values[name] = _CHECKS[name](name, value, origin)
        origins[name] = origin
    return Settings(**values, origins=origins)  # type: ignore[arg-type]  # checked one by one


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables from which `load` makes the same settings again."""
    variables: dict[str, str] = {}
    for name in NAMES:
        value = getattr(settings, name)
        if name == "gpus" and value is not None:
            value = ",".join(map(str, value)) or "none"
        if value is not None:
            variables[PREFIX + name.upper()] = str(value)
    return variables


def _defaults(environ: Mapping[str, str]) -> dict[str, Path]:
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    state = environ.get("XDG_STATE_HOME", "")
    home = Path(environ["HOME"]) if environ.get("HOME") else Path("~").expanduser()
    return {
        "runtime_dir": (
            Path(runtime) / "notebook-ext"
            if Path(runtime).is_dir() and runtime
            else Path(f"/tmp/notebook-ext-{os.getuid()}")  # noqa: S108  0700, checked at use
        ),
        "data_dir": (Path(state) if state else home / ".local" / "state") / "notebook-ext",
        "device_locks": next(filter(_is_for_all, SHARED), SHARED[-1]),
    }


def _is_for_all(directory: Path) -> bool:
    """Whether everybody may make files there; the same for everybody who asks."""
    try:
        mode = directory.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH and mode & stat.S_ISVTX)


# ---- the three sources ----------------------------------------------------------------------


def _from_overrides(overrides: Mapping[str, object]) -> list[tuple[str, object, str]]:
    return [
        (_known(name, "nb.config"), value, "nb.config")
        for name, value in overrides.items()
        if value is not None
    ]


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for name in NAMES:
        for spelling in (name.removesuffix("_seconds"), name):
            variable = PREFIX + spelling.upper()
            if environ.get(variable, "") != "":
                found.append((name, environ[variable], variable))
    return found


def _from_pyproject(start: Path | str | None) -> list[tuple[str, object, str]]:
    path = _nearest_pyproject(start)
    if path is None:
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    if TABLE not in text:
        return []
    import tomllib  # noqa: PLC0415  5 ms that most starts do not need

    try:
        table = tomllib.loads(text).get("tool", {}).get(TABLE, {})
    except tomllib.TOMLDecodeError as error:
        message = f"{path} cannot be read: {error}"
        raise InvalidError(message) from error
    return [(_known(name, str(path)), value, str(path)) for name, value in table.items()]


def _nearest_pyproject(start: Path | str | None) -> Path | None:
    try:
        directory = Path(start).absolute() if start is not None else Path.cwd()
        for each in (directory, *directory.parents):
            if (each / "pyproject.toml").is_file():
                return each / "pyproject.toml"
    except OSError:
        return None  # a working directory that is gone or closed to us has no settings
    return None


def _known(name: str, origin: str) -> str:
    for candidate in (name, f"{name}_seconds"):
        if candidate in NAMES:
            return candidate
    import difflib  # noqa: PLC0415  only for those who mistype

    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    message = f"{origin} sets {name!r}, which is no setting{hint} (there are: {', '.join(NAMES)})"
    raise InvalidError(message)


# ---- what is allowed ------------------------------------------------------------------------


def _invalid(name: str, value: object, origin: str, allowed: str) -> InvalidError:
    return InvalidError(f"setting {name} is {value!r} (from {origin}); allowed: {allowed}")


def _profile(name: str, value: object, origin: str) -> str:
    if not isinstance(value, str) or not _PROFILE.fullmatch(value):
        allowed = "1 to 32 letters, digits, '_', '.' and '-', not beginning with '-'"
        raise _invalid(name, value, origin, allowed)
    return value


def _directory(name: str, value: object, origin: str) -> Path:
    path = Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None
    if path is None or not path.is_absolute():
        raise _invalid(name, value, origin, "an absolute path ('~' is the home directory)")
    return path


def _address(name: str, value: object, origin: str) -> str:
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    port = int(found[2] or DEFAULT_PORT) if found is not None else 0
    if found is None or port > _MOST_PORTS:
        allowed = (
            "tcp://ADDRESS or tcp://ADDRESS:PORT, an address of this machine, or * for all of them "
            "(IPv6 in brackets)"
        )
        raise _invalid(name, value, origin, allowed)
    return f"tcp://{found[1]}:{port}"


def _web_address(name: str, value: object, origin: str) -> str:
    if origin.endswith("pyproject.toml"):
        allowed = "not there: whose project it is would choose who reaches you; set it yourself"
        raise _invalid(name, value, origin, allowed)
    import ipaddress  # noqa: PLC0415  only where it is set

    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        allowed = "an address of this machine, such as 127.0.0.1 or 0.0.0.0 (all of them)"
        raise _invalid(name, value, origin, allowed) from None


def _web_port(name: str, value: object, origin: str) -> int:
    port = int(str(value)) if str(value).isdigit() else -1
    if isinstance(value, bool) or not 0 <= port <= _MOST_PORTS:
        raise _invalid(name, value, origin, f"a port, 0 (any) to {_MOST_PORTS}")
    return port


def _file(name: str, value: object, origin: str) -> Path | None:
    if origin.endswith("pyproject.toml"):
        allowed = "not there: whose project it is would choose where your calls go; set it yourself"
        raise _invalid(name, value, origin, allowed)
    if value == "local":
        return None
    path = Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None
    if path is None or not path.is_absolute():
        allowed = "an absolute path ('~' is the home directory), or local"
        raise _invalid(name, value, origin, allowed)
    return path


def _seconds(name: str, value: object, origin: str) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        seconds = -1.0
    if isinstance(value, bool) or not 0 <= seconds < 1e10:  # noqa: PLR2004  centuries, no infinity
        raise _invalid(name, value, origin, "a number of seconds, 0 or more")
    return seconds


def _some_seconds(name: str, value: object, origin: str) -> float:
    seconds = _seconds(name, value, origin)
    if seconds < 1:
        raise _invalid(name, value, origin, "a number of seconds, 1 or more")
    return seconds


def _count(name: str, value: object, origin: str) -> int:
    try:
        count = int(value) if isinstance(value, int | str) and value is not True else 0
    except ValueError:
        count = 0
    if count < 1:
        raise _invalid(name, value, origin, "a whole number, 1 or more")
    return count


def _devices(name: str, value: object, origin: str) -> tuple[int | str, ...]:
    listed: object = value
    if isinstance(value, str):
        listed = [] if value.strip().lower() == "none" else value.split(",")
    found: dict[int, int | str] = {}
    for each in listed if isinstance(listed, Iterable) else [""]:
        named = DEVICE.fullmatch(str(each).strip())
        if named is None:
            allowed = "device indices such as '0,1' or [0, 1], declared ones as '0:H200', or 'none'"
            raise _invalid(name, value, origin, allowed)
        found[int(named[1])] = int(named[1]) if named[2] is None else named[0]
    return tuple(found[index] for index in sorted(found))


def _choice(name: str, value: object, origin: str) -> str:
    if value not in _CHOICES[name]:
        raise _invalid(name, value, origin, ", ".join(_CHOICES[name]))
    return str(value)


def _flag(name: str, value: object, origin: str) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise _invalid(name, value, origin, "true or false")
    return word in _TRUE


_CHECKS: dict[str, Callable[[str, object, str], object]] = {
    "runtime_dir": _directory,
    "data_dir": _directory,
    "profile": _profile,
    "idle_exit_seconds": _seconds,
    "connect_timeout_seconds": _seconds,
    "max_workers": _count,
    "gpus": _devices,
    "device_locks": _directory,
    "client_grace_seconds": _seconds,
    "broker_grace_seconds": _seconds,
    "host_lease_seconds": _some_seconds,
    "host_fence_seconds": _some_seconds,
    "result_ttl_seconds": _seconds,
    "check_packages": _flag,
    "image_ttl_seconds": _seconds,
    "progress": _choice,
    "log_prefix": _flag,
    "log_format": _choice,
    "keep_failed_seconds": _seconds,
    "max_request_mib": _count,
    "store_mib": _count,
    "listen": _address,
    "web_address": _web_address,
    "web_port": _web_port,
    "connection_file": _file,
}
