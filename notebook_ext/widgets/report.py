"""How a map stands at one moment, in numbers and in words: what every display of it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from notebook_ext.widgets import facts as facts_
from notebook_ext.widgets.pace import format_rate, format_seconds

if TYPE_CHECKING:
    from notebook_ext.widgets.facts import MapFacts
    from notebook_ext.widgets.pace import Pace


@dataclass(frozen=True, slots=True)
class Report:
    """One moment of one map; times in seconds, rates in inputs per second."""

    title: str
    state: str
    total: int | None
    done: int
    failed: int
    cancelled: int
    retried: int
    running: int
    workers: int
    waiting_for: str
    elapsed: float
    rate: float
    eta: float | None
    error: tuple[int | None, str] | None
    again: int = 0
    paused: bool = False
    ending: bool = False
    """The user has cancelled it, and it has not ended yet."""

    @property
    def finished(self) -> int:
        """Return how many inputs have ended, however."""
        return self.done + self.failed + self.cancelled

    @property
    def fraction(self) -> float | None:
        """Return the finished part, 0 to 1, or None where nobody knows the total."""
        if self.total is None:
            return None
        return min(self.finished / self.total, 1.0) if self.total else 1.0

    def as_traits(self) -> dict[str, Any]:
        """Return the form that travels to the front end."""
        return {
            "state": self.state,
            "total": self.total,
            "done": self.done,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "running": self.running,
            "headline": self.headline(),
            "timing": self.timing(),
            "percent": self.percent(),
            "retried": self.retried + self.again,
            "workers": self.workers,
            "waiting_for": self.waiting_for,
            "paused": self.paused,
            "ending": self.ending,
            "error": self.error_line() if self.error is not None else "",
            "summary": self.summary(),
        }

    def headline(self) -> str:
        """Return how far it is: `142 / 200`, or `142` where there is no end."""
        ran = self.done + self.failed
        return f"{ran:,}" if self.total is None else f"{ran:,} / {self.total:,}"

    def percent(self) -> str:
        """Return the finished part in percent, or how it ended if it was not finished."""
        if self.state in ("failed", "cancelled"):
            return self.state
        if self.ending:
            return "cancelling"
        if self.paused:
            return "paused"
        if self.fraction is None:
            return ""
        return f"{int(self.fraction * 100)} %"

    def timing(self) -> str:
        """Return the pace and the time: `12/s · 11 s · 5 s left`, or how long it took."""
        elapsed = format_seconds(self.elapsed)
        if self.state != "running":
            average = (self.done + self.failed) / self.elapsed if self.elapsed > 0 else 0.0
            return f"{elapsed} · {format_rate(average)}" if average else elapsed
        parts = [format_rate(self.rate)] if self.rate else []
        parts.append(elapsed)
        if self.eta is not None and not self.paused:
            parts.append(f"{format_seconds(self.eta)} left")
        return " · ".join(parts)

    def summary(self) -> str:
        """Return the counts that are not zero: `138 done, 4 failed, 3 retried`."""
        counts = [(self.done, "done"), (self.running, "running"), (self.failed, "failed")]
        counts += [(self.cancelled, "cancelled"), (self.retried + self.again, "retried")]
        words = [f"{count:,} {word}" for count, word in counts if count]
        if self.workers and self.state == "running":
            words.append(f"{self.workers} worker{'s' if self.workers > 1 else ''}")
        return ", ".join(words) or "nothing done yet"

    def error_line(self) -> str:
        """Return the first failure in one line, with its input where that is known."""
        if self.error is None:
            return ""
        index, text = self.error
        return text if index is None else f"input {index}: {text}"


def report_on(facts: MapFacts, pace: Pace, now: float) -> Report:
    """Return how the map stands `now` (seconds of `time.monotonic`), and let `pace` see it."""
    state = facts.state
    done, failed, cancelled = facts.done, facts.failed, facts.cancelled
    total = facts.total
    ended = facts.finished_at
    pace.observe(now, done + failed + cancelled)
    remaining = None if total is None else total - done - failed - cancelled
    return Report(
        title=facts.title,
        state=state,
        total=total,
        done=done,
        failed=failed,
        cancelled=cancelled,
        retried=facts.retried,
        running=facts.running,
        workers=facts.workers,
        waiting_for=facts.waiting_for if state not in facts_.FINAL_STATES else "",
        elapsed=max((now if ended is None else ended) - facts.started_at, 0.0),
        rate=pace.rate,
        eta=pace.eta_seconds(remaining),
        error=facts_.error_of(facts),
        again=facts.again,
        paused=facts.paused,
        ending=facts.was_cancelled and state not in facts_.FINAL_STATES,
    )
