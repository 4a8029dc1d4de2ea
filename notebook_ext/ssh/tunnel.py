"""A way to the broker of another machine, for as long as this process has it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from notebook_ext import exception
from notebook_ext.config import afresh
from notebook_ext.ssh.keeper import Said
from notebook_ext.ssh.target import parse

if TYPE_CHECKING:
    from kernel_worker.keys import Role

_MORE_SECONDS: Final = 10.0
"""A keeper says itself, before that, that ssh takes too long."""
_END_SECONDS: Final = 10.0
_ANSWER_BYTES: Final = 64 * 1024


class Tunnel:
    """The keeper, as whoever has started it knows it; the connection file is `file`."""

    def __init__(self, target: str, role: Role = "client") -> None:
        """Start the keeper, and wait for the way.

        Args:
            target: `ssh://[USER@]HOST[:PORT]`.
            role: what the broker there is to know us as.

        Raises:
            InvalidError: it is no such target.
            NotFoundError: there is no ssh here, or no notebook-ext there.
            AuthError: ssh is not let in, or does not know the machine.
            VersionError: notebook-ext there does not fit.
            ConnectionError: it cannot be reached.
        """
        self.target = parse(target)
        # In a session of its own: the stop button of a notebook does not reach it.
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "notebook_ext.ssh.keeper", target, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_with_this_package(),
            cwd="/",
            start_new_session=True,
        )
        try:
            said = self._said(time.monotonic() + afresh().connect_timeout_seconds + _MORE_SECONDS)
            if said.error:
                raise exception.named(said.error)(said.message)
        except BaseException:
            self.close()
            raise
        self.file = Path(said.file)
        self.python = said.python
        """The version of the interpreter there."""

    def close(self) -> None:
        """End it: there is no way, no process and no file of it any more."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            assert pipe is not None  # noqa: S101  as it was started
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(_END_SECONDS)
        if self._keeper.poll() is None:
            self._keeper.terminate()
            self._keeper.wait()

    def bequeath(self) -> None:
        """Let the program that this process becomes have it, and be its end."""
        assert self._keeper.stdin is not None  # noqa: S101  as it was started
        os.set_inheritable(self._keeper.stdin.fileno(), True)

    def _said(self, deadline: float) -> Said:
        assert self._keeper.stdout is not None  # noqa: S101  as it was started
        file, said = self._keeper.stdout.fileno(), b""
        while not said.endswith(b"\n") and len(said) < _ANSWER_BYTES:
            left = max(0.0, deadline - time.monotonic())
            data = os.read(file, 4096) if select.select([file], [], [], left)[0] else b""
            if not data:
                raise ConnectionError(f"{self.target}: the process that runs ssh has failed")
            said += data
        return msgspec.json.decode(said, type=Said)


def _with_this_package() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
