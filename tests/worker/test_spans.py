"""Spans of what runs in a worker: children of the caller's, whatever kind of function it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kernel_worker import context
from kernel_worker.context import RunningInput
from kernel_worker.model import CallId, Digest, LeaseId, WorkerId
from kernel_worker.worker.spans import traced

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SET_UP = f"""
from kernel_worker.worker.spans import traced
def f():
    return 1
print(traced(f, "f", "{PARENT}", is_async=False, streams=False)())
print(traced(f, "f", "{PARENT}", is_async=False, streams=False)())
"""


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def current() -> tuple[int, str]:
    """Return the span that is current, and what nested calls are told."""
    return trace.get_current_span().get_span_context().span_id, context.traceparent.get()


def check(span: ReadableSpan) -> int:
    """Return the id of a span that is the caller's child."""
    assert span.parent is not None
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == PARENT[3:35]
    assert f"{span.parent.span_id:016x}" == PARENT[36:52]
    assert (span.name, span.kind) == ("f", trace.SpanKind.SERVER)
    return int(span.context.span_id)


def test_a_function_runs_in_a_span_below_its_call(exporter: InMemorySpanExporter) -> None:
    run = traced(current, "f", PARENT, is_async=False, streams=False)
    token = context.current_input.set(
        RunningInput(CallId("fc-1"), 3, 2, WorkerId("ta-1"), LeaseId(1), Digest(""))
    )
    try:
        inside, told = run()
    finally:
        context.current_input.reset(token)
    (span,) = exporter.get_finished_spans()
    assert (inside, told) == (check(span), PARENT)
    assert span.attributes is not None
    assert span.attributes["notebook_ext.call_id"] == "fc-1"
    assert span.attributes["notebook_ext.input"] == 3
    assert context.traceparent.get() == ""


def test_a_coroutine_too_and_what_it_raises_is_recorded(exporter: InMemorySpanExporter) -> None:
    async def fails(x: int) -> int:
        await asyncio.sleep(0)
        raise LookupError(str(x))

    run = traced(fails, "f", PARENT, is_async=True, streams=False)
    with pytest.raises(LookupError):
        asyncio.run(run(5))
    (span,) = exporter.get_finished_spans()
    check(span)
    assert span.status.status_code is trace.StatusCode.ERROR
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "5"


def test_generators_are_in_it_until_their_end(exporter: InMemorySpanExporter) -> None:
    def plain() -> Iterator[tuple[int, str]]:
        yield current()

    async def in_loop() -> AsyncIterator[tuple[int, str]]:
        yield current()

    async def taken() -> list[tuple[int, str]]:
        given = traced(in_loop, "f", PARENT, is_async=False, streams=True)()
        return [item async for item in given]

    found = [
        *traced(plain, "f", PARENT, is_async=False, streams=True)(),
        *asyncio.run(taken()),
    ]
    ids = [check(span) for span in exporter.get_finished_spans()]
    assert found == [(each, PARENT) for each in ids]
    assert len(ids) == 2


def test_without_an_sdk_what_is_called_hears_of_the_callers_span() -> None:
    assert traced(current, "f", PARENT, is_async=False, streams=False)() == (0, PARENT)
    assert traced(current, "f", "nonsense", is_async=False, streams=False) is current


@pytest.mark.parametrize("exporter", ["console", "nowhere"])
def test_the_standard_variables_set_it_up(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    ran = subprocess.run([sys.executable, "-c", SET_UP], check=True, capture_output=True, text=True)
    if exporter == "console":
        assert ran.stdout.count(PARENT[3:35]) >= 2
    else:
        assert ran.stdout == "1\n1\n"
        assert ran.stderr.count("notebook_ext: no spans from here: ValueError") == 1
