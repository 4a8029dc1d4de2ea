"""The definitions of the notebook's classes that travel with their instances, kept up to date.

A class that the receiving function does not reach by name comes with the values that it is sent in:
whatever its methods reach counts, as it does for a function.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from kernel_worker.wire import byvalue
from notebook_ext.capture.local_modules import Found
from notebook_ext.capture.reach import Reach
from notebook_ext.capture.watch import Watch

if TYPE_CHECKING:
    from kernel_worker.wire.byvalue import Definition


_MAX_CLASSES = 128
_NO_MODULES = Found((), (), ())


class _Entry(NamedTuple):
    kind: type
    watch: Watch
    definition: Definition


_known: OrderedDict[int, _Entry] = OrderedDict()
"""By id; an entry holds its class, so that the id is not used twice."""


def current(kind: type) -> Definition:
    """Return the definition of `kind` as it is now; a few microseconds where nothing changed."""
    found = _known.get(id(kind))
    if found is not None and found.watch.is_unchanged():
        return found.definition
    reach = Reach(kind)
    definition = byvalue.define(kind)
    _known[id(kind)] = _Entry(kind, Watch(reach, _NO_MODULES), definition)
    _known.move_to_end(id(kind))
    if len(_known) > _MAX_CLASSES:
        _known.popitem(last=False)
    return definition


byvalue.use_definer(current)
