"""The progress page says where a worker is, to whoever maps it."""

from __future__ import annotations

import os

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
