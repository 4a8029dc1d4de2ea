"""What a code object looks up by name: globals and imports, nested code included."""

from __future__ import annotations

import dis
import types
import weakref
from typing import Any, NamedTuple

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_SKIPPED = frozenset({"EXTENDED_ARG", "CACHE"})
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})


class Import(NamedTuple):
    """One import statement."""

    name: str
    level: int
    """Leading dots."""
    members: tuple[str, ...]
    """What is imported from it; may be submodules."""


class Names(NamedTuple):
    """What one code object looks up."""

    reads: tuple[str, ...]
    """Global names that it reads, in order, each once; some may turn out to be builtins."""
    imports: tuple[Import, ...]
    needed: tuple[str, ...] = ()
    """Modules that it imports by their full names whenever it runs: before any branch or `try`."""


_known: weakref.WeakKeyDictionary[types.CodeType, Names] = weakref.WeakKeyDictionary()


def of(code: types.CodeType) -> Names:
    """Return the names that `code` and the code nested in it look up."""
    found = _known.get(code)
    if found is None:
        found = _known[code] = _scan(code)
    return found


def _scan(code: types.CodeType) -> Names:
    reads: dict[str, None] = {}
    imports: dict[Import, None] = {}
    needed: dict[str, None] = {}
    recent: list[object] = [None, None]
    certain_until = _first_try(code)
    for instruction in dis.get_instructions(code):
        if instruction.opname in _SKIPPED:
            continue
        if instruction.opname in _READS:
            reads[instruction.argval] = None
        elif instruction.opname == "IMPORT_NAME":
            found = _import(instruction.argval, *recent)
            imports[found] = None
            if instruction.offset < certain_until and not found.level:
                needed[found.name] = None
        elif instruction.opcode in _JUMPS:
            certain_until = min(certain_until, instruction.offset)
        recent = [recent[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            nested = of(constant)
            reads.update(dict.fromkeys(nested.reads))
            imports.update(dict.fromkeys(nested.imports))
    return Names(tuple(reads), tuple(imports), tuple(needed))


def _first_try(code: types.CodeType) -> float:
    """Return where the first part of `code` begins in which an exception may be caught.

    Of a generator or coroutine that is all of it, from Python 3.12 on.
    """
    entries: list[Any] = getattr(dis.Bytecode(code), "exception_entries")  # noqa: B009  typeshed
    return min((entry.start for entry in entries), default=float("inf"))


def _import(name: str, level: object, members: object) -> Import:
    """Return the import whose level and member list were loaded just before."""
    return Import(
        name,
        level if isinstance(level, int) else 0,
        tuple(m for m in members if m != "*") if isinstance(members, tuple) else (),
    )


def absolute(found: Import, package: str) -> str | None:
    """Return the full name of what is imported, seen from `package`; None if it has none."""
    if not found.level:
        return found.name
    parents = package.split(".")
    if not package or found.level > len(parents):
        return None
    base = ".".join(parents[: len(parents) - found.level + 1])
    return f"{base}.{found.name}" if found.name else base
