"""What a code object looks up by name: globals and imports, nested code included."""

from __future__ import annotations

import dis
import types
import weakref
from typing import NamedTuple

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_SKIPPED = frozenset({"EXTENDED_ARG", "CACHE"})


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
    recent: list[object] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname in _SKIPPED:
            continue
        if instruction.opname in _READS:
            reads[instruction.argval] = None
        elif instruction.opname == "IMPORT_NAME":
            imports[_import(instruction.argval, *recent)] = None
        recent = [recent[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            nested = of(constant)
            reads.update(dict.fromkeys(nested.reads))
            imports.update(dict.fromkeys(nested.imports))
    return Names(tuple(reads), tuple(imports))


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
