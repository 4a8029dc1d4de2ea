"""What becomes of an input whose attempt did not succeed. Pure decisions.

A failure or a timeout is retried as the function's policy says. A death of the worker is not the
function's doing and is never counted as a retry: the input runs again at once, until it has
killed three workers. A worker that was stopped for its memory is the function's doing (LOST here):
it is retried as a failure is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kernel_worker.model import Outcome, had_given

if TYPE_CHECKING:
    from kernel_worker.core.calls import Life
    from kernel_worker.model import FunctionSpec, RetryPolicy

MAX_DEATHS: Final = 3
_RETRIED: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST})


def retry_delay(policy: RetryPolicy, retries: int, outcome: Outcome) -> float | None:
    """Return the seconds until the next attempt after `retries` of them, or None: it is over."""
    if outcome not in _RETRIED or retries >= policy.max_retries:
        return None
    return policy.delay_seconds(retries + 1)


def may_rerun(life: Life, *, rerun_on_crash: bool) -> bool:
    """Whether an input whose worker died (that death is counted) runs again."""
    return rerun_on_crash and life.deaths < MAX_DEATHS and not life.items


def lent_message(spec: FunctionSpec, cause: str) -> str:
    """Return what is said of an input that is lost here and that its client tries again."""
    return f"{_subject(spec, 0)}: its worker died under it ({cause})"


def lost_message(spec: FunctionSpec, index: int, cause: str, deaths: int) -> str:
    """Return what people are told of an input that is lost.

    A cell is one input that nobody counts, and whoever ran it has set no option for its end.
    """
    subject = _subject(spec, index)
    if spec.is_cell:
        return (
            f"the worker of {subject} died ({cause}); a cell is not run again, and "
            "nothing of it has come back"
        )
    if deaths >= MAX_DEATHS:
        return (
            f"{subject}: its worker died {deaths} times under it, "
            f"the last one {cause}; it is not tried again"
        )
    return (
        f"{subject}: its worker died under it ({cause}), "
        "and rerun_on_crash=False says that it must not run twice"
    )


def memory_message(spec: FunctionSpec, index: int, used_mib: int) -> str:
    """Return what people are told of an input whose worker used too much memory."""
    request, limit = spec.resources.memory_mib, spec.resources.memory_limit_mib
    return (
        f"{_subject(spec, index)}: its worker used {used_mib} MiB, more than its limit of "
        f"{limit} MiB (memory=({request}, {limit})), and was stopped; "
        "raise the limit, or let an input need less"
    )


def cut_short_message(name: str, items: int, cause: str) -> str:
    """Return what people are told of a generator that is lost after it gave items."""
    return (
        f"{name} {had_given(items)} when {cause}; a generator runs again only where it has given "
        "none"
    )


def timeout_message(spec: FunctionSpec, index: int, attempt: int) -> str:
    """Return what people are told of an input that took too long."""
    return (
        f"{_subject(spec, index)} ran longer than its timeout of {spec.timeout_seconds:g} s "
        f"(attempt {attempt})"
    )


def _subject(spec: FunctionSpec, index: int) -> str:
    return spec.name if spec.is_cell else f"input {index} of {spec.name}"
