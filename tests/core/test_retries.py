from __future__ import annotations

import msgspec

from kernel_worker.core import retries
from kernel_worker.core.calls import Life
from kernel_worker.model import Outcome, RetryPolicy
from tests.core.simulation import make_spec

POLICY = RetryPolicy(3, 2.0, 1.0, 3.0)


def test_delays_grow_to_the_limit_and_end() -> None:
    delays = [retries.retry_delay(POLICY, done, Outcome.FAILED) for done in range(4)]
    assert delays == [1.0, 2.0, 3.0, None]


def test_only_failures_and_timeouts_are_retried() -> None:
    assert retries.retry_delay(POLICY, 0, Outcome.TIMED_OUT) == 1.0
    assert retries.retry_delay(POLICY, 0, Outcome.CANCELLED) is None
    assert retries.retry_delay(POLICY, 0, Outcome.INIT_FAILED) is None


def test_three_deaths_are_the_end() -> None:
    assert retries.may_rerun(Life(deaths=2), rerun_on_crash=True)
    assert not retries.may_rerun(Life(deaths=3), rerun_on_crash=True)
    assert not retries.may_rerun(Life(deaths=1), rerun_on_crash=False)
    assert "died 3 times" in retries.lost_message(make_spec("f"), 7, "killed by SIGSEGV", 3)
    said = retries.lost_message(make_spec("session f"), 7, "killed by SIGSEGV", 1)
    assert said.startswith("input 7 of session f: ")
    assert "rerun_on_crash=False" in said


def test_a_cell_is_no_input_and_has_no_options() -> None:
    cell = msgspec.structs.replace(make_spec("In[39]"), is_cell=True)
    assert retries.lost_message(cell, 0, "exit code 3", 1) == (
        "the worker of In[39] died (exit code 3); a cell is not run again, and nothing of it has "
        "come back"
    )
    assert retries.timeout_message(cell, 0, 1).startswith("In[39] ran longer than")
    assert retries.timeout_message(make_spec("f"), 1, 1).startswith("input 1 of f ran longer than")
