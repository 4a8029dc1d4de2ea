"""What a look found: a line that says how something stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    """What was looked at, in a word or two."""
    grade: Grade
    said: str
    """How it stands."""
    remedy: str = ""
    """What to do, where it is not ok."""


def of_error(check: str, error: Exception) -> Finding:
    """Return the problem that an error of ours tells; its remedy stands behind the semicolon."""
    said, _, remedy = str(error).partition("; ")
    return Finding(check, "problem", said, remedy)


def mib(size_bytes: float) -> str:
    """Return a size for people."""
    size = size_bytes / 2**20
    return f"{size / 1024:.1f} GiB" if size >= 1024 else f"{size:.0f} MiB"  # noqa: PLR2004  units
