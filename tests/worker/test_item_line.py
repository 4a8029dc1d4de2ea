"""Items that go past the broker: in order, no further ahead, by the broker where they cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kernel_worker.errors import ProtocolError
from kernel_worker.model import CallId, LeaseId, NoValue, Outcome, StreamLimits
from kernel_worker.wire import line as wire_line
from kernel_worker.wire import messages, payload
from kernel_worker.worker.item_line import ItemLine
from notebook_ext.item_line import ItemLine as Reader
from tests.worker.harness import Broker, Worker, define

CALL = CallId("fc-1")
AHEAD = 64

GIVES = """
import os
def f(n, speaks_at=-1, large_at=-1):
    for i in range(n):
        if i == speaks_at:
            print("now", i)
        yield bytes(100_000) if i == large_at else i
"""


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader(CALL)
    yield made
    made.hang_up()


@pytest.fixture
def worker(broker: Broker) -> Worker:
    return broker.start_worker(define(GIVES))


def stream(worker: Worker, reader: Reader, *arguments: object) -> LeaseId:
    limits = StreamLimits(AHEAD, 1 << 24, line=reader.name)
    return worker.lease([arguments], streams=limits, call=CALL)


def told(broker: Broker) -> list[tuple[int, int, bool]]:
    """Return what the broker heard of items: first, behind the last, whether it has them."""
    said = [each for each in broker.received if isinstance(each.message, messages.Yielded)]
    return [
        (each.message.start, each.message.start + each.message.count, bool(each.frames))
        for each in said
    ]


def first(broker: Broker) -> list[object]:
    """Wait for the first batch, which comes by the broker."""
    found = broker.wait(messages.Yielded)
    return items(found.frames)


def items(frames: object) -> list[object]:
    reader = payload.BatchReader(frames)  # type: ignore[arg-type]
    return list(reader.items(0, len(reader)))


def read(reader: Reader, given: list[object]) -> list[object]:
    """Take all that comes by the line, crediting it."""
    assert reader.open()
    while (turn := reader.read()) is not None:
        if turn.frames:
            assert turn.index == len(given)
            given += items(turn.frames)
        reader.credit(len(given), 0)
    return given


def test_all_but_the_first_batch_go_by_the_line(
    broker: Broker, worker: Worker, reader: Reader
) -> None:
    lease = stream(worker, reader, 1000)
    given = first(broker)
    begin = len(given)
    assert read(reader, given) == list(range(1000))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    (_, stop, has_items), *others = told(broker)
    assert (stop, has_items) == (begin, True)
    assert not any(is_here for *_, is_here in others)
    assert [start for start, *_ in others] == [begin, *(stop for _, stop, _ in others)][:-1]
    assert others[-1][1] == 1000, "the broker knows how many there were"


def test_it_waits_for_credit_and_says_so(broker: Broker, worker: Worker, reader: Reader) -> None:
    lease = stream(worker, reader, 1000)
    given = first(broker)
    assert broker.wait(messages.Paused).message.taken == 0
    assert reader.open()
    while (turn := reader.read()) is not None and turn.frames:
        given += items(turn.frames)
    assert len(given) == AHEAD
    assert turn is not None
    assert turn.index == 0, "the reader hears of the pause behind the items"
    assert told(broker)[-1][1] == AHEAD, "so does the broker"
    reader.credit(AHEAD, 0)
    assert read(reader, given) == list(range(1000))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}


def test_credit_of_the_broker_counts_too(broker: Broker, worker: Worker, reader: Reader) -> None:
    lease = stream(worker, reader, 1000)
    broker.wait(messages.Paused)
    broker.send(worker.id, messages.Credit(CALL, 0, 1000, 0, lease))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert told(broker)[-1][1] == 1000


@pytest.mark.parametrize("what", ["speaks", "large"])
def test_from_what_cannot_go_by_the_line_on_all_comes_by_the_broker(
    broker: Broker, worker: Worker, reader: Reader, what: str
) -> None:
    lease = stream(worker, reader, 300, *((200, -1) if what == "speaks" else (-1, 200)))
    given = read(reader, first(broker))
    assert AHEAD <= len(given) <= 200
    broker.send(worker.id, messages.Credit(CALL, 0, 1000, 0, lease))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    heard = [start for start, _, is_here in told(broker) if is_here]
    assert heard[1] == len(given)
    assert told(broker)[-1][1] == 300
    if what == "speaks":
        kinds = [each.message for each in broker.received]
        spoke = next(at for at, one in enumerate(kinds) if isinstance(one, messages.Output))
        behind = next(
            at
            for at, one in enumerate(kinds)
            if isinstance(one, messages.Yielded) and one.start + one.count > 200
        )
        assert spoke < behind


def test_who_hangs_up_gets_the_rest_by_the_broker(
    broker: Broker, worker: Worker, reader: Reader
) -> None:
    lease = stream(worker, reader, 300)
    first(broker)
    assert reader.open()
    reader.hang_up()
    broker.send(worker.id, messages.Credit(CALL, 0, 1000, 0, lease))
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert told(broker)[-1][1] == 300


def test_where_nobody_listens_all_comes_by_the_broker(
    broker: Broker, worker: Worker, reader: Reader
) -> None:
    reader.hang_up()
    lease = stream(worker, reader, 60)
    assert broker.outcomes(lease, 1) == {0: NoValue.ITEMS_GIVEN}
    assert all(is_here for *_, is_here in told(broker))


def test_a_cancel_ends_the_wait_for_credit(broker: Broker, worker: Worker, reader: Reader) -> None:
    lease = stream(worker, reader, 1000)
    broker.wait(messages.Paused)
    worker.tell_host(messages.Interrupt(worker.id, lease, 0, 5.0))
    assert broker.outcomes(lease, 1) == {0: Outcome.CANCELLED}


def test_a_killed_worker_is_the_end_of_its_line(
    broker: Broker, worker: Worker, reader: Reader
) -> None:
    stream(worker, reader, 1000)
    given = first(broker)
    broker.wait(messages.Paused)
    worker.tell_host(messages.KillWorker(worker.id))
    worker.exited()
    assert reader.open()
    while (turn := reader.read()) is not None:
        given += items(turn.frames) if turn.frames else []
    assert given == list(range(AHEAD)), "what it had given is there"


def test_what_is_no_credit_ends_the_line(reader: Reader) -> None:
    end = wire_line.dial(reader.name, CALL)
    assert end is not None
    line = ItemLine(end)
    assert reader.open()
    assert line.credit() is None
    reader.credit(7, 1 << 40)
    assert line.credit() == (7, 1 << 40)
    assert reader._end is not None
    for wrong in (b"\xff", wire_line.encode((1, ())), wire_line.encode((1, (b"a", b"b")))):
        reader._end.send(wrong)
        with pytest.raises(ProtocolError):
            line.credit()
    reader.hang_up()
    with pytest.raises(ConnectionError):
        line.credit()
    assert not line.give(0, payload.dumps(1))
    line.close()


def test_the_dialler_names_its_call() -> None:
    assert ItemLine.dial(f"notebook-ext-{os.urandom(4).hex()}", CALL) is None
    reader = Reader(CALL)
    line = ItemLine.dial(reader.name, "fc-another")
    assert line is not None
    assert not reader.open()
    reader.hang_up()
    line.close()
