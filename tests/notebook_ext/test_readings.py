"""Who reads what: a reader waits for its own attachment, and then hears all."""

from __future__ import annotations

from kernel_worker.model import CallId
from notebook_ext.readings import Readings
from tests.notebook_ext.talk import Heard

CALL, OTHER = CallId("fc-1"), CallId("fc-2")


def test_a_reader_waits_for_its_own_attachment() -> None:
    readings = Readings()
    first, second = Heard(), Heard()
    readings.begin(CALL, first)
    assert readings.number(CALL) == 1
    readings.begin(CALL, second)
    assert readings.number(CALL) == 2
    readings.replaying(CALL, 1)
    readings.replaying(OTHER, 2)
    assert readings.of(CALL) == [first]
    assert (readings.waits(CALL, first), readings.waits(CALL, second)) == (False, True)
    readings.replaying(CALL, 2)
    assert readings.of(CALL) == [first, second]
    assert readings.is_reader(CALL, second)
    assert not readings.is_reader(OTHER, second)


def test_a_later_attachment_serves_an_earlier_reader() -> None:
    readings = Readings()
    reader = Heard()
    readings.begin(CALL, reader)
    readings.number(CALL)
    readings.replaying(CALL, readings.number(CALL))
    assert readings.of(CALL) == [reader]


def test_an_attachment_that_nobody_reads_has_no_number() -> None:
    readings = Readings()
    one, two = Heard(), Heard()
    assert readings.number(CALL) == 0
    readings.begin(CALL, one)
    readings.begin(CALL, two)
    assert not readings.end(CALL, one)
    assert not readings.end(CALL, one)
    assert readings.end(CALL, two)
    assert (readings.number(CALL), readings.of(CALL)) == (0, [])
    readings.begin(CALL, one)
    readings.begin(OTHER, one)
    readings.forget(CALL)
    assert (readings.number(CALL), readings.number(OTHER)) == (0, 1)
    readings.forget_all()
    assert readings.number(OTHER) == 0
