"""OpenTelemetry spans of calls, where the user's process makes spans itself.

Theory. Nothing is imported here: a process that traces has the API loaded, and a provider set. Then
each call is a span, whose parent is the caller's current one; what runs it on a worker is its child
(`kernel_worker.worker.spans`), and so on through calls that are nested in calls. What joins them is
the W3C's `traceparent`, which travels with the call. A worker that does not trace passes on what it
got, so that the spans of those below it belong to the same trace.

The span of `remote` and `remote_gen` ends with the outcome, that of a map with the last one, that
of `spawn` when the call is durable. What went wrong is an event of it, as text: nothing of users is
unpickled for that.

A call that is traced goes by the broker, not by the direct line, where there is no place for this.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kernel_worker.context import traceparent

if TYPE_CHECKING:
    from kernel_worker.model import CallContext, CallId
    from notebook_ext.submission import Ended, Receiver

_API = "opentelemetry.trace"


def are_wanted() -> bool:
    """Return whether this process has set up OpenTelemetry's tracing."""
    trace: Any = sys.modules.get(_API)
    return trace is not None and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider
    )


class CallSpan:
    """The span of one call, from when it is made."""

    def __init__(self, span: Any) -> None:
        """Stand for `span`, which has begun."""
        self._span = span
        found = span.get_span_context()
        self.traceparent = (
            f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"
            if found.is_valid
            else ""
        )

    def watching(self, receiver: Receiver) -> Receiver:
        """Return `receiver`; its first outcome, or that its call is durable, ends the span."""
        watched: Any = _Watched(receiver, self)
        return watched  # type: ignore[no-any-return]

    def finish(self, wrong: str = "") -> None:
        """End it; `wrong` says what went wrong, as `<exception>: <what it says>`. Repeatable."""
        if wrong and self._span.is_recording():
            trace: Any = sys.modules[_API]
            kind, _, said = wrong.partition(": ")
            self._span.add_event(
                "exception", {"exception.type": kind, "exception.message": said or wrong}
            )
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, wrong))
        if self._span.is_recording():  # to end one twice is an error
            self._span.end()


def begun(name: str, call: CallId, context: CallContext) -> tuple[CallSpan | None, CallContext]:
    """Begin the span of a call, if this process traces; return what the call says of it.

    Args:
        name: the function's name: the span's too.
        call: the call's id.
        context: what the call carries of its caller's surroundings, so far.
    """
    if not are_wanted():
        inherited = traceparent.get()
        return None, replace(context, traceparent=inherited) if inherited else context
    trace: Any = sys.modules[_API]
    span = CallSpan(
        trace.get_tracer("notebook_ext").start_span(
            name,
            kind=trace.SpanKind.CLIENT,
            attributes={"notebook_ext.call_id": call, "notebook_ext.function": name},
        )
    )
    return span, replace(context, traceparent=span.traceparent)


class _Watched:
    """A receiver that ends a span before it hears of the end."""

    def __init__(self, receiver: Receiver, span: CallSpan) -> None:
        self._receiver = receiver
        self._span = span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receiver, name)

    def accepted(self) -> None:
        self._span.finish()
        self._receiver.accepted()

    def rejected(self, error: str, message: str) -> None:
        self._span.finish(f"{error}: {message}")
        self._receiver.rejected(error, message)

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        self._span.finish()
        self._receiver.succeeded(start, count, position, frames)

    def ended(self, end: Ended) -> None:
        from notebook_ext.facts import words_of  # noqa: PLC0415  where something failed

        self._span.finish(words_of(end))
        self._receiver.ended(end)
