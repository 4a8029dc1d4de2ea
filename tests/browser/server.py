"""JupyterLab for a test: dies with the process that started it, reads nobody's configuration.

    python tests/browser/server.py --ServerApp.port=…

`labkit.LabServer` starts it; the environment variables `JUPYTER_*` say where it keeps its files.
"""

from __future__ import annotations

import ctypes
import signal

from jupyterlab.labapp import LabApp

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    LabApp.launch_instance()
