"""The progress page says where a worker is, to whoever maps it."""

from __future__ import annotations

import os

from kernel_worker.model import CallId, Held, LeaseId
from kernel_worker.wire import page as pages


def test_both_sides_see_the_same() -> None:
    file = pages.create_file()
    worker, agent = pages.Page(file), pages.Page(file)
    os.close(file)
    assert agent.running() is None
    assert not agent.is_ready
    worker.slots[pages.READY] = 1
    worker.enter_lease(7, "fc-é", 3)
    assert agent.is_ready
    assert agent.running() is None
    worker.slots[pages.POSITION] = 3
    worker.slots[pages.STARTED] = 99
    assert agent.running() == pages.Place(7, 3, 99)
    assert agent.call == "fc-é"
    worker.leave_lease()
    assert agent.running() is None
    worker.close()
    agent.close()


def test_a_long_name_does_not_leave_its_place() -> None:
    file = pages.create_file()
    page = pages.Page(file)
    os.close(file)
    page.enter_lease(1, "fc-" + "x" * 10_000, 0)
    assert page.call.startswith("fc-xxx")
    page.close()


def test_inputs_side_by_side_have_rows_that_are_used_again() -> None:
    file = pages.create_file()
    worker, agent = pages.Page(file), pages.Page(file)
    os.close(file)
    assert agent.all_running() == []
    one = worker.enter(7, "fc-a", 0, 20)
    other = worker.enter(8, "fc-b", 3, 10)
    assert agent.all_running() == [pages.Place(8, 3, 10), pages.Place(7, 0, 20)]
    assert agent.call == "fc-b"
    worker.leave(one)
    assert agent.all_running() == [pages.Place(8, 3, 10)]
    assert worker.enter(9, "fc-c", 1, 30) == one != other
    worker.enter_lease(10, "fc-d", 0)
    worker.slots[pages.POSITION] = 0
    worker.slots[pages.STARTED] = 5
    assert agent.all_running()[-1] == pages.Place(10, 0, 5)
    worker.close()
    agent.close()


def test_what_finds_no_row_runs_unseen() -> None:
    file = pages.create_file()
    page = pages.Page(file)
    os.close(file)
    rows = [page.enter(lease, "fc-a", 0, 1) for lease in range(1, 1500)]
    assert rows[-1] == -1
    assert len(page.all_running()) == len(set(rows)) - 1 > 1_300
    page.leave(rows[-1])
    page.leave(rows[0])
    assert page.enter(2_000, "fc-a", 0, 1) == rows[0]
    page.close()


class Changing:
    """Slots of a worker that begins another input while they are read."""

    def __init__(self, slots: memoryview, changes: dict[int, list[int]]) -> None:
        self._slots = slots
        self._changes = changes

    def __getitem__(self, slot: int) -> int:
        values = self._changes.get(slot)
        return int(values.pop(0) if values else self._slots[slot])


def test_what_changes_while_it_is_read_is_read_again() -> None:
    file = pages.create_file()
    page = pages.Page(file)
    os.close(file)
    page.enter_lease(7, "fc-a", 0)
    page.slots[pages.POSITION], page.slots[pages.STARTED] = 4, 50
    page.enter(8, "fc-b", 1, 60)
    real = page.slots
    page.slots = Changing(real, {pages.LEASE: [6], pages._TABLE: [5]})  # type: ignore[assignment]
    assert page.all_running() == [pages.Place(8, 1, 60), pages.Place(7, 4, 50)]
    page.slots = real
    page.close()


def test_which_lease_it_runs_or_ran_last_can_be_read() -> None:
    file = pages.create_file()
    worker, agent = pages.Page(file), pages.Page(file)
    os.close(file)
    assert agent.held() is None
    worker.enter_lease(7, "fc-a", 3, 9, 2)
    assert agent.held() == Held(LeaseId(7), CallId("fc-a"), 3, 9, 2, index=3, runs=True)
    worker.slots[pages.POSITION] = 5
    worker.slots[pages.STOP] = 6
    assert agent.held() == Held(LeaseId(7), CallId("fc-a"), 3, 6, 2, index=6, runs=True)
    worker.leave_lease()
    assert agent.held() == Held(LeaseId(7), CallId("fc-a"), 3, 6, 2, index=6, runs=False)
    worker.close()
    agent.close()


def test_a_lease_that_is_being_taken_up_is_read_whole() -> None:
    file = pages.create_file()
    page = pages.Page(file)
    os.close(file)
    page.enter_lease(7, "fc-a", 3, 9, 2)

    class Moving:
        """The slots, of which another process writes the number of the lease in between."""

        def __init__(self) -> None:
            self.reads = 0

        def __getitem__(self, at: int) -> int:
            self.reads += at == pages._LAST
            return 6 if at == pages._LAST and self.reads == 1 else slots[at]

    slots, moving = page.slots, Moving()
    page.slots = moving  # type: ignore[assignment]
    found = page.held()
    assert found is not None
    assert (found.lease, moving.reads) == (7, 4)
    page.slots = slots
    page.close()
