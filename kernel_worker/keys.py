"""Who may reach a broker over TCP: its own key pair, the public keys of its clients and hosts.

Keys are those of CURVE (CurveZMQ, RFC 26): 32 bytes, in files as 40 characters of Z85. They lie
beside the journal, in a directory of mode 0700, each a file of mode 0600:

    tcp/server.key      the broker's secret key, made once
    tcp/payload.key     32 bytes in hexadecimal digits, made once: seals what clients and workers
                        say to each other, so that the broker, which does not read it, cannot
    tcp/clients/NAME    the public key of a client that is let in
    tcp/hosts/NAME      the public key of a machine that is let in, to run workers there

One file a client or host: it is there whole or not at all, and removing it revokes the key. The
secret key is in its *connection file* alone, which `invite` gives and nobody keeps.

Guarantees: whose key is not listed is not let in; with an empty list that is everybody.
Not guaranteed: anything against who can read these files, or a connection file.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from kernel_worker.directories import DATA, make_private, refusing
from kernel_worker.errors import (
    AuthError,
    ConnectionError,  # noqa: A004  ours
    InvalidError,
    NotFoundError,
)

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_KEY_TEXT: Final = re.compile(r"[!-~]{40}")
_PAYLOAD_KEY: Final = re.compile(r"[0-9a-f]{64}")
_PLACE: Final = re.compile(
    r"tcp://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}|ipc://(/[^/\0]+)+"
)
_FORMAT: Final = 1
_NOT_LISTED: Final = (FileNotFoundError, IsADirectoryError, PermissionError, UnicodeDecodeError)
"""What reading a file of the list may raise that lists nobody."""


class KeyPair(msgspec.Struct, frozen=True):
    """One side's keys, as Z85 text."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public!r}, secret=…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show what `repr` does: of a struct rich shows every field."""
        return [("public", self.public)]


Role = Literal["client", "host"]
ROLES: Final[tuple[Role, ...]] = ("client", "host")


class Invitation(msgspec.Struct, frozen=True):
    """The content of a connection file: where a broker listens, and the keys to reach it."""

    address: str
    server: str
    """The broker's public key: who has another one is not that broker."""
    client: KeyPair
    name: str = ""
    format: int = _FORMAT
    payload: str = ""
    """What seals payloads; one for all clients and hosts of a broker."""
    role: Role = "client"
    """What its key is listed for: nothing else is let in by it."""

    def __repr__(self) -> str:
        return f"Invitation({self.address!r}, {self.name!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show what `repr` does."""
        return [("address", self.address), ("name", self.name)]


class Keys:
    """The keys of one broker."""

    def __init__(self, data: Path) -> None:
        """Take those in `data`, where the journal lies; nothing is made yet."""
        self._root = data / "tcp"
        self._listed = {role: self._root / f"{role}s" for role in ROLES}

    def server(self) -> KeyPair:
        """Return the broker's own pair; it is made where there is none."""
        self._prepare()
        place = self._root / "server.key"
        with refusing(self._root, DATA):
            if not place.exists():
                _write_once(place, made_pair().secret)
            secret = place.read_text(encoding="ascii").strip()
        if not _KEY_TEXT.fullmatch(secret):
            message = f"{place} holds no key; remove it, and invite all clients again"
            raise InvalidError(message)
        return KeyPair(_public(secret), secret)

    def invite(self, name: str, address: str, role: Role = "client") -> Invitation:
        """Let somebody in; return what that needs, of which nothing is kept but the public key.

        Raises:
            InvalidError: the name is not allowed, or taken.
        """
        pair = made_pair()
        server, payload = self.admit(name, pair.public, role)
        return Invitation(address, server, pair, name, payload=payload, role=role)

    def admit(self, name: str, public: str, role: Role) -> tuple[str, str]:
        """Let in whoever has the secret to a public key.

        Returns:
            The broker's public key, and the one that seals payloads.

        Raises:
            InvalidError: it is no key, or the name is not allowed, or taken.
        """
        _check(name)
        if not _KEY_TEXT.fullmatch(public):
            message = f"{public!r} is no public key"
            raise InvalidError(message)
        server = self.server()
        payload = self._payload()
        place = self._listed[role] / name
        with refusing(place.parent, DATA):
            taken = next((one for one in ROLES if (self._listed[one] / name).exists()), role)
            if taken != role or not _write_once(place, public):
                message = (
                    f"a {taken} {name!r} is listed already; choose another name, or remove it "
                    f"first: notebook-ext broker revoke {name}"
                )
                raise InvalidError(message)
        return server.public, payload

    def revoke(self, name: str) -> None:
        """Let a client or a host in no more.

        Raises:
            NotFoundError: there is none of that name.
        """
        _check(name)
        for place in self._listed.values():
            with contextlib.suppress(FileNotFoundError):
                (place / name).unlink()
                return
        listed = ", ".join(sorted({**self.listed("client"), **self.listed("host")}.values()))
        message = f"nobody called {name!r} is listed; there is: {listed or 'nobody'}"
        raise NotFoundError(message)

    def listed(self, role: Role = "client") -> dict[str, str]:
        """Return the names of the clients, or the hosts, that are let in, by public key.

        Raises:
            ConnectionError: who they are cannot be read now: no descriptor is left, for example.
        """
        found = {}
        try:
            for place in self._listed[role].iterdir():
                with contextlib.suppress(*_NOT_LISTED):
                    if NAME.fullmatch(place.name):
                        found[place.read_text(encoding="ascii").strip()] = place.name
        except FileNotFoundError:
            return {}
        except OSError as error:
            message = f"{self._listed[role]} cannot be read: {error.strerror}; it is tried again"
            raise ConnectionError(message) from error
        return found

    def _payload(self) -> str:
        """Return the key that seals payloads; it is made where there is none."""
        place = payload_key_of(self._root.parent)
        with refusing(self._root, DATA):
            if not place.exists():
                _write_once(place, os.urandom(32).hex())
        return read_payload_key(place).hex()

    def _prepare(self) -> None:
        with refusing(self._root, DATA):
            make_private(self._root, DATA)
            for place in self._listed.values():
                make_private(place, DATA)


def payload_key_of(data: Path) -> Path:
    """Return where the key lies that seals payloads, of the broker whose journal lies in `data`."""
    return data / "tcp" / "payload.key"


def read_payload_key(place: Path) -> bytes:
    """Return the key that seals payloads: for workers, and for clients on the broker's machine.

    Raises:
        AuthError: it is not there, or damaged.
    """
    try:
        text = place.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = (
            f"what a client of another machine has sealed cannot be opened: {place}: "
            f"{getattr(error, 'strerror', None) or 'it is damaged'}"
        )
        raise AuthError(message) from None
    if not _PAYLOAD_KEY.fullmatch(text):
        message = f"{place} holds no key; remove it, and invite all clients again"
        raise AuthError(message)
    return bytes.fromhex(text)


def in_memory(content: bytes) -> int:
    """Return an open file of a secret that is nowhere on disk, so that nothing is left of it.

    This process, and those to which it passes the descriptor, open it by `/proc/self/fd/N`; others
    of this user by the pid of one that has it.
    """
    opened = os.memfd_create("secret")
    try:
        os.fchmod(opened, 0o600)
        os.write(opened, content)
    except OSError:
        os.close(opened)
        raise
    return opened


def read(path: Path, role: Role = "client") -> Invitation:
    """Return what a connection file says.

    Args:
        path: of the file.
        role: what it has to be for.

    Raises:
        InvalidError: it is not there, is none, is for something else, or others can read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            found = msgspec.json.decode(file.read(), type=Invitation)
    except OSError as error:
        message = (
            f"connection file {path}: {error.strerror or error}; `notebook-ext broker invite NAME` "
            "on the broker's machine makes one"
        )
        raise InvalidError(message) from error
    except msgspec.DecodeError:
        message = (
            f"{path} is no connection file; `notebook-ext broker invite NAME` on the broker's "
            "machine makes one"
        )
        raise InvalidError(message) from None  # what it says could be a key
    if status.st_mode & 0o077 or status.st_uid not in {os.getuid(), 0}:
        message = (
            f"{path} holds a secret key and is not yours alone; do `chmod 600 {path}`, as its owner"
        )
        raise InvalidError(message)
    keys = (found.server, found.client.public, found.client.secret)
    is_whole = _PLACE.fullmatch(found.address) and all(map(_KEY_TEXT.fullmatch, keys))
    if found.format == _FORMAT and is_whole and not found.payload:
        message = (
            f"{path} was made before payloads were sealed: it has no key for that; invite anew, "
            "by `notebook-ext broker revoke` and `invite`"
        )
        raise InvalidError(message)
    if found.format != _FORMAT or not is_whole or not _PAYLOAD_KEY.fullmatch(found.payload):
        message = f"{path} was made by another version of notebook-ext, or is damaged; invite anew"
        raise InvalidError(message)
    if found.role != role:
        option = " --host" if role == "host" else ""
        message = (
            f"{path} was made for a {found.role}, and is of no use to a {role}: "
            f"`notebook-ext broker invite{option} NAME` on the broker's machine makes one that is"
        )
        raise InvalidError(message)
    return found


def _check(name: str) -> None:
    if not NAME.fullmatch(name):
        message = (
            f"a client cannot be called {name!r}; allowed are 1 to 64 letters, digits, '_', '.', "
            "'@' and '-', beginning with a letter, a digit or '_'"
        )
        raise InvalidError(message)


def made_pair() -> KeyPair:
    """Return a new pair."""
    import zmq  # noqa: PLC0415  only where keys are made

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def _public(secret: str) -> str:
    import zmq  # noqa: PLC0415  only where there is a key

    return zmq.curve_public(secret.encode()).decode()


def _write_once(place: Path, text: str) -> bool:
    """Write a file that only this user can read, whole and on disk; False where it is there."""
    half = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        place.hardlink_to(half)
    except FileExistsError:
        return False
    finally:
        half.unlink()
    return True
