"""Messages wait for their large frames, nobody else waits, and each peer hears in order."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kernel_worker.broker import freight as freights
from kernel_worker.broker.bulk import DOWN, UP, Exchange
from kernel_worker.broker.freight import GRACE_SECONDS, KEPT_SECONDS, Freight
from kernel_worker.broker.watches import Timers, Watches
from kernel_worker.errors import ProtocolError
from kernel_worker.store import segments
from kernel_worker.wire import bulk

BIG = b"b" * bulk.LARGE_BYTES
Message = list[bytes]


class End:
    """One end of a link, whose blobs go by hand."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.now = 100.0
        self.timers = Timers()
        self.watches = Watches()
        self.exchange = Exchange(bytes(16), bytes(32))
        self.freight = Freight(
            self.exchange, self._forward, self.watches, self.timers, lambda: self.now
        )

    def _forward(self, message: Sequence[bytes | memoryview]) -> None:
        self.said.append([bytes(frame) for frame in message])

    def hears(self, *news: int | str) -> None:
        for each in news:
            if isinstance(each, int):
                self.exchange.take(bulk.Head(bulk.ARRIVED, each, 0, 0))
            else:
                self.exchange._tell(each)
        self.watches.dispatch()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.timers.run(self.now)

    def blobs(self) -> dict[int, bytes]:
        """Return what is under way."""
        return {at: bytes(each.view) for at, each in self.exchange._sending._blobs.items()}

    def close(self) -> None:
        self.freight.close()
        self.watches.close()


@pytest.fixture
def end() -> Iterator[End]:
    made = End()
    made.hears(UP)
    yield made
    made.close()


@pytest.fixture
def other(end: End) -> Iterator[Callable[[Message], list[bytes]]]:
    """The other end: gives what it makes of a message; it has all blobs that were sent."""
    made = End()

    def unpack(message: Message) -> list[bytes]:
        whole, _ = made.freight.unpacked(list(message))
        return [bytes(frame) for frame in whole]

    def arrive(blob: int) -> None:
        for number, content in end.blobs().items():
            if number == blob:
                receiving = made.exchange._receiving
                receiving.begin(blob, len(content))
                head = bulk.Head(bulk.DATA, blob, 0, len(content))
                place = receiving.place(head)
                assert place is not None
                place[: len(content)] = content
                assert receiving.filled(head)
        end.hears(blob)

    unpack.arrive = arrive  # type: ignore[attr-defined]
    unpack.end = made  # type: ignore[attr-defined]
    yield unpack
    made.close()


def test_who_waits_is_the_one_peer_alone(end: End, other: Callable[[Message], Message]) -> None:
    first, second = [b"ta-1", b"lease", BIG, b"more"], [b"ta-1", b"next"]
    end.freight.put(first)
    end.freight.put(second)
    end.freight.put([b"ta-2", b"small"])
    assert end.said == [[b"ta-2", b"small"]]
    assert end.freight.is_waiting(b"ta-1")
    assert end.freight.held_bytes == sum(map(len, first + second))
    other.arrive(1)  # type: ignore[attr-defined]
    assert end.freight.held_bytes == 0
    assert not end.freight.is_waiting(b"ta-1")
    assert sum(map(len, end.said[1])) < 100
    assert [other(message) for message in end.said[1:]] == [first, second]
    assert other.end.exchange._receiving.have() == b"", "nothing stays"  # type: ignore[attr-defined]


def test_another_lane_than_ones_own(end: End) -> None:
    end.freight.put([b"ta-1", b"done", BIG])
    end.freight.put([b"ho-1", b"ta-1 has ended"], b"ta-1")
    end.freight.put([b"ho-1", b"something else"])
    assert end.said == [[b"ho-1", b"something else"]]
    end.hears(1)
    assert [message[0] for message in end.said[1:]] == [b"\0ta-1", b"ho-1"]


def test_what_has_a_key_goes_once(end: End, other: Callable[[Message], Message]) -> None:
    messages = [[b"ta-%d" % at, b"object", BIG] for at in range(3)]
    end.freight.put(messages[0], key="k")
    end.freight.put(messages[1], key="k")
    assert list(end.blobs()) == [1]
    other.arrive(1)  # type: ignore[attr-defined]
    end.freight.put(messages[2], key="k")
    assert end.blobs() == {}
    assert [other(message) for message in end.said] == messages
    end.passes(KEPT_SECONDS)
    assert other(end.said.pop()) == []
    assert other.end.exchange._receiving.have() == b""  # type: ignore[attr-defined]
    end.freight.put(messages[0], key="k")
    assert list(end.blobs()) == [2], "it was let go"


def test_a_buffer_of_a_store_goes_once(end: End, tmp_path: Path) -> None:
    size = segments.MAPPED_BYTES
    places = segments.write(str(tmp_path), [memoryview(bytes(size)), memoryview(b"x" * size)])
    assert places is not None
    for place in (places[0], places[1], places[0]):
        buffer = segments.fetch(str(tmp_path), place)
        assert isinstance(buffer, mmap.mmap)
        end.freight.put([b"ta-1", b"lease", memoryview(buffer)])
    assert len(end.blobs()) == 2
    end.hears(1, 2)
    assert len(end.said) == 3


def test_there_is_a_limit_to_what_is_kept(
    end: End, other: Callable[[Message], Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freights, "KEPT_BYTES", 2 * len(BIG))
    messages = [[b"ta-1", b"object", bytes([at]) * len(BIG)] for at in range(4)]
    for at, message in enumerate(messages):
        end.freight.put(message, key=at)
        other.arrive(at + 1)  # type: ignore[attr-defined]
        assert other(end.said[-1]) == message
    assert set(bulk.had(other.end.exchange._receiving.have())) == {3, 4}  # type: ignore[attr-defined]
    end.freight.put([b"ta-1", b"too large to keep", 3 * BIG], key="large")
    other.arrive(5)  # type: ignore[attr-defined]
    other(end.said[-1])
    assert set(bulk.had(other.end.exchange._receiving.have())) == {3, 4}  # type: ignore[attr-defined]


def test_what_waits_for_who_is_gone_is_dropped(end: End) -> None:
    end.freight.put([b"ta-1", b"lease", BIG])
    end.freight.put([b"ta-1", b"shared", BIG], key="k")
    end.freight.put([b"ta-2", b"shared", BIG], key="k")
    end.freight.forget(b"ta-1")
    end.freight.forget(b"ta-3")
    assert list(end.blobs()) == [2], "somebody else waits for that"
    end.hears(1, 2)
    assert [message[0] for message in end.said] == [b"\0ta-2"]
    assert end.freight.held_bytes == 0


def test_what_has_arrived_for_who_is_gone_is_let_go(
    end: End, other: Callable[[Message], Message]
) -> None:
    end.freight.put([b"ta-1", b"lease", BIG, BIG])
    other.arrive(1)  # type: ignore[attr-defined]
    end.freight.forget(b"ta-1")
    end.freight.put([b"ta-2", b"next", BIG])
    other.arrive(3)  # type: ignore[attr-defined]
    other(end.said[-1])
    assert set(bulk.had(other.end.exchange._receiving.have())) == set()  # type: ignore[attr-defined]


def test_without_a_connection_messages_go_as_they_are(end: End) -> None:
    end.hears(DOWN)
    message, marked = [b"ta-1", b"lease", BIG], [b"ta-1", b"object", BIG]
    end.freight.put(message)
    end.freight.put(marked, key="k")
    end.passes(GRACE_SECONDS / 2)
    assert not end.said
    end.passes(GRACE_SECONDS / 2)
    whole = [end.freight.unpacked(list(each)) for each in end.said]
    assert whole == [(message, False), (marked, True)]
    assert end.freight.held_bytes == 0
    assert end.blobs() == {}
    end.freight.put(message)
    end.freight.put(marked, key="k")
    assert end.said[2:] == end.said[:2], "at once"
    end.hears(UP)
    end.freight.put(message)
    assert len(end.said) == 4, "the connection is there again"


def test_a_connection_that_comes_in_time_is_waited_for(end: End) -> None:
    end.hears(DOWN)
    end.freight.put([b"ta-1", b"lease", BIG])
    end.hears(UP)
    end.passes(GRACE_SECONDS)
    assert not end.said


def test_one_that_is_cut_again_and_again_is_not_waited_for(end: End) -> None:
    end.freight.put([b"ta-1", b"lease", BIG])
    for _ in range(4):
        end.hears(DOWN, UP)
    assert not end.said
    end.hears(DOWN)
    assert end.said == [[b"ta-1", b"lease", BIG]]


def test_what_names_nothing_is_refused(end: End) -> None:
    manifest = bulk.Manifest(((2, 9),)).encode()
    for strange in ([b"\0ta-1"], [b"\0ta-1", b"?"], [b"\0ta-1", manifest, b"lease"]):
        with pytest.raises(ProtocolError):
            end.freight.unpacked(list(strange))
