"""Which keys of a `Dict` are one: bytes that are equal where the keys are.

Theory. The broker compares bytes and reads nothing. So what stands for a key is made here, by what
Python's own dict goes by: `==` and the hash. Numbers that are equal have one encoding (`1`, `1.0`,
`True`, `Decimal(1)`), so have a str and a str's subclass that is equal to it, tuples and named
tuples, frozensets in whatever order. Any other hashable object is encoded as its type's name and
what it pickles to, without what a pickle has by chance: which parts are one object, the order of
sets, where a class was imported from.

Guarantees: equal in these ways in one process means equal in all, of any start of Python.
Not guaranteed: for objects of other types, that what they call equal is one key: their pickled
state decides. (An `object()` is equal to itself alone, and all of them are one key here.) A NaN is
one key with every other NaN.
"""

from __future__ import annotations

import io
import operator
import pickle
import types
from typing import Any

_NUMBER, _TEXT, _BYTES, _TUPLE, _SET, _OTHER = b"n", b"s", b"b", b"(", b"{", b"p"
_PROTOCOL = 4
_PLAIN: tuple[type[Any], ...] = (str, bytes, tuple, frozenset)


def encoded(key: object) -> bytes:
    """Return what stands for a key.

    Raises:
        TypeError: it is not hashable, or cannot be pickled.
    """
    if type(key) is str:
        return _TEXT + key.encode("utf-8", "surrogatepass")
    if type(key) is int:
        return b"n%b/1" % _digits(key)
    hash(key)
    return _encoded(key)


def _encoded(key: Any) -> bytes:
    if key is None:
        return b"0"
    number = _number(key)
    if number is not None:
        return _NUMBER + number
    for kind in _PLAIN:
        if isinstance(key, kind):
            plain = kind.__str__(key) if kind is str else kind(key)
            if hash(plain) == hash(key) and plain == key:
                return _plain(plain)
    return _OTHER + _pickled(key)


def _plain(key: Any) -> bytes:
    if isinstance(key, str):
        return _TEXT + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return _BYTES + key
    parts = [_encoded(part) for part in key]
    if isinstance(key, tuple):
        return _TUPLE + _joined(parts)
    return _SET + _joined(sorted(parts))


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def _number(key: Any) -> bytes | None:
    """Return the digits of a number, by its exact value; None where it is none."""
    if isinstance(key, complex):
        if key.imag:
            return b"%b+%bj" % (_number(key.real) or b"", _number(key.imag) or b"")
        key = key.real
    if isinstance(key, int):
        return b"%b/1" % _digits(key)
    if hasattr(key, "as_integer_ratio"):  # a float, a Decimal, a Fraction, a float of NumPy
        try:
            return b"/".join(map(_digits, key.as_integer_ratio()))
        except (OverflowError, ValueError):  # it is infinite, or no number
            return repr(float(key)).encode()
    if hasattr(type(key), "__index__") and hash(key) == hash(operator.index(key)):
        return b"%d/1" % operator.index(key)
    return None


def _digits(number: int) -> bytes:
    """Return a whole number; in base 16 where Python refuses to write it in base 10."""
    try:
        return b"%d" % number
    except ValueError:
        return b"%#x" % number


class _Pickler(pickle._Pickler):  # noqa: SLF001  the one that asks about every part
    """Writes what an object is, and not how it came to be."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.fast = True

    def persistent_id(self, part: Any) -> Any:
        """Return what stands for a part that a pickle would write in more than one way."""
        if isinstance(part, type | types.FunctionType | types.BuiltinFunctionType):
            return f"{part.__module__}.{part.__qualname__}"
        if type(part) in {set, frozenset}:
            return _joined(sorted(_encoded(each) for each in part))
        return None


def _pickled(key: object) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file).dump(key)
    except RecursionError as error:
        message = f"a {type(key).__qualname__} that holds itself cannot be a key"
        raise TypeError(message) from error
    except Exception as error:
        message = f"a {type(key).__qualname__} cannot be a key of a Dict: {error}"
        raise TypeError(message) from error
    return file.getvalue()
