"""The gateway of what is deployed: a process of its own, beside the broker.

Theory. `app.deploy()` has it started, where it does not run, and tells it which endpoints the app
has; so does the first session after a start of the broker or the machine, while any endpoint is
deployed. It asks the broker for the version in force whenever it opens a slot, so that all that it
keeps are names: in `web-endpoints.json`, in the broker's data directory. It is a client as others
are, and ends when the broker was stopped, when that was killed and none follows within
`KILLED_SECONDS`, or when no endpoint is deployed any more. Where it is killed itself, its parent,
which has nothing else to do (`keeping`), starts it again.

Guarantees: at most one runs for a broker (a lock says so, never a pid). A URL stays the same for as
long as its port can be had.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kernel_worker import rendezvous
from kernel_worker.errors import ConnectionError, Error, InvalidError  # noqa: A004  ours
from kernel_worker.settings import PREFIX, as_environment
from notebook_ext import process
from notebook_ext.config import current
from notebook_ext.web import streams
from notebook_ext.web.endpoints import default_label, endpoints_of
from notebook_ext.web.places import Places, read_json, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kernel_worker.model import FunctionKey
    from kernel_worker.settings import Settings
    from notebook_ext.cls import Cls
    from notebook_ext.web.gateway import Gateway

LOOK_SECONDS: Final = 0.5
STOPPED_SECONDS: Final = 1.0
FIRST_SECONDS: Final = 10.0
"""Within so many seconds it is told what to serve by who has started it."""
KILLED_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 30.0
_LOG_BYTES: Final = 1_000_000
"""So large a log becomes `web.log.old`, and another one begins."""

_log = logging.getLogger(__name__)


class _Gateway:
    """Whether this process is the gateway."""

    is_here = False


# ---- what clients do ----------------------------------------------------------------------------


def check(app: str, classes: Iterable[tuple[str, Cls]]) -> None:
    """Look at whether the endpoints of an app can be deployed beside those of others.

    Raises:
        InvalidError: a label is given twice.
    """
    listed = [each for name, cls in classes for each in _listed(app, name, cls)]
    _check_labels(app, listed, entries())


def announce(app: str, classes: Iterable[tuple[str, Cls]]) -> dict[str, str]:
    """Have the endpoints of an app served that was deployed just now; return their URLs by name.

    Args:
        app: the name that it was deployed under.
        classes: its classes, and functions that are endpoints, by name.

    Raises:
        ConnectionError: the gateway cannot be started.
        InvalidError: an endpoint cannot listen.
    """
    listed = [each for name, cls in classes for each in _listed(app, name, cls)]
    if not listed and not any(each["app"] == app for each in entries()):
        return {}
    return _told({"app": app, "endpoints": listed})


def withdraw(app: str) -> None:
    """Have the endpoints of an app served no more."""
    if any(each["app"] == app for each in entries()):
        _told({"app": app, "endpoints": []})


def url_of(key: FunctionKey, function: str = "") -> str | None:
    """Return where the deployed endpoint is served that a key names, and a function of a class.

    None where it is no endpoint, or not deployed.
    """
    _, app, name = key.split("/", 2)
    for each in entries():
        if each["app"] == app and each["name"] == name and function in {"", each["function"]}:
            ensure()
            return str(each["url"])
    return None


def entries() -> list[dict[str, Any]]:
    """Return the deployed endpoints: app, name, function, label and url of each."""
    found: list[dict[str, Any]] = read_json(_file(current()), list)
    return found


def revive() -> None:
    """Start the gateway where endpoints are deployed and none runs; waits for nothing."""
    if not _Gateway.is_here and entries() and _living(current()) is None:
        _launch(current(), subprocess.DEVNULL)


def ensure() -> str:
    """Return where the gateway is asked, started now where none runs.

    Raises:
        ConnectionError: it does not start.
    """
    settings = current()
    if settings.connection_file is not None:
        raise InvalidError(
            "web endpoints are served on the machine of their broker, and calls go to one "
            f"elsewhere ({settings.connection_file}); define and deploy them there"
        )
    name = _living(settings)
    if name is not None:
        return name
    started = _launch(settings, subprocess.PIPE)
    assert started.stdout is not None  # noqa: S101  a pipe
    with started.stdout:
        line = started.stdout.readline().decode().strip()
    if not line:
        log = _log_file(settings)
        tail = log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""
        raise ConnectionError(
            f"the gateway of web endpoints did not start; the end of {log}:\n{tail}"
        )
    return line


def _listed(app: str, name: str, cls: Cls) -> list[dict[str, Any]]:
    """Return the endpoints of a class, or of a function that is one."""
    from notebook_ext.cls import Definition  # noqa: PLC0415  there are classes

    definition: Definition = cls.definition
    found = []
    for function, endpoint in endpoints_of(definition.get_raw_f()).items():  # type: ignore[arg-type]
        shown = getattr(cls, "shown_endpoint", "") or f"{name}.{function}"
        found.append(
            {
                "app": app,
                "name": name,
                "function": function,
                "shown": shown,
                "label": endpoint.label or default_label(app, shown),
                "needs_token": endpoint.needs_token,
                "timeout": cls._options.timeout_seconds,
            }
        )
    return found


def _check_labels(
    app: str, endpoints: list[dict[str, Any]], listed: Iterable[dict[str, Any]]
) -> None:
    """Raise `InvalidError` where an app's endpoints, and those that are `listed`, share a label."""
    labels = [each["label"] for each in endpoints]
    for each in listed:
        if each["app"] != app and each["label"] in labels:
            raise InvalidError(
                f"label={each['label']!r}: {each['app']} has an endpoint of that label, "
                f"{each['shown']}; give one of them another."
            )
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InvalidError(
            f"label={twice[0]!r}: {app} has two endpoints of that label; give one another."
        )


def _told(body: dict[str, Any]) -> dict[str, str]:
    """Tell the gateway what is deployed; another one, where it ends just then."""
    try:
        answer = streams.ask(ensure(), "deployed", body, _ANSWER_SECONDS)
    except OSError:
        answer = streams.ask(ensure(), "deployed", body, _ANSWER_SECONDS)
    return _checked(answer)


def _checked(answer: Any) -> dict[str, str]:
    if "error" in answer:
        raise InvalidError(answer["error"])
    urls: dict[str, str] = answer["urls"]
    return urls


def _living(settings: Settings) -> str | None:
    """Return where the gateway is asked that runs, if one does."""
    path = rendezvous.prepare_directory(settings) / "web.json"
    name = read_json(path, dict).get("name")
    if name is None:
        return None
    try:
        streams.ask(name, "ping", None, _ANSWER_SECONDS)
    except OSError:
        return None
    return str(name)


def _launch(settings: Settings, said: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **as_environment(settings)}
    for variable in (f"{PREFIX}CONNECTION_FILE", "JPY_PARENT_PID"):
        environment.pop(variable, None)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = os.open(_log_file(settings), flags, 0o600)
    try:
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "notebook_ext.web"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=log,
            cwd=Path("/"),
            env=environment,
            start_new_session=True,
        )
        started.wait()  # it forks at once, so that the gateway is nobody's child
    finally:
        os.close(log)
    return started


def _file(settings: Settings) -> Path:
    return process.endpoints_file(settings)


def _log_file(settings: Settings) -> Path:
    return rendezvous.prepare_directory(settings) / "web.log"


# ---- what the process does ----------------------------------------------------------------------


class Deployed:
    """What the gateway serves of what is deployed."""

    def __init__(self, gateway: Gateway, path: Path) -> None:
        """Serve what `path` lists, and keep it so."""
        self._gateway = gateway
        self._path = path
        self._lock = threading.Lock()
        self._versions: dict[str, object] = {}
        self._listed: list[dict[str, Any]] = read_json(path, list)
        gateway.asked = {"ping": lambda _: {}, "deployed": self.deployed}
        for each in self._listed:
            try:
                each["url"] = self._serve(each)
            except Error:
                _log.exception("%s is not served", each["label"])
        self._write()

    @property
    def has_any(self) -> bool:
        """Whether any endpoint is deployed, or is being deployed now."""
        return bool(self._listed) or self._lock.locked()

    def deployed(self, body: Any) -> dict[str, Any]:
        """Serve the endpoints that an app has now; answers who has deployed it."""
        with self._lock:
            try:
                return {"urls": self._replace(body["app"], body["endpoints"])}
            except Exception as error:  # noqa: BLE001  told to who asked
                return {"error": str(error)}

    def _replace(self, app: str, endpoints: list[dict[str, Any]]) -> dict[str, str]:
        _check_labels(app, endpoints, self._listed)
        before = {each["label"] for each in self._listed if each["app"] == app}
        labels = {each["label"] for each in endpoints}
        try:
            for each in endpoints:
                each["url"] = self._serve(each)
        except Exception:
            for label in labels - before:
                self._gateway.withdraw(label)
            raise
        for label in before - labels:
            self._gateway.withdraw(label)
        self._listed = [*(each for each in self._listed if each["app"] != app), *endpoints]
        self._write()
        return {each["shown"]: each["url"] for each in endpoints}

    def _serve(self, each: dict[str, Any]) -> str:
        from notebook_ext.cls import Cls  # noqa: PLC0415  where one is served
        from notebook_ext.web.gateway import Target  # noqa: PLC0415  it needs uvicorn
        from notebook_ext.web.here import slot_of  # noqa: PLC0415  likewise

        instance = Cls.from_name(each["app"], each["name"])()
        method = slot_of(instance, each["function"], each["shown"])
        function = each["function"]
        return self._gateway.serve(
            Target(
                each["label"],
                each["shown"],
                lambda gateway, slot: method.remote.aio(function, gateway, slot),
                lambda: None,
                float(each["timeout"]),
                bool(each["needs_token"]),
            )
        )

    def _write(self) -> None:
        write_private(self._path, json.dumps(self._listed, indent=1))


def main() -> None:
    """Be the gateway, until it is not needed; in a process of its own."""
    settings = current()
    directory = rendezvous.prepare_directory(settings)
    lock = os.open(directory / "web.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # whoever has it says soon where it is, or ends
    if (name := _living(settings)) is not None:
        print(name, flush=True)  # noqa: T201  `ensure` reads it
        return
    _Gateway.is_here = True
    from notebook_ext.web.gateway import Gateway  # noqa: PLC0415  it needs uvicorn

    gateway = Gateway(Places(settings))
    deployed = Deployed(gateway, _file(settings))
    path = directory / "web.json"
    write_private(path, json.dumps({"name": gateway.name, "pid": os.getpid()}))
    fcntl.flock(lock, fcntl.LOCK_UN)
    print(gateway.name, flush=True)  # noqa: T201  as above
    os.dup2(2, 1)  # what workers print goes to the log
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _stay(settings, directory, deployed)
    finally:
        with contextlib.suppress(FileNotFoundError):
            if read_json(path, dict).get("name") == gateway.name:
                path.unlink()
        gateway.close()


def _stay(settings: Settings, directory: Path, deployed: Deployed) -> None:
    """Return when nobody needs the gateway any more."""
    begun = seen = time.monotonic()
    while True:
        time.sleep(LOOK_SECONDS)
        shorten(_log_file(settings))
        now = time.monotonic()
        is_needed = deployed.has_any or now - begun < FIRST_SECONDS
        if is_needed and rendezvous.find(settings) is not None:
            seen = now
        was_killed = (directory / "connection.json").exists() and deployed.has_any
        if now - seen > (KILLED_SECONDS if was_killed else STOPPED_SECONDS):
            return


def shorten(log: Path) -> None:
    """Put a log aside that has become large: what is written next is its first line."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        shutil.copy(log, log.with_name(f"{log.name}.old"))
        os.truncate(log, 0)  # and not renamed: whoever has it open appends
