"""Arguments on their way out: of one input, and those that all inputs of a call share."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

from kernel_worker.errors import SerializationError
from kernel_worker.model import Digest, digest_of
from kernel_worker.store.blobs import Content
from kernel_worker.wire import frames as wire_frames
from kernel_worker.wire import payload
from notebook_ext.config import current

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.payload import Keep

_ALWAYS_SENT_BYTES = 1024 * 1024
"""No setting forbids so little."""


def encoded(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], keep: Keep | None = None
) -> list[Frame]:
    """Return the batch of one input; `keep` is where its large buffers may go instead.

    Raises:
        SerializationError: an argument cannot travel; the message has the path to the culprit.
    """
    if kwargs:
        return payload.encode_batch([(args, kwargs)], wire_frames.FORM_CALL, keep)
    return payload.encode_batch([args], wire_frames.FORM_ARGS, keep)


def plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Frame] | None:
    """Return what `encoded` does where that is a matter of a microsecond, as it mostly is.

    None where something else than numbers and text may be among the arguments, or they are large.
    """
    if not kwargs and set(map(type, args)) <= payload.PLAIN_TYPES:
        data = pickle.dumps([args], 5)
        if len(data) < _ALWAYS_SENT_BYTES:
            return [wire_frames.ONE_HEADERS[wire_frames.FORM_ARGS], data]
    return None


def copied(frames: Sequence[Frame]) -> list[Frame]:
    """Return frames that do not change when the caller's arrays do."""
    return [frame if isinstance(frame, bytes) else bytes(frame) for frame in frames]


def weighed(name: str, frames: list[Frame], count: int = 1) -> list[Frame]:
    """Return the batch of `count` inputs of `name`.

    Raises:
        RequestSizeError: it is larger than what is sent at once.
    """
    size = sum(map(len, frames))
    if size > _ALWAYS_SENT_BYTES:
        limit = current().max_request_mib << 20
        if size > limit:
            what = "the arguments" if count == 1 else f"the {count:,} inputs together"
            raise payload.too_large(f"{name}: {what}", size, limit)
    return frames


def shared_object(
    shared: Mapping[str, Any], keep: Keep | None = None
) -> tuple[Digest, dict[Digest, bytes]]:
    """Return the object that holds the arguments which all inputs of a call share.

    Args:
        shared: the arguments.
        keep: where large buffers may go instead.
    """
    if not shared:
        return Digest(""), {}
    data = _with_buffers(dict(shared), keep) if keep is not None else _one_pickle(dict(shared))
    digest = digest_of(data)
    return digest, {digest: data}


def _with_buffers(shared: dict[str, Any], keep: Keep) -> bytes:
    """Return `shared` as one pickle, with its buffers or with the places where they are."""
    try:
        frames = payload.encode_batch([shared], wire_frames.FORM_VALUE, keep)
    except SerializationError:
        return _one_pickle(shared)  # which names the culprit as the caller knows it
    if wire_frames.is_stored(frames):
        return Content.of(frames)
    return _one_pickle(shared) if frames[2:] else bytes(frames[1])


def _one_pickle(shared: dict[str, Any]) -> bytes:
    """Return `shared` as one pickle, buffers and all: it is sent once."""
    try:
        data = pickle.dumps(shared, 5)
        if b"__main__" not in data:
            return data
    except Exception:  # noqa: BLE001, S110  the other way has a good message
        pass
    import cloudpickle  # noqa: PLC0415  rarely needed here

    payload.pickled(shared, "kwargs")  # raises with the path to the culprit
    return cast("bytes", cloudpickle.dumps(shared, 5))
