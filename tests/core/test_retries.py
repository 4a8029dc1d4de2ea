from __future__ import annotations

from kernel_worker.core import retries
from kernel_worker.core.calls import Life
from kernel_worker.model import Outcome, RetryPolicy

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
    assert "died 3 times" in retries.lost_message("f", 7, "killed by SIGSEGV", 3)
    assert "rerun_on_crash=False" in retries.lost_message("f", 7, "killed by SIGSEGV", 1)


def test_a_cell_is_no_input_and_has_no_options() -> None:
    lost = retries.lost_message("In[39]", 0, "exit code 3", 1)
    assert lost == (
        "the worker of cell In[39] died (exit code 3); a cell is not run again, and nothing of it "
        "has come back"
    )
    assert retries.lost_message("session kept", 4, "exit code 3", 1).startswith(
        "the worker of session kept died (exit code 3)"
    )
    assert retries.timeout_message("In[39]", 0, 2.0, 1).startswith("cell In[39] ran longer than")
    assert retries.timeout_message("f", 1, 2.0, 1).startswith("input 1 of f ran longer than")
