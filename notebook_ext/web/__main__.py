"""The process that serves deployed endpoints, and its keeper; see `deployed`."""

from __future__ import annotations

import os

if os.fork():
    os._exit(0)

from notebook_ext.web import keeping

keeping.keep()

from notebook_ext.web import deployed  # noqa: E402  what keeps it does without

deployed.main()
