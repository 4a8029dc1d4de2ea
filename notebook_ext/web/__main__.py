"""The process that serves deployed endpoints; see `deployed`."""

from __future__ import annotations

import os

if os.fork():
    os._exit(0)

from notebook_ext.web import deployed

deployed.main()
