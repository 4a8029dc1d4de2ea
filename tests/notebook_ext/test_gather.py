from __future__ import annotations

from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.exception import CallCancelledError, InvalidError


@pytest.fixture
def work(live: nb.App) -> nb.Function[..., Any]:
    @live.function(max_containers=4)
    def work(seconds: float, fails: bool = False) -> float:
        import time

        time.sleep(seconds)
        if fails:
            raise ValueError(seconds)
        return seconds

    return work


def test_results_in_order(work: nb.Function[..., Any], loop: Any) -> None:
    calls = [work.spawn(0.1), work.spawn(0.0)]
    assert nb.gather(*calls) == nb.FunctionCall.gather(*calls) == [0.1, 0.0]
    assert nb.gather() == []

    async def main() -> Any:
        return await nb.gather.aio(*calls)

    assert loop.run(main()) == [0.1, 0.0]


def test_the_first_failure_is_raised_and_the_rest_go_on(work: nb.Function[..., Any]) -> None:
    slow = work.spawn(1.0)
    with pytest.raises(ValueError, match="0"):
        nb.gather(slow, work.spawn(0.0, fails=True))
    assert slow.get() == 1.0


def test_the_rest_can_be_cancelled(work: nb.Function[..., Any]) -> None:
    slow = work.spawn(30.0)
    with pytest.raises(ValueError, match="0"):
        nb.gather(slow, work.spawn(0.0, fails=True), cancel_on_error=True)
    with pytest.raises(CallCancelledError):
        slow.get()


def test_only_calls(work: nb.Function[..., Any]) -> None:
    with pytest.raises(InvalidError, match="no FunctionCall"):
        nb.gather(3)  # type: ignore[arg-type]


def test_inside_a_worker(live: nb.App, work: nb.Function[..., Any]) -> None:
    @live.function(max_containers=1)
    def outer() -> list[float]:
        import notebook_ext as nb

        return nb.gather(work.spawn(0.01), work.spawn(0.02))

    assert outer.remote() == [0.01, 0.02]
