"""OpenTelemetry spans of what runs here: each input's is a child of its call's, at the caller.

Theory. A lease whose call is traced names its span (`traceparent`). The function is then run in a
span of its own, as far as this process makes any: because users' code that was imported here has
set a provider, or because the standard variables (`OTEL_TRACES_EXPORTER`,
`OTEL_EXPORTER_OTLP_ENDPOINT`) say where spans go and the SDK is installed. Otherwise nothing is
imported, and what the function calls is given the caller's span as its parent.

Of inputs that are run together (`@batched`) the span is the first one's.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kernel_worker.context import running_input, traceparent
from kernel_worker.worker.interrupts import see_through

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_SDK = "opentelemetry.sdk.trace"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def traced(
    function: Callable[..., Any], name: str, parent: str, *, is_async: bool, streams: bool
) -> Callable[..., Any]:
    """Return `function`, each run of which is a span.

    Args:
        function: what runs an input.
        name: of the span.
        parent: the `traceparent` of the call.
        is_async: whether it returns a coroutine.
        streams: whether it returns a generator, plain or asynchronous, or another iterator.
    """
    if _FORM.fullmatch(parent) is None:
        return function

    def run(*args: Any, **kwargs: Any) -> Any:
        with _span(name, parent):
            return function(*args, **kwargs)

    async def run_in_loop(*args: Any, **kwargs: Any) -> Any:
        with _span(name, parent):
            return await function(*args, **kwargs)

    def give(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        return give_in_loop(made) if hasattr(made, "__aiter__") else give_all(made)

    def give_all(made: Any) -> Iterator[Any]:
        with _span(name, parent):
            yield from made

    async def give_in_loop(made: Any) -> AsyncIterator[Any]:
        with _span(name, parent):
            async for item in made:
                yield item

    inner = (run, run_in_loop, give, give_all, give_in_loop)
    see_through(*(each.__code__ for each in inner))
    return functools.wraps(function)(give if streams else run_in_loop if is_async else run)


@contextmanager
def _span(name: str, parent: str) -> Iterator[None]:
    token = traceparent.set(parent)
    try:
        if _is_set_up():
            from opentelemetry import trace  # noqa: PLC0415  only where spans are made

            running = running_input()
            ids: dict[str, Any] = (
                {}
                if running is None
                else {
                    "notebook_ext.call_id": running.call,
                    "notebook_ext.input": running.index,
                    "notebook_ext.attempt": running.attempt,
                    "notebook_ext.worker_id": running.worker,
                }
            )
            with trace.get_tracer("notebook_ext").start_as_current_span(
                name,
                trace.set_span_in_context(trace.NonRecordingSpan(_context_of(parent))),
                kind=trace.SpanKind.SERVER,
                attributes={"notebook_ext.function": name, **ids},
            ):
                yield
        else:
            yield
    finally:
        traceparent.reset(token)


def _is_set_up() -> bool:
    """Return whether this process makes spans; it is set up here where variables say how."""
    if _SDK not in sys.modules and not _exporter():
        return False
    from opentelemetry import trace  # noqa: PLC0415  as said

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider) and _exporter():
        _set_up(trace)
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _exporter() -> str:
    """Return the name of the exporter that the variables name, or nothing."""
    named = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if named == "none":
        return ""
    return named or ("otlp" if any(map(os.environ.get, _ENDPOINTS)) else "")


def _set_up(trace: Any) -> None:
    """Send spans where the variables say, as `opentelemetry-instrument` would."""
    from importlib.metadata import entry_points  # noqa: PLC0415  once

    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  once
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  once

        provider = TracerProvider()  # which sends what is left when the worker ends
        for name in _exporter().split(","):
            (found,) = entry_points(group="opentelemetry_traces_exporter", name=name.strip())
            provider.add_span_processor(BatchSpanProcessor(found.load()()))
    except Exception as error:  # noqa: BLE001  the function runs with or without it
        os.environ["OTEL_TRACES_EXPORTER"] = "none"  # said once
        sys.stderr.write(f"notebook_ext: no spans from here: {type(error).__name__}: {error}\n")
        return
    trace.set_tracer_provider(provider)


def _context_of(parent: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415  spans are made here

    found = _FORM.fullmatch(parent)
    assert found is not None  # noqa: S101  `traced` has looked
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
