from __future__ import annotations

from kernel_worker.core.backlog import Backlog, Range


def test_takes_from_the_front_and_never_across_batches() -> None:
    backlog = Backlog()
    backlog.append(Range(0, 10, 1, 0, 0))
    backlog.append(Range(10, 20, 1, 10, 0))
    assert backlog.take(4) == (0, 4, 1, 0, 0)
    assert backlog.take(100) == (4, 10, 1, 0, 0)
    assert backlog.peek() == (10, 20, 1, 10, 0)
    assert backlog.count == 10


def test_returned_neighbours_of_one_batch_are_one_range_again() -> None:
    backlog = Backlog()
    backlog.append(Range(0, 10, 1, 0, 10))
    taken = backlog.take(6)
    backlog.push_front(taken._replace(start=3))
    assert list(backlog) == [(3, 10, 1, 0, 10)]
    backlog.push_front(Range(2, 3, 2, 0, 10))
    assert backlog.take(5) == (2, 3, 2, 0, 10)
    assert backlog.count == 7


def test_draining_joins_across_batches_but_not_across_attempts() -> None:
    backlog = Backlog()
    for waiting in (Range(10, 20, 1, 10, 0), Range(5, 10, 1, 0, 0), Range(4, 5, 2, 0, 0)):
        backlog.append(waiting)
    assert [(one.start, one.stop, one.attempt) for one in backlog.drain()] == [
        (4, 5, 2),
        (5, 20, 1),
    ]
    assert backlog.count == 0
