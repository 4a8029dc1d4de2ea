"""Where endpoints listen: addresses, ports that are remembered, and the token.

All lies in the broker's data directory, which is its user's alone: `web-ports.json` (a port for
each label), `web.token` (made when it is first needed; whoever wants another one writes it there).
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import socket
import time
import zlib
from typing import TYPE_CHECKING, Any, Final

from kernel_worker import directories, rendezvous
from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kernel_worker.settings import Settings

FIRST_PORT: Final = 20_000
_PORTS: Final = 10_000
"""Below those that the kernel gives to whoever asks for any."""
_TRIES: Final = 200
_TOKEN_BYTES: Final = 32
_FRESH_SECONDS: Final = 1.0
_MOST_PORT: Final = 65_535


class Places:
    """Where the endpoints of one profile listen."""

    def __init__(self, settings: Settings) -> None:
        """Go by these settings; nothing is read or made."""
        self._settings, _ = directories.instead_of_network(settings)
        self._token = ""
        self._read_until = 0.0
        self.most_bytes = settings.max_request_mib << 20
        """The largest body of a request."""
        self.is_open = not is_loopback(settings.web_address)
        """Whether other machines can come, so that whoever does needs the token."""

    @property
    def directory(self) -> Path:
        """Where it is kept; made where it is missing."""
        return rendezvous.prepare_journal(self._settings).parent

    @property
    def token_file(self) -> Path:
        """Where the token lies."""
        return self.directory / "web.token"

    def token(self) -> str:
        """Return the token, made where there is none; another one counts after a second."""
        now = time.monotonic()
        if now > self._read_until:
            self._token, self._read_until = self._read_token(), now + _FRESH_SECONDS
        return self._token

    def _read_token(self) -> str:
        with self._locked():
            with contextlib.suppress(FileNotFoundError):
                if found := self.token_file.read_text(encoding="utf-8").strip():
                    return found
            made = secrets.token_urlsafe(_TOKEN_BYTES)
            write_private(self.token_file, made + "\n")
            return made

    def bind(self, label: str) -> tuple[socket.socket, str]:
        """Return a socket that listens for the endpoint `label`, and its URL.

        The port is the one that it had before, unless another process has that now.

        Raises:
            InvalidError: the address cannot be listened on.
        """
        address = self._settings.web_address
        path = self.directory / "web-ports.json"
        with self._locked():
            ports = read_json(path, dict)
            listening = self._listening(address, self._candidates(label, ports), label)
            port = listening.getsockname()[1]
            if ports.get(label) != port:
                others = {name: its for name, its in ports.items() if its != port}
                write_private(path, json.dumps({**others, label: port}, indent=1))
        return listening, f"http://{_shown(address)}:{port}"

    def _candidates(self, label: str, ports: dict[str, Any]) -> Iterator[int]:
        """Yield ports to try: the one that it had, those that no label has, and then the others."""
        first, count = FIRST_PORT, _PORTS
        start = zlib.crc32(f"{os.getuid()} {self._settings.profile} {label}".encode()) % count
        if self._settings.web_port:
            first, start = self._settings.web_port, 0
            count = min(count, _MOST_PORT - first + 1)
        known, taken = ports.get(label), set(ports.values())
        if type(known) is int and first <= known < first + count:
            yield known
        near = [first + (start + at) % count for at in range(min(_TRIES, count))]
        yield from (port for port in near if port not in taken)
        yield from (port for port in near if port in taken)  # of labels that are gone, perhaps

    def _listening(self, address: str, ports: Iterator[int], label: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        reason = "no port is free"
        for port in ports:
            end = socket.socket(family, socket.SOCK_STREAM)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                socket.socket.bind(end, (address, port))
                end.listen(2048)
            except OSError as error:
                end.close()
                reason = error.strerror or str(error)
                continue
            end.set_inheritable(False)
            return end
        raise InvalidError(
            f"the endpoint {label} cannot listen at {address}: {reason}; give "
            "another in the settings web_address and web_port"
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(
            self.directory / "web.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address."""
    return ipaddress.ip_address(address).is_loopback


def read_json(path: Path, kind: type) -> Any:
    """Return what a file of ours holds; nothing where it is not there, or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return kind()
    return found if isinstance(found, kind) else kind()


def write_private(path: Path, text: str) -> None:
    """Write a file that its user alone can read, whole and at once."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  a descriptor
        file.write(text)
    temporary.rename(path)


def _shown(address: str) -> str:
    """Return a host for a URL: one for all addresses is reached by this machine's name."""
    found = ipaddress.ip_address(address)
    if found.is_unspecified:
        return socket.gethostname()
    return f"[{address}]" if found.version == 6 else address  # noqa: PLR2004  IPv6
