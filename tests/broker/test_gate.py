"""Effects about a spawned call wait behind its facts, in order; others pass."""

from __future__ import annotations

from kernel_worker.broker.gate import Gate
from kernel_worker.core import effects
from kernel_worker.model import CallId, ClientId, HostId, LeaseId, WorkerId

ONE, TWO = CallId("fc-1"), CallId("fc-2")
ACCEPT = effects.AcceptCall(ClientId("cl-1"), ONE)
GRANT = effects.GrantLease(WorkerId("ta-1"), LeaseId(5), ONE, 0, 1, 1)
TAKE_BACK = effects.TakeBack(WorkerId("ta-1"), HostId("ho-1"), LeaseId(5))
STOP = effects.StopWorker(WorkerId("ta-1"), HostId("ho-1"))
FINISH = effects.FinishCall(ONE)


def test_what_has_no_fact_under_way_passes() -> None:
    gate = Gate()
    assert not gate.waiting
    assert not gate.holds(ACCEPT, ())
    gate.expect(TWO, 1)
    assert gate.waiting
    assert not any(gate.holds(effect, ()) for effect in (ACCEPT, GRANT, TAKE_BACK, STOP, FINISH))


def test_what_relies_on_a_fact_waits_for_it() -> None:
    gate = Gate()
    gate.expect(ONE, 1)
    assert gate.holds(ACCEPT, [b"payload"])
    assert gate.holds(GRANT, ())
    gate.expect(ONE, 2)
    assert gate.holds(TAKE_BACK, ())
    assert gate.holds(FINISH, ())
    assert not gate.holds(STOP, ())
    first = gate.release(1)
    assert [held.effect for held in first] == [ACCEPT, GRANT]
    assert first[0].frames == [b"payload"]
    assert gate.holds(ACCEPT, ())
    assert [held.effect for held in gate.release(2)] == [TAKE_BACK, FINISH, ACCEPT]
    assert not gate.waiting
    assert not gate.holds(TAKE_BACK, ())


def test_leases_do_not_wait_for_values() -> None:
    gate = Gate()
    gate.expect(ONE, 1)
    gate.expect(ONE, 2, 100)
    assert gate.holds(GRANT, ()), "the call itself is not on the disk"
    assert [held.effect for held in gate.release(1)] == []
    other = effects.GrantLease(WorkerId("ta-2"), LeaseId(6), ONE, 1, 2, 1)
    in_group = effects.GrantLease(WorkerId("ta-2"), LeaseId(7), ONE, 1, 2, 1, 7, 2)
    assert not gate.holds(other, ())
    assert gate.holds(in_group, ())
    assert gate.holds(FINISH, ()), "whoever is told of a value relies on it"
    gate.expect(ONE, 3)
    assert gate.holds(other, ()), "it must not run twice, for example"
    assert [held.effect for held in gate.release(2)] == [GRANT, in_group, FINISH]
    assert [held.effect for held in gate.release(3)] == [other]


def test_leases_wait_for_values_where_many_are_under_way_or_the_disk_is_full() -> None:
    gate = Gate()
    gate.expect(ONE, 1, 4 << 20)
    assert gate.holds(GRANT, ())
    assert [held.effect for held in gate.release(1)] == [GRANT]
    for token in range(2, 300):
        gate.expect(ONE, token, 1)
    assert gate.holds(GRANT, ())
    gate.release(100)
    assert not gate.holds(GRANT, ())
    gate.take_leases()
    assert gate.holds(GRANT, ())
    gate.release(101)
    assert not gate.holds(GRANT, ())


def test_calls_do_not_wait_for_each_other() -> None:
    gate = Gate()
    gate.expect(ONE, 1)
    gate.expect(TWO, 2)
    other = effects.DropInputs(TWO, 0, 1)
    assert gate.holds(other, ())
    assert gate.holds(ACCEPT, ())
    assert [held.effect for held in gate.release(1)] == [ACCEPT]
    assert [held.effect for held in gate.release(2)] == [other]


def test_leases_that_wait_are_taken_back_out_with_what_was_asked_of_them() -> None:
    gate = Gate()
    gate.expect(ONE, 1)
    in_group = effects.GrantLease(WorkerId("ta-2"), LeaseId(6), ONE, 1, 2, 1, 6, 2)
    for effect in (ACCEPT, GRANT, TAKE_BACK, in_group, FINISH):
        assert gate.holds(effect, ())
    assert gate.take_leases() == [GRANT]
    assert gate.take_leases() == []
    assert not gate.holds(TAKE_BACK, ()), "its lease is not here"
    assert [held.effect for held in gate.release(1)] == [ACCEPT, in_group, FINISH]


def test_a_lease_that_waits_is_withdrawn_with_what_was_asked_of_it() -> None:
    gate = Gate()
    gate.expect(ONE, 1)
    interrupt = effects.Interrupt(WorkerId("ta-1"), HostId("ho-1"), LeaseId(5), 0)
    in_group = effects.GrantLease(WorkerId("ta-2"), LeaseId(6), ONE, 1, 2, 1, 6, 2)
    for effect in (ACCEPT, GRANT, interrupt, in_group, FINISH):
        assert gate.holds(effect, ())
    assert gate.withdraw(LeaseId(7)) is None, "nobody waits with that"
    assert gate.withdraw(LeaseId(6)) is None, "a part of its group may be at its worker"
    assert gate.withdraw(LeaseId(5)) == GRANT
    assert gate.withdraw(LeaseId(5)) is None
    assert [held.effect for held in gate.release(1)] == [ACCEPT, in_group, FINISH]
