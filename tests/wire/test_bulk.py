"""Blobs arrive whole and once, over however many connections; what was touched is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import bulk
from kernel_worker.wire.bulk import CHUNK_BYTES, SLACK_BYTES, Head, Receiving, Seal, Sending

SECRET, NONCES = bytes(range(32)), bytes(64)
BIG = bytes(CHUNK_BYTES) + b"the rest"


def pair() -> tuple[Seal, Seal]:
    return Seal(SECRET, NONCES, up=True), Seal(SECRET, NONCES, up=True)


def opened(seal: Seal, head: bytes, sealed: bytes) -> bytes:
    """Return a record's body."""
    room = memoryview(bytearray(CHUNK_BYTES + SLACK_BYTES))
    seal.open(head, memoryview(sealed), room)
    return bytes(room[: bulk.head_of(head).size_bytes])


def filled(receiving: Receiving, blob: int, at: int, chunk: bulk.Frame) -> bool:
    """Put a chunk where it belongs; return whether its blob is whole."""
    head = Head(bulk.DATA, blob, at, len(chunk))
    place = receiving.place(head)
    if place is not None:
        place[: len(chunk)] = chunk
        assert len(place) == len(chunk) + SLACK_BYTES
    return receiving.filled(head)


def moved(sending: Sending, receiving: Receiving, most: int = 1000) -> list[int]:
    """Pass records on, so many at most; return the blobs that are whole now."""
    whole = []
    for _ in range(most):
        record = sending.next()
        if record is None:
            break
        kind, blob, number, body = record
        if kind == bulk.BEGIN:
            receiving.begin(blob, number)
        elif kind == bulk.DROP:
            receiving.drop(blob)
        elif filled(receiving, blob, number, body):
            whole.append(blob)
    return whole


def test_records_are_opened_in_order_by_who_knows_the_secret() -> None:
    seal, opens = pair()
    records = [seal.seal(bulk.DATA, 7, at, b"chunk") for at in range(3)]
    for at, (head, sealed) in enumerate(records):
        assert bulk.head_of(head) == (bulk.DATA, 7, at, len(b"chunk"))
        assert opened(opens, head, sealed) == b"chunk"


@pytest.mark.parametrize(
    ("secret", "nonces", "up"),
    [(bytes(32), NONCES, True), (SECRET, b"x" * 64, True), (SECRET, NONCES, False)],
    ids=["secret", "connection", "direction"],
)
def test_another_secret_connection_or_direction_opens_nothing(
    secret: bytes, nonces: bytes, up: bool
) -> None:
    record = pair()[0].seal(bulk.HAVE)
    with pytest.raises(ProtocolError, match="changed on its way"):
        opened(Seal(secret, nonces, up=up), *record)


def test_what_was_repeated_left_out_or_exchanged_is_refused() -> None:
    for order in ([0, 0], [1], [1, 0]):
        seal, opens = pair()
        records = [seal.seal(bulk.DATA, 1, at, b"chunk") for at in range(2)]
        with pytest.raises(ProtocolError):
            for at in order:
                opened(opens, *records[at])


@given(st.integers(0, 20 + 16 + 5), st.integers(1, 255))
def test_any_byte_that_is_changed_is_refused(at: int, change: int) -> None:
    seal, opens = pair()
    head, sealed = map(bytearray, seal.seal(bulk.DATA, 1, 2, b"chunk"))
    part, at = (head, at) if at < len(head) else (sealed, at - len(head))
    part[at] ^= change
    with pytest.raises(ProtocolError):
        opened(opens, bytes(head), bytes(sealed))


def test_what_is_no_greeting_head_or_list_is_refused() -> None:
    said = bulk.greeting(bytes(16), b"n" * 32)
    assert bulk.greeted(said) == (bytes(16), b"n" * 32)
    for strange in (said[:-1], b"x" + said[1:]):
        with pytest.raises(ProtocolError, match="no greeting"):
            bulk.greeted(strange)
    for size in (15, CHUNK_BYTES + 17):
        with pytest.raises(ProtocolError, match="a record of"):
            bulk.head_of(size.to_bytes(4, "little") + bytes(bulk.HEAD_BYTES - 4))
    with pytest.raises(ProtocolError, match="in no known way"):
        bulk.had(b"x")


def test_a_manifest_is_what_it_was() -> None:
    manifest = bulk.Manifest(((2, 7), (3, 8)), (5,))
    assert bulk.manifest(manifest.encode()) == manifest
    with pytest.raises(ProtocolError, match="no manifest"):
        bulk.manifest(b"\xc1")


def test_blobs_take_turns_and_arrive_whole() -> None:
    sending, receiving = Sending(), Receiving(1e9)
    contents: dict[int, bulk.Frame] = {
        1: BIG,
        2: bytearray(b"small"),
        3: memoryview(BIG[5:]),
    }
    for blob, content in contents.items():
        sending.add(blob, content)
    assert moved(sending, receiving) == [2, 1, 3]
    for blob, content in contents.items():
        assert receiving.get(blob) == content
        assert sending.arrived(blob)
        assert not sending.arrived(blob)
        receiving.drop(blob)
    assert receiving.have() == b""


@given(st.lists(st.integers(0, 8), max_size=6))
def test_blobs_go_on_where_they_were_however_often_it_is_cut(moves: list[int]) -> None:
    sending, receiving = Sending(), Receiving(1e9)
    contents = {blob: bytes([blob]) * (64 * blob - 5) for blob in range(1, 4)}
    for blob, content in contents.items():
        sending.add(blob, content)
    whole: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "CHUNK_BYTES", 64)
        for most in [*moves, 1000]:
            assert sending.connected(bulk.had(receiving.have())) == sorted(whole)
            whole += moved(sending, receiving, most)
    assert sorted(whole) == [1, 2, 3], "each is whole once"
    assert all(receiving.get(blob) == content for blob, content in contents.items())


def test_what_is_not_wanted_is_dropped_there_too() -> None:
    sending, receiving = Sending(), Receiving(1e9)
    for blob in (1, 2):
        sending.add(blob, BIG)
    moved(sending, receiving, 3)
    sending.drop(1)
    assert moved(sending, receiving) == [2]
    with pytest.raises(ProtocolError, match="is not here"):
        receiving.get(1)
    sending.drop(2)
    assert not filled(receiving, 1, 0, b"late")
    assert sending.connected(bulk.had(receiving.have())) == [], "the word for it was lost"
    moved(sending, receiving)
    assert receiving.have() == b""
    receiving.drop(2)


def test_a_word_goes_before_the_next_chunk() -> None:
    sending = Sending()
    sending.add(1, BIG)
    sending.say(bulk.ARRIVED, 9)
    assert sending.next() == (bulk.ARRIVED, 9, 0, b"")
    assert sending.next() == (bulk.BEGIN, 1, len(BIG), b"")


def test_what_does_not_fit_is_refused() -> None:
    receiving = Receiving(100)
    receiving.begin(1, 60)
    for blob, size in ((2, 41), (1, 10), (3, 0)):
        with pytest.raises(ProtocolError, match="no room"):
            receiving.begin(blob, size)
    with pytest.raises(ProtocolError, match="is not here"):
        receiving.get(1)
    for at, chunk in ((1, b"x"), (0, bytes(61)), (0, bytes(75))):
        with pytest.raises(ProtocolError, match="not the next"):
            filled(receiving, 1, at, chunk)
    receiving.drop(1)
    receiving.begin(2, 100)
