"""Whatever bytes come: a message, a batch, a mark … or a `ProtocolError`, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_worker.errors import ProtocolError
from kernel_worker.model import CallId, PoolId, WorkerId
from kernel_worker.wire import display, frames, line, messages, payload, resuming
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from tests.broker.mutation import Said, mutate, mutated_bytes, sound

EXAMPLES = 10_000
SAID = sound("ta-1", PoolId("po-1"))
TOLD: list[Said] = [
    (messages.encode(message), [])
    for message in (
        messages.Welcome("i", "m"),
        messages.Refused("no"),
        messages.Results(CallId("fc-1"), 0, 1, 0),
        messages.Reply(1, msgspec.Raw(b"\x01")),
        messages.StopWorker(WorkerId("ta-1")),
        messages.Credit(CallId("fc-1"), 0, 1, 1),
        messages.CallProgress(CallId("fc-1"), 1, 0, 1),
    )
]
BATCHES = [
    [bytes(frame) for frame in payload.encode_batch(items, form)]
    for items, form in (([1, 2, 3], FORM_VALUE), ([(1,), ("two", [3])], FORM_ARGS))
]
MARK = resuming.Stream(7).greeting()
DECODERS: list[Callable[[bytes], object]] = [
    messages.decode_at_broker,
    messages.decode_at_client,
    messages.decode_at_host,
    messages.decode_at_worker,
    line.decode,
    display.decode,
    resuming.decode,
]
OTHERS = [
    line.encode((1, BATCHES[0])),
    display.encode(display.Display({"text/plain": "x"})),
    MARK,
]


def gone_wrong(chance: random.Random) -> bytes:
    """Return bytes that are nearly something."""
    which = chance.randrange(3)
    if which == 0:
        return mutated_bytes(chance.choice(OTHERS), chance)
    return mutate(SAID if which == 1 else TOLD, chance)[0]


nearly = st.integers(0, 2**64).map(random.Random)


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200) | nearly.map(gone_wrong))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for decode in DECODERS:
        try:
            found = decode(data)
        except ProtocolError:
            continue
        assert found is not None


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES)
@given(nearly, st.integers(0, 5))
def test_any_frames_are_a_batch_or_refused(chance: random.Random, count: int) -> None:
    found = list(chance.choice(BATCHES))
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(found))
        found[at] = mutated_bytes(found[at], chance)
    if chance.random() < 0.2:
        del found[chance.randrange(len(found))]
    try:
        frames.check(found, count)
    except ProtocolError:
        return
    for start in range(count):
        _, part = frames.cut(found, start, count)
        assert part


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES)
@given(nearly, st.lists(st.binary(max_size=20), max_size=5))
def test_any_mark_before_any_frames_is_a_message_or_refused(
    chance: random.Random, behind: list[bytes]
) -> None:
    pieces = [chance.choice((0, 1, 2, 2**32 - 1)) for _ in range(chance.randrange(4))]
    mark = MARK + b"".join(each.to_bytes(4, "little") for each in pieces)
    if chance.random() < 0.5:
        mark = mutated_bytes(mark, chance)
    try:
        joined = resuming.decode(mark).joined(behind)
    except ProtocolError:
        return
    assert b"".join(joined) == b"".join(behind)
