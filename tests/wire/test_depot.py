"""Both ends of a link know what is in the depot without a word about it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.model import Digest
from kernel_worker.wire.depot import LEAST_BYTES, Depot

LIMIT = 10 * LEAST_BYTES


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=60))
def test_what_the_sending_end_believes_to_be_there_is(sent: list[tuple[int, int]]) -> None:
    here, there = Depot(LIMIT), Depot(LIMIT)
    size_of: dict[Digest, int] = {}
    for name, pages in sent:
        digest = Digest(str(name))
        content = bytes(size_of.setdefault(digest, pages * LEAST_BYTES))
        if here.has(digest):
            assert there.get(digest) == content
        else:
            here.put(digest, len(content))
            there.put(digest, len(content), content)
            assert there.get(digest) == (content if 0 < len(content) <= LIMIT else None)
        assert here._sizes == there._sizes
        assert sum(here._sizes.values()) == here._bytes <= LIMIT
        assert there._contents.keys() == there._sizes.keys()


def test_what_is_put_twice_is_there_once() -> None:
    depot = Depot(LIMIT)
    for _ in range(2):
        depot.put(Digest("a"), LEAST_BYTES, b"a")
    assert depot._bytes == LEAST_BYTES
    assert depot.get(Digest("b")) is None
