"""What is said over a connection that is cut arrives once, in order, and whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import resuming
from kernel_worker.wire.resuming import FRESH, GREETING, Stream

Message = Sequence[bytes | bytearray | memoryview]


class Pair:
    """Two ends and what is on its way between them; `cut` loses it."""

    def __init__(self) -> None:
        self.ends = Stream(7), Stream(7)
        self.ways: tuple[list[Message], list[Message]] = ([], [])
        self.heard: tuple[list[list[bytes]], list[list[bytes]]] = ([], [])

    def say(self, end: int, *frames: bytes) -> None:
        self.ends[end].put(frames)
        self.push(end)

    def push(self, end: int) -> None:
        stream = self.ends[end]
        while (message := stream.next()) is not None:
            self.ways[end].append(message)
            stream.sent()

    def deliver(self, end: int) -> None:
        """Let the oldest message that `end` has sent arrive."""
        if not self.ways[end]:
            return
        first, *rest = map(bytes, self.ways[end].pop(0))
        mark = resuming.decode(first)
        assert mark.stream == 7
        frames = mark.joined(rest)
        if self.ends[1 - end].takes(mark, frames):
            self.heard[1 - end].append([bytes(frame) for frame in frames])
            word = self.ends[1 - end].due_word()
            if word is not None:
                self.ways[1 - end].append([word])

    def cut(self, kept: tuple[int, int] = (0, 0)) -> None:
        """Lose what is under way but for the first ones, and greet on a new connection."""
        for end in (0, 1):
            for _ in range(kept[end]):
                self.deliver(end)
            self.ways[end].clear()
        for end in (0, 1):
            greeting = resuming.decode(self.ends[1 - end].greeting())
            assert greeting.number == GREETING
            self.ends[end].greeted(greeting)
            self.push(end)

    def settle(self) -> None:
        while any(self.ways):
            for end in (0, 1):
                self.deliver(end)


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_whatever_is_cut_everything_arrives_once_and_in_order(seed: int, steps: int) -> None:
    chance, pair = random.Random(seed), Pair()
    numbers = count()
    said: tuple[list[list[bytes]], list[list[bytes]]] = ([], [])
    for _ in range(steps):
        end = chance.randrange(2)
        match chance.choice(("say", "say", "say", "deliver", "deliver", "cut")):
            case "say":
                message = [b"%d" % next(numbers), b"x" * chance.randrange(3)]
                said[end].append(message)
                pair.say(end, *message)
            case "deliver":
                pair.deliver(end)
            case _:
                pair.cut((chance.randrange(3), chance.randrange(3)))
    pair.cut()
    pair.settle()
    assert pair.heard == (said[1], said[0])


def test_what_has_arrived_is_let_go_though_nothing_comes_back() -> None:
    pair = Pair()
    for _ in range(1000):
        pair.say(0, bytes(100))
        pair.deliver(0)
        pair.deliver(1)
    assert pair.ends[0].kept_bytes < 64 * 100
    pair.say(0, bytes(2**20))
    pair.settle()
    assert pair.ends[0].kept_bytes == 0
    assert not pair.ends[0].is_waiting


def test_what_waits_is_known_to() -> None:
    stream = Stream(1)
    assert stream.next() is None
    stream.put([b"one"])
    assert stream.is_waiting
    assert resuming.decode(stream.greeting(fresh=True)).number == FRESH
    assert not Stream(1).takes(resuming.decode(stream.word()), []), "a word is no message"


@pytest.mark.parametrize("sizes", [(0, 1), (25, 3), (10, 20, 0), (9, 11)])
def test_long_frames_come_in_pieces(sizes: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "PIECE_BYTES", 10)
    pair = Pair()
    frames = [bytes(range(size)) for size in sizes]
    pair.say(0, *frames)
    assert all(len(frame) <= 10 for frame in pair.ways[0][0][1:])
    pair.settle()
    assert pair.heard[1] == [frames]


def test_what_is_no_mark_is_said_to_be_none() -> None:
    mark = Stream(1).word()
    for bad in (b"", b"\x91\x01", mark[:-1], mark + b"x", b"x" + mark[1:]):
        with pytest.raises(ProtocolError, match="no mark"):
            resuming.decode(bad)
    with pytest.raises(ProtocolError, match="3 pieces instead of 2"):
        resuming.decode(mark + b"\2\0\0\0").joined([b"1", b"2", b"3"])
