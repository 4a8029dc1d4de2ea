"""The inputs of a spawned call: all of them at once, pulled from the user's iterables and packed.

Theory. The broker keeps a spawned call whole until it has ended, and in its journal, so there are
limits to it: `MOST_INPUTS`, and what may be sent at once (setting `max_request_mib`). Iterables
that can be cut say how many they are. Others are pulled in chunks, which grow while they are small,
and weighed as they come, so that one that never ends is refused, instead of filling the memory.

Plain inputs for more than `_LARGE` batches go out in several: a worker reads those that it needs.
"""

from __future__ import annotations

import itertools
import reprlib
from functools import partial
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import RequestSizeError, SerializationError
from kernel_worker.wire import frames as wire_frames
from kernel_worker.wire import payload
from kernel_worker.wire.messages import MOST_INPUTS
from notebook_ext.config import current
from notebook_ext.feed import BATCH_BYTES, BATCH_COUNT, can_be_cut, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kernel_worker.wire.frames import Frame

_LARGE = 4
_ABOUT = 2
"""What is not pickled yet may be so much smaller than it is said to be."""


def batched(
    title: str, sources: Sequence[Iterable[Any]]
) -> tuple[int, list[Frame], tuple[int, ...]]:
    """Return how many inputs iterables give, and their frames.

    And where these are several batches, how many inputs are in each.

    Args:
        title: what is called, for people: `f.spawn_map`.
        sources: one for each positional argument.

    Raises:
        SerializationError: an input cannot travel; a note says which one that is.
        RequestSizeError: they are more than a spawned call may have.
    """
    __tracebackhide__ = True
    if can_be_cut(sources):
        count, columns = cut(sources, 0, MOST_INPUTS + 1)
        _check_count(title, count)
        by_argument = _in_parts(count, partial(_cut_batch, columns))
        if by_argument is not None:
            return count, *by_argument
    inputs, writer = _pulled(title, sources)
    if len(inputs) > _LARGE * BATCH_COUNT:
        in_parts = _in_parts(len(inputs), partial(_whole_batch, inputs))
        if in_parts is not None:
            return len(inputs), *in_parts
    return *writer.take(len(inputs)), ()


def _pulled(
    title: str, sources: Sequence[Iterable[Any]]
) -> tuple[list[tuple[Any, ...]], payload.BatchWriter]:
    """Return the inputs, as they are and as they travel."""
    __tracebackhide__ = True
    limit = current().max_request_mib << 20
    writer = payload.BatchWriter(wire_frames.FORM_ARGS)
    inputs: list[tuple[Any, ...]] = []
    given, size = zip(*sources, strict=False), 1
    while chunk := list(itertools.islice(given, size)):
        inputs += chunk
        try:
            writer.extend(chunk)
        except SerializationError as error:
            at = len(writer)
            error.add_note(f"in input {at:,} of {title}: {_shown(inputs[at])}")
            raise
        _check_count(title, len(inputs))
        if writer.pending_bytes > _ABOUT * limit:
            what = f"{title}: the first {len(inputs):,} inputs together"
            raise payload.too_large(what, writer.pending_bytes, limit)
        mean = max(writer.pending_bytes / len(inputs), 1.0)
        size = max(1, min(size * 4, BATCH_COUNT, int(BATCH_BYTES / mean)))
    return inputs, writer


def _check_count(title: str, count: int) -> None:
    __tracebackhide__ = True
    if count > MOST_INPUTS:
        raise RequestSizeError(
            f"{title} was given more than {MOST_INPUTS:,} inputs; the broker keeps all that a "
            "spawned call has, and of one call no more. Spawn several calls, or give each input "
            "more to do; map and for_each take inputs as workers need them, and any number."
        )


def _shown(arguments: tuple[Any, ...]) -> str:
    """Return a few words of an input."""
    return reprlib.repr(arguments[0] if len(arguments) == 1 else arguments)


def _in_parts(
    count: int, batch: Callable[[int, int], list[Frame] | None]
) -> tuple[list[Frame], tuple[int, ...]] | None:
    """Return the frames of batches, one where they are few; None where one cannot be whole."""
    size = BATCH_COUNT if count > _LARGE * BATCH_COUNT else max(1, count)
    found: list[Frame] = []
    for start in range(0, count, size):
        frames = batch(start, start + size)
        if frames is None:
            return None  # the broker cuts these where it wants to
        found += frames
    counts = [min(size, count - start) for start in range(0, count, size)]
    return found, tuple(counts) if len(counts) > 1 else ()


def _cut_batch(columns: Sequence[Any], start: int, stop: int) -> list[Frame] | None:
    return payload.encode_columns([column[start:stop] for column in columns])


def _whole_batch(inputs: Sequence[Any], start: int, stop: int) -> list[Frame] | None:
    frames = payload.encode_batch(inputs[start:stop], wire_frames.FORM_ARGS)
    return frames if wire_frames.header(frames).whole else None
