"""What a handle holds, and what is kept for how long. Calls are shown in acceptance/api."""

from __future__ import annotations

import copy
import errno
import mmap
import os
import pickle
from pathlib import Path

import pytest

from kernel_worker.errors import SerializationError
from kernel_worker.model import Digest
from kernel_worker.wire import payload
from notebook_ext import companions, stored
from tests.waiting import wait_until


def test_a_block_gives_back_what_was_put() -> None:
    value = {"a": [1, "two"], "b": bytearray(200_000)}
    assert stored.opened(stored.packed(payload.pickled(value))) == value


def test_buffers_are_parts_of_a_writable_block_and_aligned() -> None:
    numpy = pytest.importorskip("numpy")
    content = stored.packed(payload.pickled([numpy.arange(100_000), numpy.ones(50_000)]))
    block = mmap.mmap(-1, len(content))
    block.write(content)
    first, second = stored.opened(block)
    first[0] = 7
    assert stored.opened(block)[0][0] == 7
    assert second.ctypes.data % 64 == first.ctypes.data % 64 == 0
    assert second.sum() == 50_000


def test_whoever_gathers_is_told_of_a_handle() -> None:
    handle = stored.put([1])
    found: companions.Companions = {}
    companions.gathering(found, pickle.dumps, [handle, handle])
    (package,) = found.values()
    digest, content = handle.__stored_object__()
    assert package.is_object
    assert package.objects == {digest: content}


def test_where_nobody_gathers_a_pickled_handle_holds_the_object() -> None:
    inner = stored.put([1])
    assert pickle.loads(pickle.dumps({"a": inner})) == {"a": [1]}
    assert stored.put([inner, 2]).get() == [[1], 2]


def test_calls_that_run_here_get_objects_for_handles() -> None:
    handle, other = stored.put([1]), [stored.put(2)]
    assert stored.objects_of((handle, other), {"x": handle}) == (([1], other), {"x": [1]})
    args, kwargs = (other,), {"x": 1}
    assert stored.objects_of(args, kwargs) == (args, kwargs)


def test_copies_of_a_handle_are_the_handle() -> None:
    handle = stored.put([1])
    assert copy.copy(handle) is copy.deepcopy(handle) is handle
    assert repr(handle).startswith("<put: list, ")


def test_an_object_is_alive_as_long_as_a_handle_of_it() -> None:
    one, two = stored.put("the same"), stored.put("the same")
    digest = one.__stored_object__()[0]
    assert stored.alive[digest] == 2
    del one
    wait_until(lambda: stored.alive[digest] == 1)
    del two
    wait_until(lambda: digest not in stored.alive)


def test_many_objects_leave_few_files_open(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [
        stored.packed(payload.pickled(bytes(size) + number.to_bytes(4, "big")))
        for size in (10, 100_000)
        for number in range(400)
    ]
    monkeypatch.setattr(stored, "_fetched", lambda digest, _label: contents[int(digest)])
    kept = stored._Kept()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number, content in enumerate(contents):
        mapped = kept.mapped(Digest(str(number)), "bytes")
        assert stored.opened(mapped) == stored.opened(content)
        mapped.close()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= stored.KEPT_COUNT


def test_where_no_file_can_be_opened_each_use_costs_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    content = stored.packed(payload.pickled(bytes(200_000)))
    assert stored.opened(stored._Block(content).mapped()) == bytes(200_000)


def test_what_cannot_be_pickled_is_not_put() -> None:
    with pytest.raises(SerializationError, match=r"value\['f'\]"):
        stored.put({"f": (each for each in "")})
