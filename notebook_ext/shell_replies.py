"""Replies of this kernel that lose no request: what ipykernel 7.4 does, for 7.0 to 7.3.

Theory. The shell channel is one ROUTER socket that a `ZMQStream` reads; its file descriptor says
"readable" once, when something new has come. ipykernel 7.0 to 7.3 send their replies past the
stream, on the socket itself: such a send takes in what has come meanwhile, and that was the once.
The stream never hears of a request that arrives in that moment, and the kernel answers nothing
more: a few dozen pairs of requests that overlap are enough (tests/notebook_ext/
test_shell_replies.py). Sent by the stream, which looks again after it has sent, none is lost;
ipykernel's `SubshellManager._send_on_shell_channel` says the same since 7.4.
"""

from __future__ import annotations

from typing import Any


def mend(kernel: Any) -> None:
    """Let the replies of `kernel` go by its stream; harmless where they do or there is none.

    Args:
        kernel: What `get_ipython().kernel` is; None outside a kernel.
    """
    manager: Any = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    stream = getattr(kernel, "shell_stream", None)
    if stream is not None and hasattr(manager, "_shell_socket"):
        manager._shell_socket = stream  # noqa: SLF001  the one place that decides the way
