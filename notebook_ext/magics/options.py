"""The options of a magic, written as on a command line; those of `%%remote` are the decorator's.

A line is read like a shell's (quotes, `--name value` and `--name=value`, `# comment`). Whatever
cannot be is a `UsageError`: one line that says what is wrong and what is allowed. Values are
checked by the same code that checks the decorator's.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from IPython import get_ipython
from IPython.core.error import UsageError

from kernel_worker.errors import Error
from notebook_ext import options as decorator_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Option:
    """One option: how it is written, what it is called in the decorator, how its value reads."""

    flag: str
    name: str
    read: Callable[[str], object]
    example: str
    """A value; empty for a switch, which has none."""
    meaning: str
    values: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    """What Tab offers."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The options that one magic takes."""

    magic: str
    options: tuple[Option, ...]

    def read(self, line: str) -> dict[str, Any]:
        """Return the values that `line` gives, by the options' names.

        Raises:
            UsageError: an unknown option or a value that cannot be, in one line.
        """
        given: dict[str, Any] = {}
        for option, flag, value in self._pairs(line):
            if option.name in given:
                raise self.error(f"{flag}: {option.name} is given twice")
            given[option.name] = self._value(option, value)
        return given

    def error(self, message: str) -> UsageError:
        """Return an error of this magic, in one line."""
        return UsageError(f"{self.magic}: {' '.join(message.split())}")

    def as_typed(self, message: str, line: str, given: dict[str, Any]) -> str:
        """Return a message about decorator options, `given` by `line`, in the words of `line`."""
        typed = {option.name: (flag, value) for option, flag, value in self._pairs(line)}
        for option in self.options:
            flag, value = typed.get(option.name, (option.flag, ""))
            if option.name in given:
                spelled = re.escape(f"{option.name}={given[option.name]!r}")
                both = f"{flag} {value}".replace("\\", r"\\")
                message = re.sub(rf"\b{spelled}(?!\w)", both, message)
            message = re.sub(rf"\b{option.name}=", f"{flag} ", message)
        return message

    def help(self) -> str:
        """Return the options, a line each."""
        rows = [(f"{each.flag} {each.example}".rstrip(), each.meaning) for each in self.options]
        width = max(len(left) for left, _ in rows)
        return "\n".join(f"    {left.ljust(width)}  {right}" for left, right in rows) + "\n"

    def complete(self, line: str, symbol: str) -> list[str]:
        """Return what Tab offers for `symbol`, the word at the end of `line`."""
        before = line[: len(line) - len(symbol)].split() if symbol else line.split()
        known = self._known()
        previous = known.get(before[-1]) if before else None
        if previous is not None and previous.example:
            values = previous.values if isinstance(previous.values, tuple) else previous.values()
            return [value for value in values if value.startswith(symbol)]
        flags = (word.partition("=")[0] for word in before)
        used = {known[flag].name for flag in flags if flag in known}
        return [
            option.flag
            for option in self.options
            if option.flag.startswith(symbol) and option.name not in used
        ]

    def _known(self) -> dict[str, Option]:
        return {option.flag: option for option in self.options}

    def _pairs(self, line: str) -> Iterator[tuple[Option, str, str]]:
        known = self._known()
        words = iter(self._words(line))
        for word in words:
            flag, equals, value = word.partition("=")
            option = known.get(flag)
            if option is None:
                raise self.error(self._unknown(flag))
            if not option.example:
                if equals:
                    raise self.error(f"{flag} takes no value")
            elif not equals:
                value = next(words, "")
            if option.example and ((not value and not equals) or (not equals and value in known)):
                raise self.error(f"{flag} needs a value, such as {flag} {option.example}")
            yield option, flag, value

    def _words(self, line: str) -> list[str]:
        try:
            return shlex.split(line, comments=True)
        except ValueError as error:
            raise self.error(f"{str(error).lower()} in {line.strip()!r}") from error

    def _value(self, option: Option, value: str) -> object:
        try:
            return option.read(value)
        except ValueError as error:
            raise self.error(
                f"{option.flag} {value}: allowed is {option.meaning}, such as {option.flag} "
                f"{option.example}"
            ) from error

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word!r} is no option; options start with --, see {self.magic}?"
        near = difflib.get_close_matches(word.replace("_", "-"), self._known(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"{self.magic}? lists the options"
        return f"unknown option {word}; {hint}"


@dataclass(frozen=True, slots=True)
class RemoteLine:
    """What stands behind `%%remote`."""

    app: str | None
    """The name of the app, or None for the notebook's own."""
    given: dict[str, Any]
    """The decorator's options, by their names there."""


def _gpu(text: str) -> object:
    lowered = text.lower()
    if lowered == "none":
        return None
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return lowered if lowered == "any" else text


def _memory(text: str) -> object:
    parts = [int(part) for part in text.split(",")]
    return parts[0] if len(parts) == 1 else tuple(parts)


def _image(text: str) -> object:
    """Return the image that the notebook has under a name."""
    found = _images().get(text)
    if found is None:
        raise ValueError(text)
    return found


def _images() -> dict[str, object]:
    """Return the images that are variables of the notebook."""
    shell = get_ipython()
    room = sys.modules.get("notebook_ext.image")
    if shell is None or room is None:
        return {}
    return {name: v for name, v in shell.user_ns.items() if isinstance(v, room.Image)}


def _flag_value(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


OF_ONE_RUN: Final = (
    Option("--gpu", "gpu", _gpu, "any", "any, H200, H200:2, 1, 0.25 or none", ("any", "none")),
    Option("--cpu", "cpu", float, "2", "cores for each worker"),
    Option("--memory", "memory", _memory, "4096", "MiB for each worker, or request,limit"),
    Option("--timeout", "timeout", float, "600", "seconds for each attempt"),
    Option("--startup-timeout", "startup_timeout", float, "60", "seconds for imports"),
    Option("--image", "image", _image, "name", "a variable that holds an nb.Image", _images),
)
"""Options that also a single run of a cell has."""
OPTIONS: Final = (
    *OF_ONE_RUN,
    Option("--retries", "retries", int, "3", "how often a failed input is tried again"),
    Option("--min-containers", "min_containers", int, "1", "workers kept warm"),
    Option("--keep-warm", "min_containers", int, "1", "the same as --min-containers"),
    Option("--max-containers", "max_containers", int, "4", "the most workers"),
    Option("--buffer-containers", "buffer_containers", int, "1", "spare workers while active"),
    Option("--scaledown-window", "scaledown_window", float, "60", "idle seconds before one stops"),
    Option("--rerun-on-crash", "rerun_on_crash", _flag_value, "no", "yes or no", ("yes", "no")),
    Option("--app", "app", str, "demo", "the app that the functions belong to"),
    Option("--name", "name", str, "score", "the function's name, where the cell has one"),
)
REMOTE: Final = Grammar("%%remote", OPTIONS)

HELP: Final = """Run the functions that this cell defines on workers.

Every top-level `def` and `async def` of the cell becomes a remote Function with the options given
here; the rest of the cell runs in the notebook as usual.

    %%remote --cpu 2 --retries 3 --keep-warm 2
    def score(x):
        return x * x

    list(score.map(range(100)))

Options, as in @app.function:

"""


def help_text() -> str:
    """Return what `%%remote?` shows."""
    return HELP + REMOTE.help()


def parse(line: str) -> RemoteLine:
    """Return what `line` asks for.

    Raises:
        UsageError: an unknown option or a value that cannot be, in one line.
    """
    given = REMOTE.read(line)
    app = given.pop("app", None)
    checked(REMOTE, line, given)
    return RemoteLine(app, given)


def checked(grammar: Grammar, line: str, given: dict[str, Any]) -> None:
    """Raise a `UsageError` for values of `line` that the decorator does not take."""
    try:
        decorator_options.parse(given)
    except Error as error:
        raise grammar.error(grammar.as_typed(str(error), line, given)) from error
