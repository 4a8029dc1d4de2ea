"""What a page with widgets sends to a kernel and hears from it: messages only, no browser."""

from __future__ import annotations

import queue
import time
from typing import Any

from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE


class WidgetPage:
    """One page on a kernel.

    Args:
        kernel: The kernel.
        subshell: Whether comm messages name a subshell, as those of JupyterLab do, or none, as
            those of other front ends.
    """

    def __init__(self, kernel: PlainKernel, *, subshell: bool = False) -> None:
        self._kernel = kernel
        self._client = kernel._client
        self._subshell = self._control("create_subshell_request") if subshell else None

    def send(self, comm_id: str, data: dict[str, Any]) -> str:
        """Send `data` to a comm; return the message's id."""
        return self._send("comm_msg", {"comm_id": comm_id, "data": data})

    def click(self, comm_id: str, **content: Any) -> str:
        """Send a widget's custom message, as its buttons do."""
        return self.send(comm_id, {"method": "custom", "content": content})

    def state(self, comm_id: str, seconds: float = 5.0) -> dict[str, Any] | None:
        """Ask for a widget's state, as a reloaded page does; None where no answer comes in time."""
        asked = self.send(comm_id, {"method": "request_state"})
        found = self._hear(asked, "comm_msg", seconds)
        state: dict[str, Any] | None = found["content"]["data"]["state"] if found else None
        return state

    def saw_busy_and_idle(self, message_id: str, seconds: float = 5.0) -> bool:
        """Return whether the kernel was busy with that message and was done with it in time."""
        end = time.monotonic() + seconds * PATIENCE
        while (states := self._states(message_id)) != ["busy", "idle"]:
            if not self._kernel.listen(end - time.monotonic()):
                return states == ["busy", "idle"]
        return True

    def ask(self, kind: str, content: dict[str, Any], seconds: float = 5.0) -> Any:
        """Return the content of the reply to a request; None where none comes in time."""
        asked = self._send(kind, content)
        end = time.monotonic() + seconds * PATIENCE
        while True:
            try:
                reply = self._client.get_shell_msg(timeout=max(end - time.monotonic(), 0.0))
            except queue.Empty:
                return None
            if reply["parent_header"]["msg_id"] == asked:
                return reply["content"]

    def _send(self, kind: str, content: dict[str, Any]) -> str:
        message = self._client.session.msg(kind, content)
        if self._subshell is not None and kind.startswith("comm_msg"):
            message["header"]["subshell_id"] = self._subshell
        self._client.shell_channel.send(message)
        sent: str = message["header"]["msg_id"]
        return sent

    def _hear(self, asked: str, kind: str, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds * PATIENCE
        while True:
            for message in self._answers(asked):
                if message["msg_type"] == kind:
                    return message
            if not self._kernel.listen(end - time.monotonic()):
                return None

    def _states(self, asked: str) -> list[str]:
        answers = self._answers(asked)
        return [m["content"]["execution_state"] for m in answers if m["msg_type"] == "status"]

    def _answers(self, asked: str) -> list[dict[str, Any]]:
        return [m for m in self._kernel.heard if m["parent_header"].get("msg_id") == asked]

    def _control(self, kind: str) -> str:
        channel = self._client.control_channel
        channel.send(self._client.session.msg(kind, {}))
        reply = channel.get_msg(timeout=10 * PATIENCE)
        subshell: str = reply["content"]["subshell_id"]
        return subshell
