"""`Secret`: environment variables for workers whose values are shown nowhere.

Values travel in the environment object of a function, over the private sockets between this
process, the broker and the host agent. They are in no repr, message or log; on disk (the journal)
that object is sealed with a key that lies beside it and that only this user can read.

Not guaranteed: anything against who is this user, or root. A function that captured a value (and
not the `Secret`) carries it like any other value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from kernel_worker.errors import InvalidError, NotFoundError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterable


_QUOTES: Final = {
    "'": re.compile(r"'([^']*)'"),
    '"': re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL),
}
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
"""What stands behind a backslash in double quotes; any other one stays as it is written."""


class Secret:
    """Environment variables; make one with the `from_…` functions."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        """Use `from_dict`."""
        self._values = dict(values)

    @classmethod
    def from_dict(cls, env_dict: Mapping[str, str | None] | None = None) -> Secret:
        """Return the variables in a dict; those that are None are left out.

        Raises:
            InvalidError: it is no dict of str to str.
        """
        given = {} if env_dict is None else env_dict
        if not isinstance(given, Mapping):
            raise InvalidError(
                f"env_dict=<{type(given).__name__}>: allowed is a dict of str to str."
            )
        values = {name: value for name, value in given.items() if value is not None}
        return cls(variables("env_dict", values))

    @classmethod
    def from_local_environ(cls, env_keys: Iterable[str]) -> Secret:
        """Return variables of this process as they are now.

        Raises:
            InvalidError: one is not set here.
        """
        if isinstance(env_keys, str):
            raise InvalidError(f"env_keys={env_keys!r}: allowed is a list of names.")
        keys = list(env_keys)
        missing = [key for key in keys if key not in os.environ]
        if missing:
            raise InvalidError(
                f"env_keys={keys!r}: {', '.join(missing)} is not set here; allowed are names of "
                "environment variables that are."
            )
        return cls({key: os.environ[key] for key in keys})

    @classmethod
    def from_dotenv(cls, path: str | Path | None = None, *, filename: str = ".env") -> Secret:
        """Return the variables of a file of `NAME=value` lines.

        A value in quotes may have several lines; in double ones, a backslash escapes.

        Args:
            path: the file, or a folder in which, or above which, it lies; None: the working one.
            filename: its name, where `path` is a folder.

        Raises:
            NotFoundError: there is no such file.
            InvalidError: a line of it cannot be read.
        """
        found = _found(Path.cwd() if path is None else Path(path), filename)
        return cls(_read(found))

    @classmethod
    def from_name(
        cls, name: str, *, required_keys: Iterable[str] = (), **cloud_only: object
    ) -> Secret:
        """Return the variables that `notebook-ext secret create` has stored, as they are now.

        Args:
            name: that they are stored under.
            required_keys: variables that must be among them.
            cloud_only: `environment_name` selects the profile.

        Raises:
            NotFoundError: nothing is stored under this name, or a variable is missing.
            InvalidError: it is no name.
        """
        from notebook_ext import cloud, secret_store  # noqa: PLC0415  not everybody stores some

        cloud.check("Secret.from_name", cloud_only)
        values = secret_store.load(name)
        missing = [key for key in required_keys if key not in values]
        if missing:
            raise NotFoundError(
                f"the secret {name!r} has no {', '.join(missing)}; it has: {', '.join(values)}"
            )
        return cls(values)

    @property
    def values(self) -> dict[str, str]:
        """The variables."""
        return dict(self._values)

    def __repr__(self) -> str:
        return f"<Secret: {', '.join(self._values) or 'empty'}>"

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"{self!r} does not travel as a value: give it as secrets=[...] and read the variables "
            "from os.environ in the function."
        )


def variables(option: str, given: object) -> dict[str, str]:
    """Return `given` if it can be an environment; messages have names and no values.

    Raises:
        InvalidError: it cannot.
    """
    allowed = "allowed is a dict of names without = to str, neither with a null character."
    if not isinstance(given, Mapping):
        raise InvalidError(f"{option}=<{type(given).__name__}>: {allowed}")
    for name, value in given.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidError(f"{option}={{{name!r}: …}}: {allowed}")
        if not isinstance(value, str) or "\0" in value:
            kind = "str with a null character" if isinstance(value, str) else type(value).__name__
            raise InvalidError(f"{option}={{{name!r}: <{kind}>}}: {allowed}")
    return dict(given)


def _found(path: Path, filename: str) -> Path:
    if path.is_file():
        return path
    for folder in (path.resolve(), *path.resolve().parents):
        if (folder / filename).is_file():
            return folder / filename
    raise NotFoundError(f"there is no {filename} in {path} or above it")


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidError(
            f"{path}: allowed is text in UTF-8; byte {error.start} is none."
        ) from None
    found: dict[str, str] = {}
    at = 0
    while at < len(lines):
        text = lines[at].strip().removeprefix("export ").lstrip()
        at += 1
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InvalidError(
                f"{path}, line {at}: allowed is NAME=value, a comment with # or nothing."
            )
        found[name.strip()], more = _value(value.strip(), lines[at:])
        at += more
    return found


def _value(text: str, below: list[str]) -> tuple[str, int]:
    """Return a value without quotes, or the comment behind it; and over how many lines it goes on.

    Args:
        text: what stands behind the `=`.
        below: the lines that follow, into which what is in quotes may go on.
    """
    quote = _QUOTES.get(text[:1])
    found = quote and quote.match("\n".join((text, *below)))
    if not found:
        return text.split(" #", 1)[0].rstrip(), 0
    inner = found[1]
    if text[0] == '"':
        inner = _ESCAPE.sub(lambda each: _ESCAPED.get(each[1], each[0]), inner)
    return inner, found[1].count("\n")
