"""A widget that a cell of a real kernel shows, and what a page hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.plain_kernel import Cell, PlainKernel
from tests.waiting import PATIENCE
from tests.widget_page import WidgetPage

WIDGET = "application/vnd.jupyter.widget-view+json"


class Shown:
    """The one widget of a cell on a page: what that hears."""

    def __init__(self, kernel: PlainKernel, cell: Cell) -> None:
        self.kernel = kernel
        self.page = WidgetPage(kernel, subshell=True)
        self.cell = cell
        self.until(lambda: any(WIDGET in each for each in cell.displays), "it is shown")
        (shown,) = [each for each in cell.displays if WIDGET in each]
        self.caption = shown["text/plain"]
        self.comm = shown[WIDGET]["model_id"]

    def heard(self, op: str) -> list[dict[str, Any]]:
        """Return the messages of one kind that the page has heard."""
        contents = [m["content"] for m in self.kernel.heard if m["msg_type"] == "comm_msg"]
        ours = [c["data"] for c in contents if c["comm_id"] == self.comm]
        customs = [data["content"] for data in ours if data["method"] == "custom"]
        return [content for content in customs if content["op"] == op]

    def until(self, condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        """Listen until something is so."""
        end = time.monotonic() + seconds * PATIENCE
        while not condition():
            assert self.kernel.listen(end - time.monotonic()), what

    def said(self, trait: str) -> list[Any]:
        """Return the values of a trait that the page has heard of."""
        contents = [m["content"] for m in self.kernel.heard if m["msg_type"] == "comm_msg"]
        ours = [c["data"] for c in contents if c["comm_id"] == self.comm]
        states = [data["state"] for data in ours if data["method"] == "update"]
        return [state[trait] for state in states if trait in state]
