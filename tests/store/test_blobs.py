"""Payloads whose buffers lie in a store: written once, mapped by all, freed with the last."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernel_worker.errors import DeserializationError
from kernel_worker.store import blobs, segments
from kernel_worker.store.blobs import Accounts, Content
from kernel_worker.wire import frames, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE

ARRAY = np.arange(100_000, dtype=np.float64)


def at_once(thing: object, then: Callable[[], object]) -> None:
    weakref.finalize(thing, then)


@pytest.fixture
def accounts(directory: str, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """Return those of the client."""
    monkeypatch.setattr(blobs, "_WAITING", 1)
    return Accounts(directory, at_once)


def sent(parts: list[frames.Frame]) -> list[bytes]:
    return [bytes(part) for part in parts]


def taken_names(directory: str) -> list[str]:
    gc.collect()
    return [entry.name for entry in segments.entries(directory) if not entry.is_free]


def test_an_array_goes_there_and_back_without_being_written_twice(
    directory: str, accounts: Accounts
) -> None:
    asked = payload.encode_batch([(ARRAY, 1)], FORM_ARGS, accounts.keep)
    assert frames.check(asked, 1).stored
    assert sum(map(len, asked)) < 1_000
    assert frames.plain_bytes(asked) > ARRAY.nbytes
    # in the worker
    given_there: Any = payload.BatchReader(blobs.found(directory, sent(asked)))[0]
    array, one = given_there
    del given_there
    assert (one, array.flags.writeable) == (1, True)
    keep = blobs.keep_in(directory)
    given = sent(payload.encode_batch([array], FORM_VALUE, keep))
    assert given[2] == asked[2]
    array[5] = -1.0
    changed = sent(payload.encode_batch([array], FORM_VALUE, keep))
    assert changed[2] != asked[2]
    del array
    # in the client
    results, others = accounts.taken(given), accounts.taken(changed)
    assert len(taken_names(directory)) == 2
    value, other = payload.loads(results), payload.loads(others)
    assert (value == ARRAY).all()
    assert other[5] == -1.0  # type: ignore[index]
    again = payload.encode_batch([(value,)], FORM_ARGS, accounts.keep)
    assert again[2] == asked[2]
    del asked, results, others, other
    assert taken_names(directory) == [frames.place_of(again[2]).name]
    del again
    assert len(taken_names(directory)) == 1, "the array is there still"
    del value
    assert taken_names(directory) == []


def test_each_access_gives_a_buffer_of_its_own(directory: str, accounts: Accounts) -> None:
    reader = payload.BatchReader(payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep))
    first, second = reader[0], reader[0]
    first[0] = 99  # type: ignore[index]
    assert second[0] == 0  # type: ignore[index]


def test_what_is_small_goes_with_the_message(accounts: Accounts) -> None:
    assert not frames.is_stored(payload.encode_batch([ARRAY[:9_000]], FORM_VALUE, accounts.keep))


def test_without_room_it_goes_with_the_message(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "write", lambda *_: None)
    parts = payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep)
    assert not frames.is_stored(parts)
    assert (payload.loads(parts) == ARRAY).all()


def test_what_was_given_up_is_not_there_any_more(directory: str, accounts: Accounts) -> None:
    parts = sent(payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep))
    gc.collect()
    with pytest.raises(DeserializationError, match="800,000 bytes is not there any more"):
        payload.loads(blobs.found(directory, parts))
    with pytest.raises(DeserializationError, match="nobody has looked into"):
        payload.loads(parts)
    with pytest.raises(DeserializationError, match="nobody has looked into"):
        blobs.brought(parts)


def test_a_batch_is_brought_for_those_who_cannot_look_there(
    directory: str, accounts: Accounts
) -> None:
    parts = payload.encode_batch([ARRAY, [1]], FORM_VALUE, accounts.keep)
    brought = blobs.brought(parts)
    assert not frames.is_stored(brought)
    assert (payload.BatchReader(brought)[0] == ARRAY).all()
    assert blobs.brought(brought) is brought


def test_a_batch_may_have_buffers_of_both_kinds(directory: str, accounts: Accounts) -> None:
    small = ARRAY[:9_000]
    parts = payload.encode_batch([ARRAY, small], FORM_VALUE, accounts.keep)
    assert frames.check(parts, 2).stored
    for found in (parts, blobs.found(directory, sent(parts)), blobs.brought(parts)):
        reader = payload.BatchReader(found)
        assert (reader[0] == ARRAY).all()
        assert (reader[1] == small).all()


def test_an_object_is_read_many_times_and_lasts_with_its_content(
    directory: str, accounts: Accounts
) -> None:
    small = ARRAY[:9_000]
    given = {"table": ARRAY, "small": small}
    parts = payload.encode_batch([given], FORM_VALUE, accounts.keep)
    content = Content.of(parts)
    del parts
    assert blobs.is_content(content)
    reader = payload.BatchReader(blobs.opened(directory, bytes(content)))
    first, second = reader[0], reader[0]
    first["table"][0] = 5  # type: ignore[index]
    assert (second["table"] == ARRAY).all()  # type: ignore[index]
    assert len(taken_names(directory)) == 1
    del content
    assert taken_names(directory) == []
    assert (second["table"] == ARRAY).all()  # type: ignore[index]


@pytest.mark.parametrize("rest", [b"", b"\x91\xc4\x01a", b"\xff"])
def test_what_is_no_object_is_refused(directory: str, rest: bytes) -> None:
    with pytest.raises(DeserializationError):
        blobs.opened(directory, b"\xc1nbo" + rest)


def test_the_account_of_a_segment_is_one(directory: str, accounts: Accounts) -> None:
    parts = payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep)
    twice = accounts.taken(sent(parts))
    assert isinstance(parts[2], blobs.Blob)
    assert isinstance(twice[2], blobs.Blob)
    assert twice[2].segment is parts[2].segment


def test_many_that_are_freed_are_trimmed(
    directory: str, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_KEPT_PART", 1 << 60)
    kept = [payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep) for _ in range(8)]
    del kept
    gc.collect()
    assert segments.entries(directory) == []


def test_there_is_no_place_without_a_store() -> None:
    assert blobs.keep_in("") is None


def test_small_segments_wait_to_be_freed_until_they_are_some_or_there_is_something_new(
    directory: str,
) -> None:
    accounts = Accounts(directory, at_once)
    del_me = payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep)
    del del_me
    assert len(taken_names(directory)) == 1
    accounts.taken([])
    assert taken_names(directory) == []
    many = [payload.encode_batch([ARRAY], FORM_VALUE, accounts.keep) for _ in range(40)]
    del many
    assert len(taken_names(directory)) < 20
    large = payload.encode_batch([np.zeros(1_000_000)], FORM_VALUE, accounts.keep)
    del large
    assert taken_names(directory) == []


def test_what_nobody_accounts_for_is_freed_once_no_call_is_open(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_idle = False
    accounts = Accounts(directory, at_once, lambda: is_idle)
    keep = blobs.keep_in(directory)
    lost = payload.encode_batch([ARRAY], FORM_VALUE, keep)  # by a worker, whose word was dropped
    kept = payload.encode_batch([(ARRAY, 1)], FORM_ARGS, accounts.keep)
    accounts.free_lost()
    assert len(taken_names(directory)) == 2, "its result may be on its way"
    is_idle = True
    monkeypatch.setattr(blobs, "_LOST_SECONDS", -1.0)
    other = payload.encode_batch([(ARRAY + 1, 1)], FORM_ARGS, accounts.keep)
    places = [frames.place_of(batch[2]) for batch in (kept, other)]
    assert sorted(taken_names(directory)) == sorted(place.name for place in places)
    with pytest.raises(DeserializationError):
        payload.BatchReader(blobs.found(directory, sent(lost)))[0]
    found: Any = payload.BatchReader(kept)[0]
    assert (found[0] == ARRAY).all()


def test_what_another_thread_is_writing_is_not_taken_for_lost(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Accounts(directory, at_once, lambda: True)
    write = segments.write

    def written(*arguments: Any) -> Any:
        places = write(*arguments)
        accounts.free_lost()
        return places

    monkeypatch.setattr(segments, "write", written)
    batch = payload.encode_batch([(ARRAY, 1)], FORM_ARGS, accounts.keep)
    assert taken_names(directory) == [frames.place_of(batch[2]).name]
