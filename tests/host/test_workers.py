"""How processes ended, in words."""

from __future__ import annotations

import signal

import pytest

from kernel_worker.host import workers


@pytest.mark.parametrize(
    ("status", "how", "by_chance"),
    [
        (3 << 8, "exit code 3", False),
        (signal.SIGSEGV, "killed by SIGSEGV", False),
        (signal.SIGKILL, "killed by SIGKILL", True),
        (-1, "gone, with its parent", True),
    ],
)
def test_the_end_of_a_load_says_whether_another_one_may_do(
    status: int, how: str, by_chance: bool
) -> None:
    assert workers.end_of_load(status) == (how, by_chance)
