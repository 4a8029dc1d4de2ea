"""The keeper: `python -m notebook_ext.ssh.keeper TARGET ROLE`, which runs ssh for somebody here.

It says in one line on stdout what came of it, and lives until its stdin ends. The files are in a
directory of mode 0700 that it removes: the socket that leads there, and the connection file.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec

from kernel_worker import keys
from kernel_worker.errors import (
    AuthError,
    ConnectionError,  # noqa: A004  ours
    Error,
    NotFoundError,
    VersionError,
)
from kernel_worker.model import PROTOCOL_MAJOR
from notebook_ext import exception
from notebook_ext.config import afresh
from notebook_ext.ssh.far_end import Answer, Request
from notebook_ext.ssh.target import MARK, Target, parse

if TYPE_CHECKING:
    from kernel_worker.keys import Role

_FIRST_PAUSE_SECONDS: Final = 0.5
_MOST_PAUSE_SECONDS: Final = 15.0
_STEADY_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0
_MOST_SAID: Final = 64 * 1024
_NOT_NAMED: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Said(msgspec.Struct):
    """What a keeper says of its beginning."""

    error: str = ""
    """The name of an error of ours, and …"""
    message: str = ""
    """… what it says."""
    file: str = ""
    """The connection file."""
    python: str = ""
    """As of `Answer`."""


class Way:
    """One run of ssh, and what the far end has answered."""

    def __init__(self, target: Target, near: str, request: Request, seconds: float) -> None:
        """Start ssh, and wait for the answer.

        Args:
            target: where.
            near: the socket here that is to lead there.
            request: for the far end.
            seconds: how long it may take.

        Raises:
            Error: that says what to do.
        """
        self._target = target
        Path(near).unlink(missing_ok=True)
        command = target.arguments(near, request.socket, seconds)
        self._wrong = tempfile.TemporaryFile()  # noqa: SIM115  closed with the way
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._wrong
            )
        except FileNotFoundError:
            self._wrong.close()
            raise NotFoundError(
                f"{target} needs the program ssh, which is not in the PATH of this process; "
                "install it (Debian: apt install openssh-client)"
            ) from None
        try:
            self.answer = self._asked(request, time.monotonic() + seconds)
            if not Path(near).exists():
                raise ConnectionError(f"ssh does not forward to {target}: {self._last_words()}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End ssh, and with it the far end."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._wrong.close()

    def _asked(self, request: Request, deadline: float) -> Answer:
        assert self.process.stdin is not None  # noqa: S101  as it was started
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
            self.process.stdin.write(msgspec.json.encode(request) + b"\n")
            self.process.stdin.flush()
        line = self._marked_line(deadline)
        if line == b"{}":
            raise NotFoundError(self._missing())
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError as error:
            raise VersionError(
                f"notebook-ext at {self._target} answers in words of another version; install "
                "the same on both machines"
            ) from error
        if answer.error:
            raise exception.named(answer.error)(f"{self._target}: {answer.message}")
        return answer

    def _marked_line(self, deadline: float) -> bytes:
        """Return what the far end says; what a login writes before is skipped."""
        assert self.process.stdout is not None  # noqa: S101  as above
        file, said = self.process.stdout.fileno(), b""
        while len(said) < _MOST_SAID:
            for line in said.split(b"\n")[:-1]:
                if line.startswith(MARK.encode()):
                    return line.removeprefix(MARK.encode()).strip()
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                raise ConnectionError(
                    f"{self._target} did not answer in time (setting connect_timeout): "
                    f"{self._last_words()}"
                )
            data = os.read(file, 4096)
            if not data:
                break
            said += data
        raise self._failure()

    def _failure(self) -> Error:
        """Return why ssh, or what it was to start, has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        target, words = self._target, self._last_words()
        if "No such command" in words or "no such option" in words.lower():
            return VersionError(
                f"notebook-ext at {target} is too old for this: it has no `broker tunnel` "
                f"({words}); install {version('notebook-ext')} there"
            )
        if "Host key verification failed" in words or "host key" in words.lower():
            return AuthError(
                f"ssh does not know the key of {target.host}, or knows another one: {words}; say "
                f"`{target.login}` in a terminal once, and compare it"
            )
        if "Permission denied" in words or "Too many authentication" in words:
            return AuthError(
                f"ssh cannot log in without asking for a password: {words}; see that "
                f"`{target.login} true` works without (a key that is in your agent)"
            )
        return ConnectionError(f"{target} cannot be reached: {words}")

    def _missing(self) -> str:
        target = self._target
        if target.command:
            return f"{target} has no {target.command} that can be run; install notebook-ext there"
        return (
            f"there is no notebook-ext in the PATH of {target}; install it there, or say where it "
            f"is: {target}/home/you/venv/bin/notebook-ext"
        )

    def _last_words(self) -> str:
        self._wrong.seek(0)
        lines = self._wrong.read()[-_MOST_SAID:].decode(errors="replace").strip().splitlines()
        return "; ".join(line.strip() for line in lines[-2:]) or "ssh says nothing"


class Keeper:
    """Ways to one machine, one after the other."""

    def __init__(self, target: Target, role: Role, directory: Path) -> None:
        """Make the key."""
        self._target, self._role, self._directory = target, role, directory
        self._pair = keys.made_pair()
        self._seconds = afresh().connect_timeout_seconds
        self._near = str(directory / "broker.sock")
        login = os.environ.get("USER", "") or str(os.getuid())
        name = _NOT_NAMED.sub("-", f"ssh-{login}-{os.uname().nodename}")[:48]
        self._name = f"{name}-{os.urandom(3).hex()}"
        self._ways = 0

    def way(self) -> Way:
        """Return a new way there.

        Raises:
            Error: there is none.
        """
        self._ways += 1
        request = Request(
            PROTOCOL_MAJOR,
            version("notebook-ext"),
            f"{self._name}.{self._ways}",
            self._pair.public,
            self._role,
            f"/tmp/notebook-ext-ssh-{os.urandom(8).hex()}.sock",  # noqa: S108  on that machine
        )
        return Way(self._target, self._near, request, self._seconds)

    def write(self, answer: Answer) -> str:
        """Write the connection file; return its path."""
        invitation = keys.Invitation(
            f"ipc://{self._near}",
            answer.server,
            self._pair,
            str(self._target),
            payload=answer.payload,
            role=self._role,
        )
        path = self._directory / "connection.json"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(msgspec.json.encode(invitation))
        return str(path)

    def keep(self, way: Way) -> None:
        """Have a way there until stdin ends."""
        current: Way | None = way
        pause_seconds, began = _FIRST_PAUSE_SECONDS, time.monotonic()
        try:
            while _is_wanted(current.process if current is not None else None, pause_seconds):
                if current is not None:
                    current.close()
                    current = None
                    steady = time.monotonic() - began > _STEADY_SECONDS
                    pause_seconds = _FIRST_PAUSE_SECONDS if steady else pause_seconds
                    continue  # a moment passes before it is tried again
                pause_seconds = min(2 * pause_seconds, _MOST_PAUSE_SECONDS)
                with contextlib.suppress(Error):
                    current, began = self.way(), time.monotonic()
        finally:
            if current is not None:
                current.close()


def _is_wanted(process: subprocess.Popen[bytes] | None, seconds: float) -> bool:
    """Wait for the end of `process`, or so long where there is none; False: stdin has ended."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    ends = os.pidfd_open(process.pid) if process is not None else -1
    try:
        if process is not None:
            poller.register(ends, select.POLLIN)
        ready = dict(poller.poll(None if process is not None else 1000 * seconds))
        return 0 not in ready or bool(os.read(0, 4096))
    finally:
        if ends >= 0:
            os.close(ends)


def main(arguments: list[str]) -> int:
    """Be the keeper; return the exit status."""
    target, role = parse(arguments[0]), cast("Role", arguments[1])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    directory = Path(tempfile.mkdtemp(prefix="notebook-ext-ssh-", dir="/tmp"))
    try:
        keeper = Keeper(target, role, directory)
        try:
            way = keeper.way()
        except Error as error:
            _say(Said(type(error).__name__, str(error)))
            return 1
        _say(Said(file=keeper.write(way.answer), python=way.answer.python))
        keeper.keep(way)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _say(said: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
