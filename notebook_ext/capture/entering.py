"""What the hooks of a class read: an instance is made and entered again only where that changes.

Theory. The hooks (`__init__` and `enter`) are walked as functions are, with the methods and class
attributes that they name; the class itself is not walked into, or a value that only another method
reads would count. Code needs no look here: it is in the version.

Not guaranteed: a method that is reached through `getattr(self, name)` counts only if some hook
names it.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from kernel_worker.model import Digest, digest_of
from notebook_ext.capture import tokens
from notebook_ext.capture.reach import Reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class _HookReach(Reach):
    """A walk that does not go into some classes."""

    def __init__(self, root: Any, closed: tuple[type, ...]) -> None:
        """Walk from `root`, but not into the classes `closed`."""
        self._closed = closed
        super().__init__(root)

    def _visit_class(self, number: int, kind: type) -> None:
        if kind not in self._closed:
            super()._visit_class(number, kind)


def read_by(kind: type, hooks: Iterable[str]) -> Digest:
    """Return what differs when a value that these methods of `kind` read is another one.

    Raises:
        SerializationError: such a value cannot be pickled.
    """
    members = {name: value for owner in reversed(kind.__mro__) for name, value in _own(owner)}
    found = {name: members[name] for name in hooks if name in members}
    while True:
        reach = _HookReach(tuple(sorted(found.items(), key=_first)), kind.__mro__)
        functions = [item for item in reach.items if isinstance(item, types.FunctionType)]
        named = {name for function in functions for name in _names(function.__code__)}
        more = {name: members[name] for name in named if name in members and name not in found}
        if not more:
            break
        found.update(more)
    parts: list[bytes] = []
    for slot, encoded in zip(reach.slots, reach.encoded, strict=True):
        place = tokens.constant((slot.place.kind, slot.place.owner, slot.place.name))
        parts += [place, encoded.data, *encoded.buffer_digests]
    return digest_of(*parts)


def _own(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield what a class defines that its users wrote."""
    if owner is object:
        return
    for name, value in vars(owner).items():
        if not name.startswith("__") or isinstance(value, types.FunctionType):
            yield name, value


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
