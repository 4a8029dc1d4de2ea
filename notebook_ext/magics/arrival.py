"""Names that cells have left on workers, arriving in the notebook.

Wherever the result of a cell is had (`%%remote_run`, `fc.get()` of a spawned one, `gather`, the
exception of one that failed), its names come into the namespace of the notebook that asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython import get_ipython

from kernel_worker.wire.cell import NoLast

if TYPE_CHECKING:
    from kernel_worker.wire.cell import Packed


def bring(packed: Packed) -> Any:
    """Put the names of a result into the notebook; return the value of its last expression."""
    from kernel_worker.wire import leaving  # noqa: PLC0415  cloudpickle: 20 ms

    shell = get_ipython()
    if shell is None:
        return leaving.as_object(packed)
    names, last = leaving.unpack(packed, shell.user_ns)
    shell.user_ns.update(names)
    for name in packed.gone:
        shell.user_ns.pop(name, None)
    return None if last is NoLast else last
