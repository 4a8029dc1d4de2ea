"""Find the broker of this user, profile, machine and protocol, or start it.

Everything meets in one directory, `<runtime_dir>/<profile>-<machine>-<protocol major>/`, mode 0700:

    lock             flocked by the living broker for as long as it lives: this, never a pid, says
                     whether there is one
    start.lock       flocked by whoever starts a broker: many clients that start at once get one
    agent.lock       flocked by the host agent of this machine, which may outlive its broker; it
                     holds the agent's pid, and when that process began
    connection.json  where the living broker listens; without the lock it is of one that was killed,
                     which the next one follows
    broker.sock      the socket (in a hashed directory below `/tmp` where the path is too long)
    broker.log       what brokers and host agents write on stdout and stderr

A new broker is detached: its own session, no terminal, working directory `/`, no child of the
client. It answers through a pipe when it listens, so that nobody polls for it.

Guaranteed: at most one broker per directory; one that others could write to, or that cannot be
used for another reason, is refused (`directories`). A broker that cannot start says why in a line.
Not guaranteed: that a broker that was found still lives when it is dialled; dial, say `Hello`, and
look again if no `Welcome` comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kernel_worker import directories, keys
from kernel_worker.directories import RUNTIME, make_private, refusing
from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.keys import Invitation
from kernel_worker.model import PROTOCOL_MAJOR, short_digest
from kernel_worker.settings import PREFIX, as_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.settings import Settings

MAX_SOCKET_PATH_BYTES = 100
_LOG_TAIL_BYTES = 4000
_LOG_LIMIT_BYTES = 1_000_000
_CLAIM_SECONDS = 0.25
_HOLDER_BYTES = 64
READY = b"ready"
FAILED = b"failed"
WORKER_MARKS = ("NOTEBOOK_EXT_WORKER", "NOTEBOOK_EXT_WORKPLACE")
"""What stands in the environment of what a worker's function executes: see `host/orphans`."""
"""What a broker says to whoever started it; behind FAILED, why, where one line can say it."""
_ANSWER_BYTES = 4096
_STARTS = 3
_PAUSE_SECONDS = 0.005


class Connection(msgspec.Struct, frozen=True):
    """Where a living broker listens: the content of `connection.json`."""

    address: str
    """A ZeroMQ address."""
    pid: int
    incarnation: str
    """Changes with every start of a broker."""
    machine: str
    """The boot id of the broker's machine."""
    path: str
    """The connection file itself, for those who are started with it."""
    door: str = ""
    """Where it listens for clients of other machines (`tcp://…`), if it does."""
    keys: Invitation | None = None
    """Those to reach it from another machine; never written into `connection.json`."""
    links: tuple[str, ...] = ()
    """The other machines that run workers for it: whoever follows it waits a moment for these."""
    is_outpost: bool = False
    """It is no broker, but what speaks to that of another machine."""
    leases_from: int = 0
    """The ids of its leases are above it."""
    payload_key: str = ""
    """Where the key lies that seals payloads of other machines' clients, if there is one; the
    broker does not read it."""

    def read_payload_key(self) -> bytes:
        """Return that key; of another machine's broker the one in the invitation.

        Raises:
            AuthError: it is not there.
        """
        if self.keys is not None:
            return bytes.fromhex(self.keys.payload)
        return keys.read_payload_key(Path(self.payload_key))


def find_or_start(settings: Settings) -> Connection:
    """Return the living broker, after starting one if there is none.

    Raises:
        ConnectionError: It did not come up within `connect_timeout_seconds`, or it died; the
            message has the end of its log.
    """
    found = find(settings)
    if found is not None:
        return found
    directory = prepare_directory(settings)
    settings = directories.on_this_machine(settings)
    deadline = time.monotonic() + settings.connect_timeout_seconds
    with _flocked(directory / "start.lock", deadline):
        while (found := find(settings)) is None and _is_locked(directory):
            _pause(deadline, f"the broker in {directory} neither listens nor exits")
        return found or _start(settings, directory, deadline)


def find(settings: Settings) -> Connection | None:
    """Return the living broker, or None if there is none (that listens already)."""
    directory = prepare_directory(settings)
    return read_connection(directory / "connection.json") if _is_locked(directory) else None


def read_connection(path: Path | str) -> Connection | None:
    """Return what a connection file says, or None if there is none."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Connection)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        message = f"{path} is no connection file: {error}; remove it"
        raise ConnectionError(message) from error


def elsewhere(path: Path) -> Connection:
    """Return how the broker of another machine is reached, as a connection file of its client says.

    Raises:
        InvalidError: it is no such file, or others can read it.
    """
    found = keys.read(path)
    return Connection(found.address, 0, "", "", str(path), found.address, found)


def prepare_directory(settings: Settings) -> Path:
    """Create and check the directory where everything meets; return it.

    Raises:
        InvalidError: It is not a directory of this user that nobody else can enter, or cannot be
            made.
    """
    name = f"{settings.profile}-{_namespace()}-{PROTOCOL_MAJOR}"
    return directories.prepare(settings.runtime_dir, name, RUNTIME)


def socket_path(directory: Path) -> Path:
    """Return where the broker of `directory` binds: short enough for a socket's address."""
    path = directory / "broker.sock"
    if len(os.fsencode(path)) < MAX_SOCKET_PATH_BYTES:
        return path
    short = _short_directory(directory)
    make_private(short.parent)
    make_private(short)
    return short / "broker.sock"


def bulk_path(address: str) -> Path:
    """Return where the broker of a local address takes large values of hosts that came by ssh."""
    return Path(address.removeprefix("ipc://")).with_name("bulk.sock")


def kernel_path(connection_file: str, worker: str) -> Path:
    """Return where the connection file of a worker is that is a Jupyter kernel too.

    Its sockets lie beside it; all are in one directory, mode 0700, of the broker of
    `connection_file`.
    """
    directory = Path(connection_file).parent
    path = directory / "kernels" / f"{worker}.json"
    if len(os.fsencode(path)) < MAX_SOCKET_PATH_BYTES:
        return path
    return _short_directory(directory) / "kernels" / path.name


def make_kernel_directory(path: Path) -> None:
    """Create and check the directory of the connection file `path`."""
    if path.parent.parent.parent == _short_root():
        make_private(path.parent.parent.parent)
    make_private(path.parent.parent)
    make_private(path.parent)


def remove_kernel(connection_file: str, worker: str) -> None:
    """Remove the connection file and the sockets of a worker that has ended, if it had any."""
    path = kernel_path(connection_file, worker)
    with contextlib.suppress(FileNotFoundError):
        for found in path.parent.iterdir():
            if found.name == path.name or found.name.startswith(f"{worker}-"):
                found.unlink(missing_ok=True)


def remove_kernels(connection_file: str) -> None:
    """Remove those of all workers: their host agent has just begun, so that there are none."""
    directory = kernel_path(connection_file, "any").parent
    with contextlib.suppress(FileNotFoundError):
        for found in directory.iterdir():
            found.unlink(missing_ok=True)


def _short_root() -> Path:
    return Path(f"/tmp/notebook-ext-{os.getuid()}")  # noqa: S108  0700, checked


def _short_directory(directory: Path) -> Path:
    """Return the directory that stands for one whose path is too long for sockets."""
    return _short_root() / short_digest(os.fsencode(directory), 8).hex()


def journal_path(settings: Settings) -> Path:
    """Return where the broker of this machine and profile keeps what it has decided."""
    return settings.data_dir / _journal_name(settings) / "journal.db"


def prepare_journal(settings: Settings) -> Path:
    """Create and check the directory of the journal; return the journal's path.

    Raises:
        InvalidError: As `prepare_directory`; or files cannot be locked there.
    """
    directory = directories.prepare(settings.data_dir, _journal_name(settings), directories.DATA)
    directories.check_locks(directory)
    return journal_path(settings)


def _journal_name(settings: Settings) -> str:
    return f"{settings.profile}-{machine_name()}-{PROTOCOL_MAJOR}"


def claim(directory: Path) -> int | None:
    """Become the broker of `directory`; return the locked descriptor, or None if another lives.

    The lock is held until the descriptor is closed, by the process's end at the latest.
    """
    descriptor = _open_lock(directory / "lock")
    deadline = time.monotonic() + _CLAIM_SECONDS
    while not _try_lock(descriptor, fcntl.LOCK_EX, directory):
        # Somebody who looks whether there is a broker holds it too, for microseconds.
        if time.monotonic() > deadline:
            os.close(descriptor)
            return None
        time.sleep(_PAUSE_SECONDS)
    return descriptor


def claim_agent(connection_file: str) -> int | None:
    """Become the host agent beside a broker's connection file; None where another one lives.

    Returns:
        The locked descriptor, which no child may inherit.
    """
    descriptor = _open_lock(Path(connection_file).with_name("agent.lock"))
    if not _try_lock(descriptor, fcntl.LOCK_EX, Path(connection_file).parent):
        os.close(descriptor)
        return None
    # In one write, over whatever an agent before this one has said.
    said = f"{os.getpid()} {_birth(os.getpid())}".encode().ljust(_HOLDER_BYTES)
    os.pwrite(descriptor, said, 0)
    return descriptor


def living_agent(connection_file: str) -> int:
    """Return the pid of the host agent beside a broker's connection file; 0: none lives.

    Whoever has the lock has yet to say who it is, for a moment: what is there then is nobody's, or
    of an agent that has ended, whose pid may be another process's by now.
    """
    path = Path(connection_file).with_name("agent.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        deadline = time.monotonic() + _CLAIM_SECONDS
        while not _try_lock(descriptor, fcntl.LOCK_SH, path.parent):
            pid, _, birth = os.pread(descriptor, _HOLDER_BYTES, 0).decode().strip().partition(" ")
            if birth and birth == _birth(int(pid)):
                return int(pid)
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        return 0
    finally:
        os.close(descriptor)


def _birth(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; empty where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def publish(connection: Connection) -> None:
    """Write the connection file, whole and at once."""
    temporary = Path(f"{connection.path}.{connection.incarnation}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with refusing(temporary.parent, RUNTIME):
            descriptor = os.open(temporary, flags, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor
                file.write(msgspec.json.encode(connection))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(connection.path)


def killed(directory: Path) -> Connection | None:
    """Return how the broker was reached that was killed here since the machine began, if one was.

    One that ends by itself withdraws its connection file. Whoever asks has claimed `directory`.
    """
    try:
        found = read_connection(directory / "connection.json")
    except ConnectionError:
        return None
    return found if found is not None and found.machine == machine_id() else None


def forget_killed(settings: Settings) -> None:
    """Have no broker follow one that was killed, where none lives."""
    directory = prepare_directory(settings)
    lock = claim(directory)
    if lock is not None:
        (directory / "connection.json").unlink(missing_ok=True)
        os.close(lock)


def withdraw(connection: Connection) -> None:
    """Remove the connection file, if it still is the one of `connection`."""
    found = read_connection(connection.path)
    if found is not None and found.incarnation == connection.incarnation:
        Path(connection.path).unlink(missing_ok=True)


@cache
def machine_id() -> str:
    """Return the boot id of this machine: where it is equal, pids mean the same."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename


@cache
def machine_name() -> str:
    """Return what this machine is called in the path of what lies on a shared home directory."""
    try:
        known = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        known = ""
    name = known or os.uname().nodename
    return short_digest(name.encode(), 4).hex()


@cache
def _namespace() -> str:
    """Return what keeps machines, boots and containers apart that share a directory."""
    try:
        pids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        pids = ""
    return short_digest(f"{machine_id()} {pids}".encode(), 4).hex()


# ---- starting -------------------------------------------------------------------------------


def _start(settings: Settings, directory: Path, deadline: float) -> Connection:
    """Start a broker; again where something killed it, which then has said nothing."""
    for tries_left in range(_STARTS - 1, -1, -1):
        word, _, why = _launch(settings, directory, deadline).partition(b" ")
        if word == READY:
            break
        if why:
            message = f"the broker cannot start: {why.decode(errors='replace')}"
            raise ConnectionError(message)
        if not tries_left or word == FAILED:
            raise _start_error("the broker died while it started", directory)
    found = read_connection(directory / "connection.json")
    if found is None:
        raise _start_error("the broker said that it listens but left no connection file", directory)
    return found


def _launch(settings: Settings, directory: Path, deadline: float) -> bytes:
    """Start a broker and return what it says: READY; FAILED, and why; or nothing (killed)."""
    import subprocess  # noqa: PLC0415  only the one client in many that starts a broker

    ready, answer = os.pipe()
    log = _open_log(directory / "broker.log")
    command = [sys.executable, "-P", "-m", "kernel_worker.broker", "--ready-fd", str(answer)]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_broker_environment(settings),
            pass_fds=[answer],
            start_new_session=True,
        ):
            pass  # it forks at once, so that the broker is nobody's child
        os.close(answer)
        answer = -1
        return _first_word(ready, directory, deadline)
    finally:
        for descriptor in (ready, log, answer):
            if descriptor >= 0:
                os.close(descriptor)


def _first_word(ready: int, directory: Path, deadline: float) -> bytes:
    poller = select.poll()
    poller.register(ready, select.POLLIN | select.POLLHUP)
    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _start_error("the broker did not come up in time", directory)
    return os.read(ready, _ANSWER_BYTES)


def _start_error(what: str, directory: Path) -> ConnectionError:
    log = directory / "broker.log"
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    return ConnectionError(f"{what}; the end of {log}:\n{tail or '(empty)'}")


def _broker_environment(settings: Settings) -> dict[str, str]:
    environment = {**os.environ, **as_environment(settings)}
    environment.pop(f"{PREFIX}CONNECTION_FILE", None)  # it is the broker, whoever starts it
    environment.pop("JPY_PARENT_PID", None)  # ipykernel in a worker would watch for our end
    for mark in WORKER_MARKS:  # what a worker's child starts is nothing of that worker
        environment.pop(mark, None)
    root = str(Path(__file__).parents[1])
    if not root.endswith(("site-packages", "dist-packages")):
        paths = [root, *filter(None, [environment.get("PYTHONPATH", "")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _open_log(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with refusing(path.parent, RUNTIME):
        descriptor = os.open(path, flags, 0o600)
    if os.fstat(descriptor).st_size > _LOG_LIMIT_BYTES:
        os.truncate(descriptor, 0)
    return descriptor


# ---- locks ----------------------------------------------------------------------------------


def _is_locked(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH, directory)
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    with refusing(path.parent, RUNTIME):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int, directory: Path) -> bool:
    with refusing(directory, RUNTIME):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def _flocked(path: Path, deadline: float) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        while not _try_lock(descriptor, fcntl.LOCK_EX, path.parent):
            _pause(deadline, f"another process has been starting a broker for too long ({path})")
        yield
    finally:
        os.close(descriptor)


def _pause(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise ConnectionError(problem)
    time.sleep(_PAUSE_SECONDS)
