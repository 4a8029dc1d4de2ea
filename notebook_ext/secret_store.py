"""Stored secrets: named environment variables of this user and profile, on this machine.

They lie in the keyring of the desktop where the library `keyring` is installed and finds one;
otherwise in files of the data directory that this user alone can read. Where one lies is decided
when it is stored; it is looked for in both.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from typing import TYPE_CHECKING, Any

from kernel_worker import directories
from kernel_worker.errors import InvalidError, NotFoundError
from notebook_ext.config import current

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}")
_IN_KEYRING = {"": "in the keyring"}
"""What a file says of a secret that the keyring has; no variable has this name."""


def store(name: str, values: Mapping[str, str], *, replaces: bool) -> str:
    """Keep variables under a name; return where.

    Raises:
        InvalidError: it is no name, or there is one of it and this is not to replace it.
    """
    path = _file(name)
    if path.exists() and not replaces:
        raise InvalidError(
            f"secret {name!r}: there is one of this name; use --force to replace it, or delete it."
        )
    text = json.dumps(dict(values))
    keyring = _keyring()
    if keyring is not None:
        keyring.set_password(_service(), name, text)
        text = json.dumps(_IN_KEYRING)
    new = path.with_name(f".{name}.{os.urandom(4).hex()}")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return "the keyring" if keyring is not None else str(path)


def load(name: str) -> dict[str, str]:
    """Return the variables of a stored secret.

    Raises:
        NotFoundError: there is none of this name; the nearest are listed.
        InvalidError: it is no name.
    """
    path = _file(name)
    found = _read(path, name)
    if found == _IN_KEYRING:
        keyring = _keyring()
        text = keyring.get_password(_service(), name) if keyring is not None else None
        if text is None:
            raise NotFoundError(
                f"the secret {name!r} was stored in the keyring, which is not to be had here, or "
                f"has it no more; `notebook-ext secret create --force {name} KEY=VALUE` stores it "
                "anew"
            )
        found = json.loads(text)
    if found is None:
        raise _unknown(name)
    return found


def _read(path: Path, name: str) -> dict[str, str] | None:
    """Return what a file of ours holds, or None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidError(
            f"secret {name!r}: {path} is damaged; make it anew, by `notebook-ext secret create "
            f"--force {name} KEY=VALUE`"
        )
    return found


def _unknown(name: str) -> NotFoundError:
    near = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return NotFoundError(
        f"there is no secret {name!r} here; {hint}`notebook-ext secret create {name} "
        "KEY=VALUE` stores one"
    )


def names() -> list[str]:
    """Return the names of what is stored."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def delete(name: str) -> None:
    """Forget a stored secret.

    Raises:
        NotFoundError: there is none of this name.
    """
    path = _file(name)
    if not path.exists():
        raise _unknown(name)
    keyring = _keyring()
    if keyring is not None:
        with contextlib.suppress(keyring.errors.PasswordDeleteError):
            keyring.delete_password(_service(), name)
    path.unlink()


def _service() -> str:
    """Return what the keyring knows these secrets by."""
    return f"notebook-ext {current().profile}"


def _file(name: object) -> Path:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidError(
            f"secret {name!r}: allowed are 1 to 64 letters, digits, '_', '.' and '-', not "
            "beginning with '-'."
        )
    return _folder() / f"{name}.json"


def _folder() -> Path:
    settings = directories.on_this_machine(current())
    return directories.prepare(settings.data_dir, f"secrets-{settings.profile}", directories.DATA)


def _keyring() -> Any:
    """Return the library `keyring` where it finds a keyring that can be used, else None."""
    try:
        import keyring  # noqa: PLC0415  not everybody has it, and it is slow
        import keyring.errors  # noqa: PLC0415  likewise
    except ImportError:
        return None
    try:
        usable = keyring.get_keyring().priority >= 1
    except Exception:  # noqa: BLE001  a backend that cannot tell cannot be used
        return None
    return keyring if usable else None
