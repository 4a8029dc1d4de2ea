"""What stands for `%%remote`, `%%remote_run` and `%%remote_spawn` where IPython asks for a magic.

A typed cell never comes here (see `cell` and `running`); `%%remote?` does, and so does a program
that calls `run_cell_magic`.
"""

from __future__ import annotations

from typing import Any

from IPython import get_ipython

from notebook_ext.magics import options, run_options


def remote(line: str, cell: str) -> Any:  # noqa: D103  the help is below
    return _typed("remote", line, cell)


def remote_run(line: str, cell: str) -> Any:  # noqa: D103  likewise
    return _typed("remote_run", line, cell)


def remote_spawn(line: str, cell: str) -> Any:  # noqa: D103  likewise
    return _typed("remote_spawn", line, cell)


def _typed(magic: str, line: str, cell: str) -> Any:
    shell: Any = get_ipython()
    result = shell.run_cell(f"%%{magic} {line}\n{cell}", store_history=False)
    result.raise_error()


remote.__doc__ = options.help_text()
remote_run.__doc__ = run_options.help_text("remote_run")
remote_spawn.__doc__ = run_options.help_text("remote_spawn")
