"""One trace from the caller's span through calls in calls, made by an SDK in each process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import ScriptRunner

TELEMETRY = """
import json, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            for span in spans:
                parent = span.parent.span_id if span.parent else 0
                place = span.context
                row = [place.span_id, parent, span.name, span.kind.name, place.trace_id]
                file.write(json.dumps(row) + "\\n")
        return SpanExportResult.SUCCESS

def configure():
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ToFile()))
        trace.set_tracer_provider(provider)

configure()
"""
SCRIPT = """
import notebook_ext as nb
import telemetry
from opentelemetry import trace

app = nb.App("traced")

@app.function()
def inner(x):
    assert telemetry
    return x + 1

@app.function()
def outer(x):
    with telemetry.trace.get_tracer("mine").start_as_current_span("work"):
        return inner.remote(x)

with trace.get_tracer("mine").start_as_current_span("notebook"):
    print(outer.remote(1))
"""


def test_a_trace_runs_through_nested_calls(run_script: ScriptRunner, tmp_path: Path) -> None:
    (tmp_path / "telemetry.py").write_text(TELEMETRY)
    spans = tmp_path / "spans"
    assert run_script(SCRIPT, {"SPANS": str(spans)}) == "2\n"
    rows = [json.loads(line) for line in spans.read_text().splitlines()]
    assert len({trace_id for *_, trace_id in rows}) == 1
    by_id = {span: (parent, name, kind) for span, parent, name, kind, _ in rows}
    (leaf,) = [span for span, row in by_id.items() if row[1:] == ("inner", "SERVER")]
    chain = []
    while leaf:
        leaf, name, kind = by_id[leaf]
        chain.append((name, kind))
    assert chain == [
        ("inner", "SERVER"),
        ("inner", "CLIENT"),
        ("work", "INTERNAL"),
        ("outer", "SERVER"),
        ("outer", "CLIENT"),
        ("notebook", "INTERNAL"),
    ]
    assert len(rows) == len(chain)
