"""Spans of calls at the caller, made by the OpenTelemetry SDK where this process has one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import notebook_ext as nb
from kernel_worker.model import CallContext, CallId
from notebook_ext import spans


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Set a provider for one test, as users do once for a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def below(live: nb.App) -> nb.Function[..., Any]:
    """Return a function that says below which span it runs, or fails."""

    @live.function(name="below")
    def below(fails: bool = False) -> str:
        from kernel_worker import context

        if fails:
            raise LookupError("nothing: here")
        return context.traceparent.get()

    return below


def ended(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    exporter.clear()
    return span


def name_of(span: ReadableSpan) -> str:
    """Return the `traceparent` of a span."""
    assert span.context is not None
    found = span.context
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"


def test_without_a_provider_nothing_is_said(below: nb.Function[..., Any]) -> None:
    assert not spans.are_wanted()
    context = CallContext("/")
    assert spans.begun("f", CallId("fc-1"), context) == (None, context)
    assert below.remote() == ""


def test_remote_is_a_child_of_the_current_span_and_the_worker_hears_of_it(
    traced: InMemorySpanExporter, below: nb.Function[..., Any]
) -> None:
    with trace.get_tracer("mine").start_as_current_span("mine") as mine:
        heard = below.remote()
        span = ended(traced)
    assert heard == name_of(span)
    assert span.parent is not None
    assert span.parent.span_id == mine.get_span_context().span_id
    assert (span.name, span.kind, span.status.is_ok) == ("below", trace.SpanKind.CLIENT, True)
    assert span.attributes is not None
    assert str(span.attributes["notebook_ext.call_id"]).startswith("fc-")
    assert asyncio.run(below.remote.aio()) == name_of(traced.get_finished_spans()[-1])


def test_what_went_wrong_is_in_it(
    traced: InMemorySpanExporter, below: nb.Function[..., Any]
) -> None:
    with pytest.raises(LookupError):
        below.remote(fails=True)
    span = ended(traced)
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "LookupError: nothing: here"
    (event,) = span.events
    assert event.attributes is not None
    assert dict(event.attributes) == {
        "exception.type": "LookupError",
        "exception.message": "nothing: here",
    }
    with pytest.raises(nb.exception.InvalidError):
        below.with_options(cpu=10_000).remote()
    assert "asks for cpu=10000" in str(ended(traced).status.description)


def test_a_map_is_one_span_until_its_last_outcome(
    traced: InMemorySpanExporter, below: nb.Function[..., Any]
) -> None:
    heard = list(below.map([False] * 3))
    assert set(heard) == {name_of(ended(traced))}
    assert len(list(below.map([False, True], return_exceptions=True))) == 2
    assert ended(traced).status.description == "LookupError: nothing: here"


def test_what_is_spawned_is_a_span_until_it_is_durable(
    traced: InMemorySpanExporter, below: nb.Function[..., Any]
) -> None:
    call = below.spawn()
    span = ended(traced)
    assert call.get() == name_of(span)
    assert traced.get_finished_spans() == ()


def test_a_generator_is_one_span(traced: InMemorySpanExporter, live: nb.App) -> None:
    @live.function(name="gives")
    def gives() -> Iterator[int]:
        yield 1
        yield 2

    assert list(gives.remote_gen()) == [1, 2]
    assert ended(traced).name == "gives"


def test_what_is_not_sampled_is_carried_on_as_that(
    monkeypatch: pytest.MonkeyPatch, below: nb.Function[..., Any]
) -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    *_, flags = below.remote().split("-")
    assert int(flags, 16) & trace.TraceFlags.SAMPLED == 0
