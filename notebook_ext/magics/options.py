"""The options of `%%remote`: the decorator's names, written as on a command line.

A line is read like a shell's (quotes, `--name value` and `--name=value`, `# comment`). Whatever
cannot be is a `UsageError`: one line that says what is wrong and what is allowed. Values are
checked by the same code that checks the decorator's.
"""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from IPython.core.error import UsageError

from kernel_worker.errors import Error
from notebook_ext import options as decorator_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Option:
    """One option: how it is written, what it is called in the decorator, how its value reads."""

    flag: str
    name: str
    read: Callable[[str], object]
    example: str
    meaning: str
    values: tuple[str, ...] = ()
    """What Tab offers."""


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


def _flag_value(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError(text) from None


OPTIONS: Final = (
    Option("--gpu", "gpu", _gpu, "any", "any, H200, H200:2, 1, 0.25 or none", ("any", "none")),
    Option("--cpu", "cpu", float, "2", "cores for each worker"),
    Option("--memory", "memory", _memory, "4096", "MiB for each worker, or request,limit"),
    Option("--timeout", "timeout", float, "600", "seconds for each attempt"),
    Option("--startup-timeout", "startup_timeout", float, "60", "seconds for imports"),
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
_BY_FLAG: Final = {option.flag: option for option in OPTIONS}

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
    rows = [(f"{option.flag} {option.example}", option.meaning) for option in OPTIONS]
    width = max(len(left) for left, _ in rows)
    return HELP + "\n".join(f"    {left.ljust(width)}  {right}" for left, right in rows) + "\n"


def parse(line: str) -> RemoteLine:
    """Return what `line` asks for.

    Raises:
        UsageError: an unknown option or a value that cannot be, in one line.
    """
    given: dict[str, Any] = {}
    for flag, value in _pairs(line):
        option = _BY_FLAG[flag]
        if option.name in given:
            raise UsageError(f"%%remote: {flag}: {option.name} is given twice")
        given[option.name] = _read(option, value)
    app = given.pop("app", None)
    try:
        decorator_options.parse(given)
    except Error as error:
        raise UsageError(f"%%remote: {' '.join(str(error).split())}") from error
    return RemoteLine(app, given)


def _pairs(line: str) -> Iterable[tuple[str, str]]:
    words = iter(_words(line))
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in _BY_FLAG:
            raise UsageError(f"%%remote: {_unknown(flag)}")
        if not equals:
            value = next(words, "")
        if not value or (not equals and value in _BY_FLAG):
            raise UsageError(f"%%remote: {flag} needs a value, such as {_example(flag)}")
        yield flag, value


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"%%remote: {str(error).lower()} in {line.strip()!r}") from error


def _read(option: Option, value: str) -> object:
    try:
        return option.read(value)
    except ValueError as error:
        message = f"%%remote: {option.flag} {value}: allowed is {option.meaning}, such as"
        raise UsageError(f"{message} {_example(option.flag)}") from error


def _example(flag: str) -> str:
    return f"{flag} {_BY_FLAG[flag].example}"


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"{word!r} is no option; options start with --, see %%remote?"
    near = difflib.get_close_matches(word.replace("_", "-"), _BY_FLAG, n=1)
    hint = f"did you mean {near[0]}?" if near else "%%remote? lists the options"
    return f"unknown option {word}; {hint}"


def complete(line: str, symbol: str) -> list[str]:
    """Return what Tab offers for `symbol`, the word at the end of `line`."""
    before = line[: len(line) - len(symbol)].split() if symbol else line.split()
    previous = before[-1] if before else ""
    if previous in _BY_FLAG:
        return [value for value in _BY_FLAG[previous].values if value.startswith(symbol)]
    used = {_BY_FLAG[word].name for word in before if word in _BY_FLAG}
    return [
        option.flag
        for option in OPTIONS
        if option.flag.startswith(symbol) and option.name not in used
    ]
