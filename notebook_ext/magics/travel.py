"""What `%%remote_run --dry-run` shows: which names would travel, what they are and how large.

A row per name, in the order of the cell; below a name that is code, what it reaches of the
notebook's names. Sizes are those of pickles, as they would be sent.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kernel_worker.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import FunctionType

    from notebook_ext.widgets.status import Table

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1000.0


class Row(NamedTuple):
    """One name that goes or comes."""

    name: str
    way: str
    kind: str
    size: str
    note: str = ""


class Report:
    """The table; plain text, or HTML in a notebook."""

    def __init__(
        self,
        sent: Collection[str],
        back: Collection[str],
        reader: Callable[[Collection[str]], FunctionType],
        namespace: Mapping[str, Any],
        session: str | None = None,
    ) -> None:
        """Look at what would travel; nothing is sent.

        Args:
            sent: names that go out.
            back: names that come back.
            reader: gives the function whose code reads names.
            namespace: the notebook's.
            session: that in which the cell would run: it may have some of the names already.
        """
        self.rows = tuple(_rows(sent, back, reader, namespace))
        self._session = session

    def __repr__(self) -> str:
        """Return the table as text."""
        return self._table().as_text()

    def _repr_html_(self) -> str:
        from notebook_ext.widgets.status import framed  # noqa: PLC0415  only where it is shown

        return framed(self._table().as_html())

    def _table(self) -> Table:
        from notebook_ext.widgets.status import Table  # noqa: PLC0415  only where it is shown

        where = "a worker" if self._session is None else f"session {self._session!r}"
        heading = f"Between this notebook and {where}"
        rows = tuple((row.name, row.way, row.kind, row.size, row.note) for row in self.rows)
        return Table(heading, ("name", "goes", "type", "size", ""), rows)


def _rows(
    sent: Collection[str],
    back: Collection[str],
    reader: Callable[[Collection[str]], FunctionType],
    namespace: Mapping[str, Any],
) -> Iterable[Row]:
    seen = dict.fromkeys(sent)
    for name in sent:
        try:
            found = _found(reader([name]))
        except SerializationError as error:
            yield Row(name, "out", _kind(namespace[name]), "-", _short(error))
            continue
        own = found.pop(name, (0, False))
        is_module = isinstance(namespace[name], types.ModuleType)
        size = "by name" if is_module else _size(own[0], code=own[1])
        yield Row(name, "out", _kind(namespace[name]), size)
        for other, (count, code) in found.items():
            if other not in seen:
                seen[other] = None
                kind = _kind(namespace[other]) if other in namespace else ""
                yield Row(other, "out", kind, _size(count, code=code), f"for {name}")
    for name in back:
        yield Row(name, "back", _kind(namespace[name]) if name in namespace else "", "")


def _found(function: FunctionType) -> dict[str, tuple[int, bool]]:
    """Return what the function's code reaches of the notebook's names: bytes, and whether code."""
    from kernel_worker.wire import bundle  # noqa: PLC0415  cloudpickle: 20 ms
    from notebook_ext.capture.reach import Reach  # noqa: PLC0415  likewise

    reach = Reach(function)
    own = reach.namespaces.index(function.__globals__)
    found: dict[str, tuple[int, bool]] = {}
    for place in reach.bindings:
        if place.kind == bundle.GLOBAL and place.owner == own:
            found[place.name] = (0, True)
    for slot, encoded in zip(reach.slots, reach.encoded, strict=True):
        if slot.place.kind == bundle.GLOBAL and slot.place.owner == own:
            found[slot.place.name] = (encoded.nbytes, False)
    return found


def _kind(value: object) -> str:
    return type(value).__qualname__


def _short(error: SerializationError) -> str:
    return str(error).partition("\n")[0]


def _size(count: float, *, code: bool) -> str:
    if code:
        return "code"
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count, unit = count / _STEP, unit + 1
    return f"{count:,.0f} {_UNITS[unit]}" if unit == 0 else f"{count:,.1f} {_UNITS[unit]}"
