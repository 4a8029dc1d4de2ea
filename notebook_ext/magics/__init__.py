"""What `%load_ext notebook_ext` adds to IPython: `%%remote`, `%remote_status` and their kin.

`load` and `unload` are all that the extension's entry points call. Loading twice changes nothing.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING

from notebook_ext.magics import cell, lines, watching
from notebook_ext.widgets import settle

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load", "unload"]

_NAMES = {
    "cell": ("remote",),
    "line": (
        "remote_status",
        "remote_calls",
        "remote_cancel",
        "remote_attach",
        "remote_progress",
    ),
}
_warned = False


def load(ipython: InteractiveShell) -> None:
    """Add the magics to `ipython`."""
    unload(ipython)
    ipython.register_magics(lines.RemoteMagics)
    ipython.register_magics(watching.ProgressMagics)
    ipython.input_transformers_cleanup.append(cell.transform_lines)
    ipython.ast_transformers.append(cell.Decorating())
    ipython.Completer.custom_matchers += [lines.complete_remote, lines.complete_subject]
    ipython.events.register("post_run_cell", _settle)
    _warn_of_patched_loop()


def unload(ipython: InteractiveShell) -> None:
    """Take the magics out of `ipython` again."""
    if cell.transform_lines in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.remove(cell.transform_lines)
        ipython.Completer.custom_matchers.remove(lines.complete_remote)
        ipython.Completer.custom_matchers.remove(lines.complete_subject)
        ipython.events.unregister("post_run_cell", _settle)
    transformers = ipython.ast_transformers
    transformers[:] = [each for each in transformers if not isinstance(each, cell.Decorating)]
    for kind, names in _NAMES.items():
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)


def _settle(_result: object) -> None:
    """Let a progress display have its last state before its cell is over."""
    settle()


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
