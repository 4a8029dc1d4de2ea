"""How calls stand and how they are found again, with the run's broker."""

from __future__ import annotations

from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.model import CallId
from kernel_worker.wire.messages import CallInfo
from notebook_ext.call_graph import InputStatus
from notebook_ext.call_status import STATES, CallStatus, RecentCalls, call_filter
from notebook_ext.exception import InvalidError

INFO = CallInfo(
    call=CallId("fc-1"),
    name="f",
    attached=False,
    closed=True,
    total=15,
    pending=1,
    running=2,
    succeeded=3,
    failed=6,
    cancelled=3,
    app="demo",
    submitted_at=1.0,
    timed_out=2,
    init_failed=1,
)


def test_inputs_are_counted_by_their_status() -> None:
    status = CallStatus.of(INFO)
    assert sum(status.counts.values()) == status.num_inputs == 15
    assert status.counts == {
        InputStatus.PENDING: 3,
        InputStatus.SUCCESS: 3,
        InputStatus.FAILURE: 3,
        InputStatus.INIT_FAILURE: 1,
        InputStatus.TERMINATED: 3,
        InputStatus.TIMEOUT: 2,
    }
    assert (status.state, status.done, status.call.object_id) == ("running", False, "fc-1")


def test_a_list_of_calls_shows_a_table() -> None:
    recent = RecentCalls([INFO])
    assert [each.object_id for each in recent] == ["fc-1"]
    assert "fc-1" in repr(recent)
    assert "running" in recent._repr_html_()


def test_what_is_asked_for_is_checked() -> None:
    assert call_filter(nb.App("demo"), "failed", 3) == call_filter("demo", "failed", 3)
    assert call_filter(nb.App(), None, 3).app == "-"
    for arguments in (("x", "done", 1), (None, None, 0), (None, None, True)):
        with pytest.raises(InvalidError, match="allowed is"):
            call_filter(*arguments)
    assert {CallStatus.of(INFO).state} <= set(STATES)


def test_calls_are_found_again(live: nb.App, loop: Any) -> None:
    @live.function
    def quick(x: int) -> int:
        return x

    call = quick.spawn_map([1, 2, 3])
    assert list(call.iter()) == [1, 2, 3]
    found = nb.calls(live, "succeeded")[0]
    assert (found.object_id, found.num_inputs, found.done) == (call.object_id, 3, True)
    assert found == call.status() == loop.run(nb.FunctionCall.from_id(call.object_id).status.aio())
    assert found.call.get(index=2) == 3
    assert loop.run(nb.calls.aio(limit=1))[0].submitted_at >= found.submitted_at
    assert "aio" in repr(nb.calls)
