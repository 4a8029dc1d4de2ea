"""Typing cells that are expected to succeed, and reading what they show."""

from __future__ import annotations

import ast
from typing import Any

from tests.plain_kernel import Cell, PlainKernel
from tests.waiting import wait_until


def typed(kernel: PlainKernel, source: str, timeout: float = 30.0) -> Cell:
    """Execute one cell and return it; an exception in it fails the test.

    A cell that hangs is interrupted, so that the test fails with its traceback and leaves the
    kernel usable for the next one.
    """
    cell = kernel.begin(source)
    try:
        kernel.finish(cell, timeout)
    except AssertionError:
        kernel.interrupt()
        kernel.finish(cell, 5.0)
    assert cell.error is None, cell.error.traceback
    return cell


def value(kernel: PlainKernel, source: str, timeout: float = 30.0) -> Any:
    """Return the literal that the cell's last expression shows."""
    cell = typed(kernel, source, timeout)
    assert cell.result is not None, f"the cell shows nothing: {source}"
    return ast.literal_eval(cell.result)


def begun(kernel: PlainKernel, source: str, word: str = "started") -> Cell:
    """Execute one cell and return it running, as soon as it has printed `word`."""
    cell = kernel.begin(source)
    until_printed(kernel, cell, word)
    return cell


def until_printed(
    kernel: PlainKernel, cell: Cell, word: str, seconds: float = 20.0, stream: str = "stdout"
) -> None:
    """Wait until the cell has shown `word`, whether it runs or has ended."""

    def seen() -> bool:
        while word not in getattr(cell, stream) and kernel.listen(0.02):
            pass
        return word in getattr(cell, stream)

    wait_until(seen, seconds, f"{word!r} below the cell, which shows {cell}")
