"""What calls write, on its way through the broker.

A client shows so many lines of a call and no more (`messages.SHOWN_LINES`). So no more are sent to
it: what is beyond is counted, and a flood costs the client a header of some bytes for each 64 KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.broker.calls import OpenCall

Frame = bytes | memoryview


def shown(
    call: OpenCall, message: messages.Output, header: bytes, frames: Sequence[Frame]
) -> tuple[bytes, Sequence[Frame]]:
    """Return what is passed on of something that `call` wrote: all of it, or how much it was."""
    text = frames[0]
    lines = bytes(text).count(b"\n") if message.stream != "display" else 0
    if call.shown_lines > messages.SHOWN_LINES or call.shown_bytes > messages.SHOWN_BYTES:
        message = msgspec.structs.replace(message, withheld=max(lines, 1))
        return messages.encode(message), (b"",)
    call.shown_lines += lines
    call.shown_bytes += len(text)
    return header, frames
