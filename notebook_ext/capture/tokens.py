"""The structural identity of code: bytes that are equal exactly where code does the same.

Line numbers count (tracebacks show them); names of files do not, because those of a notebook's
cells hold the kernel's process id and a hash of the whole cell.
"""

from __future__ import annotations

import hashlib
import re
import struct
import types
import weakref

_CELL_FILE = re.compile(r"[/\\]ipykernel_\d+[/\\]|^<ipython-input-|^<")
_known: dict[int, tuple[weakref.ref[types.CodeType], bytes]] = {}
"""By identity: code that is equal to Python may differ in its columns, which count here."""


def framed(tag: str, *parts: bytes) -> bytes:
    """Return `tag` and `parts` so that no other tag and parts give the same bytes."""
    pieces = [tag.encode(), b"%d" % len(parts)]
    for part in parts:
        pieces.append(b":%d:" % len(part))
        pieces.append(part)
    return b"".join(pieces)


def is_cell(filename: str) -> bool:
    """Say whether this is the name of a cell or the like rather than of a file."""
    return _CELL_FILE.search(filename) is not None


def code(found: types.CodeType) -> bytes:
    """Return the identity of a code object and the code nested in it."""
    number = id(found)
    known = _known.get(number)
    if known is not None and known[0]() is found:
        return known[1]
    digest = hashlib.blake2b(_code_parts(found), digest_size=16).digest()
    _known[number] = (weakref.ref(found, lambda gone: _forget(number, gone)), digest)
    return digest


def _forget(number: int, gone: weakref.ref[types.CodeType]) -> None:
    known = _known.get(number)
    if known is not None and known[0] is gone:
        del _known[number]


def _code_parts(found: types.CodeType) -> bytes:
    numbers = (
        found.co_argcount,
        found.co_posonlyargcount,
        found.co_kwonlyargcount,
        found.co_flags,
        found.co_firstlineno,
    )
    return framed(
        "code",
        found.co_code,
        found.co_linetable,
        found.co_exceptiontable,
        constant(numbers),
        constant((found.co_name, found.co_qualname)),
        constant((found.co_names, found.co_varnames, found.co_freevars, found.co_cellvars)),
        *map(constant, found.co_consts),
    )


def constant(value: object) -> bytes:
    """Return the identity of a constant: a plain value, a container of them, or code."""
    match value:
        case types.CodeType():
            return framed("code", code(value))
        case tuple():
            return framed("tuple", *map(constant, value))
        case frozenset():
            return framed("frozenset", *sorted(map(constant, value)))
        case str():
            return framed("str", value.encode("utf-8", "surrogatepass"))
        case bytes():
            return framed("bytes", value)
        case float():
            return framed("float", struct.pack("<d", value))
        case complex():
            return framed("complex", struct.pack("<dd", value.real, value.imag))
        case slice():
            return framed("slice", *map(constant, (value.start, value.stop, value.step)))
        case bool() | int() | None:
            return framed(type(value).__name__, repr(value).encode())
        case _:
            return framed("other", _type_name(value))


def reference(thing: object) -> bytes:
    """Return the identity of what is found by its name."""
    module = getattr(thing, "__module__", None) or ""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return framed("reference", str(module).encode(), str(name or _type_name(thing)).encode())


def _type_name(value: object) -> bytes:
    return f"{type(value).__module__}.{type(value).__qualname__}".encode()
