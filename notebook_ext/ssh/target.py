"""What stands behind `ssh://`, and what ssh is told of it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

from kernel_worker.errors import InvalidError

MARK: Final = "notebook-ext-tunnel: "
"""How the line begins that is the far end's; a login may write others."""
_TARGET: Final = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.\\@-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<command>/[^\0]*)?"
)
_NEVER_ASKS: Final = ("BatchMode=yes", "RequestTTY=no", "RemoteCommand=none")
_OWN_CONNECTION: Final = ("ControlMaster=no", "ControlPath=none")
"""One that others share would keep what we forward when we have gone."""
_NOTICES_CUTS: Final = ("ServerAliveInterval=10", "ServerAliveCountMax=3")
_MASK: Final = "StreamLocalBindMask=0177"
# No `!` is in it, and one pair of quotes around it: any login shell takes it.
_SCRIPT: Final = (
    'for each in "$@"; do found=$(command -v "$each") && exec "$found" broker tunnel; done; '
    f'echo "{MARK}{{}}"'
)


class Target(NamedTuple):
    """A machine that ssh reaches."""

    host: str
    user: str = ""
    port: int = 0
    command: str = ""
    """Where `notebook-ext` is there; empty: looked for."""

    def __str__(self) -> str:
        name = f"{self.user}@{self.host}" if self.user else self.host
        return f"ssh://{name}" + (f":{self.port}" if self.port else "")

    @property
    def login(self) -> str:
        """What one types to get there oneself."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{self.user + '@' if self.user else ''}{self.host.strip('[]')}"

    def arguments(self, near: str, far: str, timeout_seconds: float) -> list[str]:
        """Return the command line of ssh.

        Args:
            near: the socket here that leads there.
            far: the one there.
            timeout_seconds: how long a connection may take.
        """
        timeout = f"ConnectTimeout={max(1, round(timeout_seconds))}"
        options = [*_NEVER_ASKS, *_OWN_CONNECTION, *_NOTICES_CUTS, timeout, _MASK]
        found = ["ssh", "-T", "-a", "-x", *(f"-o{option}" for option in options)]
        found += [f"-p{self.port}"] if self.port else []
        found += [f"-l{self.user}"] if self.user else []
        here = str(Path(sys.prefix) / "bin" / "notebook-ext")
        places = (
            (self.command,) if self.command else ("notebook-ext", ".local/bin/notebook-ext", here)
        )
        command = shlex.join(["sh", "-c", _SCRIPT, "sh", *places])
        return [*found, f"-L{near}:{far}", "--", self.host.strip("[]"), command]


def parse(text: str) -> Target:
    """Return what `ssh://[USER@]HOST[:PORT][/PATH/TO/notebook-ext]` says.

    Raises:
        InvalidError: it is none of that kind.
    """
    found = _TARGET.fullmatch(text)
    if found is None or int(found["port"] or 1) not in range(1, 65_536):
        raise InvalidError(
            f"{text!r} is no machine that ssh reaches; allowed is ssh://[USER@]HOST[:PORT], and "
            "behind that the path of notebook-ext there, where it is not in the PATH"
        )
    command = found["command"] or ""
    return Target(found["host"], found["user"] or "", int(found["port"] or 0), command.rstrip("/"))
