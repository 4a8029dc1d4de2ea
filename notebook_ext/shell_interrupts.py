"""How IPython shows that a cell was interrupted while our code ran: in one line.

Theory. A signal's handler runs where Python next looks for one, and the entry of a function is such
a place, before its first line and so before any `try` of it. An interrupt that comes between two
calls of the cell is therefore often raised in the `def` line of the second, where nothing of that
function can shorten it (`twin.shortened` does what can be). IPython shows the last frame always.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import OUR_FILES
from notebook_ext.twin import shortened

if TYPE_CHECKING:
    from types import TracebackType


def shorten() -> None:
    """Let the shell, where there is one, show such an interrupt without our frames.

    It has one handler of exceptions for all: one that is there already stays.
    """
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((KeyboardInterrupt,), _show)


def _show(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> None:
    last = traceback
    while last.tb_next is not None:
        last = last.tb_next
    if last.tb_frame.f_code.co_filename.startswith(OUR_FILES):
        shortened(error)
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
