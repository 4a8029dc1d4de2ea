"""Directories of one's own for a run of a notebook: nothing of it is left, nothing of yours is met.

Paths are short, because the address of a unix socket has 107 bytes at most.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "nbx-"


def variables(base: Path) -> dict[str, str]:
    """Return the environment in which we, IPython and Jupyter keep all files below `base`."""
    jupyter = base / "jupyter"
    (jupyter / "runtime").mkdir(parents=True, exist_ok=True)
    return {
        "NOTEBOOK_EXT_RUNTIME_DIR": f"{base}/r",
        "NOTEBOOK_EXT_DATA_DIR": f"{base}/d",
        "NOTEBOOK_EXT_DEVICE_LOCKS": f"{base}/locks",
        "IPYTHONDIR": f"{base}/ipython",
        "JUPYTER_CONFIG_DIR": f"{jupyter}/config",
        "JUPYTER_DATA_DIR": f"{jupyter}/data",
        "JUPYTER_RUNTIME_DIR": f"{jupyter}/runtime",
        "XDG_CACHE_HOME": f"{base}/cache",  # IPython's completion keeps one
        "MPLCONFIGDIR": f"{base}/matplotlib",
    }


def stop_broker() -> None:
    """Stop the broker of this process's environment, if there is one, with all that it started."""
    command = [sys.executable, "-m", "notebook_ext.cli", "broker", "stop"]
    subprocess.run(command, check=False, capture_output=True, timeout=60)


@contextmanager
def own_directories() -> Iterator[Path]:
    """Move this process and what it starts into directories that go away at the end."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as base:
        os.environ |= variables(Path(base))
        try:
            yield Path(base)
        finally:
            stop_broker()
