"""The type of the fixture `typed`."""

from collections.abc import Callable
from typing import Any

Typed = Callable[[str], Any]
"""Runs a cell as a user does and returns what its last line is worth; a failure raises."""
