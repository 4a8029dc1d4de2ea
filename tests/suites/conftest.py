"""A session of the test process itself, as the client's own tests have."""

from __future__ import annotations

from tests.notebook_ext.conftest import live

__all__ = ["live"]
