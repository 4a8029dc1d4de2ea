from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

import notebook_ext as nb
from kernel_worker import records, traces
from kernel_worker.model import CallId, Outcome, WorkerId
from kernel_worker.traces import CallTrace
from kernel_worker.wire.messages import EventPage
from notebook_ext.event_stream import LATE_SECONDS, SOON_SECONDS, CallEvent, _Reading
from notebook_ext.exception import InvalidError, NotFoundError
from tests.waiting import wait_until

CALL = CallId("fc-1")


@pytest.fixture
def mixed(live: nb.App) -> nb.Function[..., int]:
    @live.function(retries=nb.Retries(max_retries=1, initial_delay=0.0))
    def mixed(x: int) -> int:
        if x == 2:
            raise ValueError(x)
        return x

    return mixed


def ended(events: list[CallEvent]) -> dict[int, str]:
    """Return how each input ended; each once."""
    found: dict[int, str] = {}
    for event in events:
        if event.kind in ("succeeded", "failed", "cancelled", "timed_out", "lost", "init_failed"):
            for index in range(event.start, event.stop):
                assert index not in found
                found[index] = event.kind
    return found


def check(events: list[CallEvent], count: int) -> None:
    """Check what holds of every stream of a call whose third input fails, after one retry."""
    now = time.time()
    assert events[0].kind == "submitted"
    assert sum(each.count for each in events if each.kind == "submitted") == count
    assert events[-1].kind == "ended"
    assert (events[-1].start, events[-1].stop) == (0, count)
    assert ended(events) == {at: "failed" if at == 2 else "succeeded" for at in range(count)}
    failed = next(event for event in events if event.kind == "failed")
    assert failed.attempt == 2
    for event in events:
        assert event.at is None or now - 600 < event.at <= now + 1
        if event.kind in ("started", "succeeded", "failed"):
            assert event.worker.startswith("ta-")
            assert event.seconds >= 0
    starts = Counter(
        at for each in events if each.kind == "started" for at in range(each.start, each.stop)
    )
    assert set(starts) == set(range(count))


def test_of_a_spawned_call_while_it_runs_and_after(mixed: nb.Function[..., int]) -> None:
    call = mixed.spawn_map(range(6))
    check(list(nb.events(call)), 6)
    replayed = list(nb.events(call.object_id))
    check(replayed, 6)
    assert [event for event in replayed if event.kind == "retried"] == [
        CallEvent("retried", call.object_id, 2, 3, None, "", 2)
    ]


def test_aio(mixed: nb.Function[..., int], loop: Any) -> None:
    async def main() -> list[CallEvent]:
        call = await mixed.spawn_map.aio(range(6))
        return [event async for event in nb.events.aio(call)]

    check(loop.run(main()), 6)


def test_of_a_map(mixed: nb.Function[..., int]) -> None:
    mapped = mixed.map(range(500), return_exceptions=True)
    first = next(mapped)
    found: list[CallEvent] = []
    reader = threading.Thread(target=lambda: found.extend(nb.events(mapped)))
    reader.start()
    assert [first, *mapped][3:] == list(range(3, 500))
    reader.join()
    check(found, 500)
    check(list(nb.events(mapped)), 500)


def test_of_a_map_that_resumes_another(live: nb.App) -> None:
    @live.function
    def fails_once(x: int) -> int:
        if x == 3:
            raise ValueError(x)
        return x

    mapped = fails_once.map(range(6), return_exceptions=True)
    list(mapped)
    resumed = mapped.resume()
    list(resumed)
    told = list(nb.events(resumed))
    assert ended(told) == {3: "failed"}
    assert (told[-1].kind, told[-1].count) == ("ended", 1)


def test_a_call_that_is_cancelled(live: nb.App) -> None:
    @live.function(max_containers=1)
    def sleeps(x: int) -> None:
        import time

        time.sleep(30)

    call = sleeps.spawn_map(range(3))
    stream = iter(nb.events(call))
    seen = [next(stream)]
    while seen[-1].kind != "started":
        seen.append(next(stream))
    assert seen[-1].count == 1
    call.cancel()
    seen += stream
    assert ended(seen) == dict.fromkeys(range(3), "cancelled")


def test_what_is_no_call(add: nb.Function[..., int]) -> None:
    with pytest.raises(InvalidError, match="allowed is a FunctionCall"):
        nb.events("in-1")
    with pytest.raises(NotFoundError, match="fc-nobody"):
        list(nb.events("fc-nobody"))
    assert "events of fc-nobody" in repr(nb.events("fc-nobody"))
    assert "aio" in repr(nb.events)
    mapped = add.map([1])
    with pytest.raises(InvalidError, match="not iterated yet"):
        nb.events(mapped)
    assert list(mapped) == [2]


def page(
    rows: bytes, *, after: int = 0, more: bool = False, is_open: bool = True
) -> tuple[EventPage, list[bytes]]:
    trace = CallTrace(CALL, CallId(""), 0, "f", "m", 100.0, 40_000, "ta-x", rows)
    frames = [msgspec.msgpack.encode([trace]), msgspec.msgpack.encode([])]
    return EventPage(after, more, is_open, 100.0), frames


def rows(*runs: tuple[int, int, int]) -> bytes:
    found = bytearray()
    for start, stop, worker in runs:
        traces.add(found, start, stop, worker, (1.0, 0.5), 1, Outcome.SUCCEEDED)
    return bytes(found)


def test_a_row_that_has_grown_tells_what_is_new() -> None:
    reading = _Reading(CALL, None)
    assert len(reading.take(*page(rows((0, 10, 1))))) == 3
    again = reading.take(*page(rows((0, 15, 1), (15, 40_000, 2))))
    assert [(each.kind, each.start, each.stop) for each in again] == [
        ("started", 10, 15),
        ("succeeded", 10, 15),
        ("started", 15, 40_000),
        ("succeeded", 15, 40_000),
    ]
    assert [each.worker for each in again] == ["ta-x-1", "ta-x-1", "ta-x-2", "ta-x-2"]
    assert (again[1].at, round(again[1].seconds, 3)) == (101.0, 0.167)


def test_what_was_missed_is_read_again_at_the_end() -> None:
    reading = _Reading(CALL, None)
    reading.take(*page(rows((0, 10, 1)), after=20))
    assert reading.take(*page(b"", after=20, is_open=False)) == []
    assert (reading.after, reading.is_over, reading.wait_seconds) == (0, False, 0.0)
    rest = reading.take(*page(rows((0, 40_000, 1)), after=20, is_open=False))
    assert [each.kind for each in rest] == ["started", "succeeded", "ended"]
    assert reading.is_over


def test_a_slow_reader_gets_fewer_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["notebook_ext.event_stream"], "MANY", 10)
    runs = [(at, at + 1, at // 2 % 2 + 1) for at in range(0, 40_000, 2)]
    runs += [(at, at + 1, 1) for at in range(1, 40_000, 2)]
    found = _Reading(CALL, None).take(*page(rows(*runs)))
    assert [(each.kind, each.start, each.stop, each.worker) for each in found] == [
        ("submitted", 0, 40_000, ""),
        ("started", 0, 40_000, ""),
        ("succeeded", 0, 40_000, ""),
    ]


def test_who_hears_nothing_asks_less_often() -> None:
    reading = _Reading(CALL, None)
    waits = []
    for _ in range(9):
        reading.take(*page(b""))
        waits.append(reading.wait_seconds)
    assert waits[0] == SOON_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == LATE_SECONDS
    reading.take(*page(b"", more=True))
    assert reading.wait_seconds == 0


def test_facts_of_a_journal() -> None:
    facts: list[records.Record] = [
        records.InputsAdded(CALL, 0, 3),
        records.InputsClosed(CALL, 3),
        records.RangeSucceeded(CALL, 0, 2, 0, 1, WorkerId("ta-1"), 101.0, 103.0),
        records.InputEnded(CALL, 2, 1, Outcome.CANCELLED, 1, ""),
    ]
    frames = [msgspec.msgpack.encode([]), msgspec.msgpack.encode(facts)]
    found = _Reading(CALL, None).take(EventPage(4, False, False, 100.0), frames)
    assert found == [
        CallEvent("submitted", CALL, 0, 3, 100.0),
        CallEvent("started", CALL, 0, 2, 101.0, "ta-1"),
        CallEvent("succeeded", CALL, 0, 2, 103.0, "ta-1", 1, 2.0),
        CallEvent("cancelled", CALL, 2, 3, None),
        CallEvent("ended", CALL, 0, 3, 103.0),
    ]


def test_a_map_that_has_sent_nothing_is_waited_for(add: nb.Function[..., int]) -> None:
    opened = threading.Event()

    def numbers() -> Any:
        opened.wait()
        yield 1

    mapped = add.map(numbers())
    taker = threading.Thread(target=lambda: list(mapped))
    taker.start()
    wait_until(lambda: mapped.unfinished is not None)
    found: list[CallEvent] = []
    reader = threading.Thread(target=lambda: found.extend(nb.events(mapped)))
    reader.start()
    opened.set()
    reader.join()
    taker.join()
    assert ended(found) == {0: "succeeded"}
