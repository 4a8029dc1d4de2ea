"""Cells of one session: `%%remote_run --session NAME` in the worker that keeps its names.

Theory. The process is the session. What a cell needs from the notebook comes with its call, as code
and values that are put into the namespace of the session; a name that the notebook has not changed
since it was last sent keeps what the cells have made of it.

Guarantees: nothing runs where the names of earlier cells are gone: that is an `InternalFailure`.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InternalFailure
from kernel_worker.worker import cells, interrupts
from kernel_worker.worker.binding import Binding, Standing

if TYPE_CHECKING:
    from kernel_worker.wire.cell import CellResult, SessionCell


@dataclass(slots=True)
class _Kept:
    """The namespace of this process's session."""

    standing: Standing | None = None


_kept = _Kept()


def run(call: SessionCell) -> CellResult:
    """Run a cell in the namespace of the session.

    Raises:
        InternalFailure: this process does not have it.
        Exception: as `cells.run`.
    """
    if call.begins and _kept.standing is None:
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        _kept.standing = Standing(vars(main))
    interrupts.see_through(sys._getframe(1).f_code)  # noqa: SLF001  what this call is the function of
    standing = _kept.standing
    if standing is None:
        raise InternalFailure(
            f"session {call.name!r}: the worker that kept its names is gone, and they with it. "
            "Nothing ran; the next cell of the session begins with an empty namespace."
        )
    standing.kept = frozenset(call.kept)
    names: dict[str, Any] = standing.namespace
    Binding.load(call.code, as_main=False, into=standing).bind(call.snapshot)
    return cells.run(call.cell, names)
