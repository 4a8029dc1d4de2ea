"""What `%load_ext notebook_ext` adds to IPython: the magics that `table` lists.

`load` and `unload` are all that the extension's entry points call. Loading twice changes nothing;
loading starts nothing, and imports no widget.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING

from kernel_worker.wire import cell as wire_cell
from notebook_ext import shell_replies
from notebook_ext.magics import arrival, cell, completion, running, table

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load", "unload"]

_warned = False


def load(ipython: InteractiveShell) -> None:
    """Add the magics to `ipython`."""
    unload(ipython)
    register = ipython.magics_manager.register_function
    for each in table.LINES:
        register(each.run, "line", each.name)
    for whole in table.CELLS:
        register(whole.run, "cell", whole.name)
    ipython.input_transformers_cleanup.extend([cell.transform_lines, running.transform_lines])
    ipython.ast_transformers.extend([cell.Decorating(), running.Keeping()])
    ipython.Completer.custom_matchers.append(completion.complete)
    ipython.events.register("post_run_cell", _settle)
    wire_cell.receive_with(arrival.bring)
    shell_replies.mend(getattr(ipython, "kernel", None))
    _warn_of_patched_loop()


def unload(ipython: InteractiveShell) -> None:
    """Take the magics out of `ipython` again."""
    if cell.transform_lines in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.remove(cell.transform_lines)
        ipython.input_transformers_cleanup.remove(running.transform_lines)
        ipython.Completer.custom_matchers.remove(completion.complete)
        ipython.events.unregister("post_run_cell", _settle)
        wire_cell.receive_with(None)
    transformers = ipython.ast_transformers
    ours = cell.Decorating | running.Keeping
    transformers[:] = [each for each in transformers if not isinstance(each, ours)]
    magics = ipython.magics_manager.magics
    for each in table.LINES:
        magics["line"].pop(each.name, None)
    for whole in table.CELLS:
        magics["cell"].pop(whole.name, None)


def _settle(_result: object) -> None:
    """Let a progress display have its last state before its cell is over."""
    widgets = sys.modules.get("notebook_ext.widgets")
    if widgets is not None:
        widgets.settle()


def _warn_of_patched_loop() -> None:
    """Say once that nest_asyncio 1.x has patched the loop: ipykernel 7 then loses cells."""
    global _warned  # noqa: PLW0603  once a process
    patched = hasattr(asyncio, "_nest_patched") and not hasattr(asyncio, "_nest_asyncio2")
    if not patched or _warned:
        return
    _warned = True
    warnings.warn(
        "nest_asyncio has patched asyncio; with ipykernel 7 and later, cells that wait behind an "
        "asyncio.run() are then never run. Remote functions do not need it: leave "
        "nest_asyncio.apply() out and restart the kernel, or use nest_asyncio2.",
        UserWarning,
        stacklevel=4,
    )
