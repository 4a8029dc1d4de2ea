"""A rich display on the wire: what a display publisher was given, as msgpack.

Values are what MIME bundles hold: text, bytes, and JSON. What cannot be written so (a bundle may
hold anything) is left out, MIME type by MIME type, and numbers of numpy become plain ones.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kernel_worker.errors import ProtocolError


class Display(msgspec.Struct, frozen=True, array_like=True):
    """One display, an update of one, or the wish to clear the output."""

    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    transient: dict[str, Any] = {}
    update: bool = False
    clear: bool = False
    wait: bool = False
    """Where `clear`: only once something new comes."""


_decoder = msgspec.msgpack.Decoder(Display)


def encode(display: Display) -> bytes:
    """Return the bytes of a display."""
    try:
        return msgspec.msgpack.encode(display, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError):
        fields = {
            name: {key: value for key, value in getattr(display, name).items() if _fits(value)}
            for name in ("data", "metadata", "transient")
        }
        return msgspec.msgpack.encode(msgspec.structs.replace(display, **fields), enc_hook=_plain)


def decode(data: bytes) -> Display:
    """Return the display that `encode` wrote.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        message = f"no display: {error}"
        raise ProtocolError(message) from error


def _fits(value: object) -> bool:
    try:
        msgspec.msgpack.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _plain(value: Any) -> Any:
    """Return a number or an array of numpy, or what behaves like one, as plain values."""
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        message = f"{type(value).__name__} cannot be displayed elsewhere"
        raise TypeError(message)
    return tolist()
