"""Metrics for Prometheus: a small process beside the broker, that asks it when it is scraped.

`notebook-ext broker start --metrics` starts it; it ends when the broker has been gone for
`GONE_SECONDS`. The broker does nothing for it between scrapes, and nothing at all where nobody
asked for it. A broker that is scraped is in use: it does not leave by itself. Whoever reaches the
address can read it: it is on loopback unless another one is given.

| metric (all are gauges) | labels | is |
|---|---|---|
| notebook_ext_broker_info | version | 1 |
| notebook_ext_broker_start_time_seconds | | when it started, Unix seconds |
| notebook_ext_clients | | connected notebooks and scripts |
| notebook_ext_host_cpu_slots, notebook_ext_host_cpu_used | host | cores, and those in use |
| notebook_ext_host_memory_bytes | host | what workers may have |
| notebook_ext_pool_workers | function, state: idle, busy, starting | workers |
| notebook_ext_pool_backlog_inputs | function | inputs that wait |
| notebook_ext_pool_running_inputs | function | inputs that run |
| notebook_ext_open_calls | function | calls that have not ended |
| notebook_ext_open_call_inputs | function, state: pending, running, … | their inputs |
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import ConnectionError, InvalidError  # noqa: A004  ours
from notebook_ext import inquiry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from kernel_worker.wire.messages import Status

DEFAULT_ADDRESS: Final = "127.0.0.1:9464"
GONE_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 1.0
_WORKERS: Final = ("idle", "busy", "starting")
_INPUTS: Final = ("pending", "running", "succeeded", "failed", "cancelled")


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of `HOST:PORT`; port 0 is one that is free.

    Raises:
        InvalidError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 2**16):
        raise InvalidError(f"--metrics {text!r}: allowed is HOST:PORT, such as {DEFAULT_ADDRESS}.")
    return host.strip("[]"), int(port)


def start(address: str) -> str:
    """Start the process that serves metrics of the broker that runs; return their URL.

    Raises:
        InvalidError: prometheus-client is not installed, or `address` cannot be.
        ConnectionError: the address cannot be listened on.
    """
    parse_address(address)
    if find_spec("prometheus_client") is None:
        raise InvalidError(
            "--metrics needs prometheus-client; use pip install 'notebook-ext[metrics]'."
        )
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "notebook_ext.metrics", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path("/"),
        start_new_session=True,
        text=True,
    ) as process:  # it forks at once, so that what serves is nobody's child
        assert process.stdout is not None  # noqa: S101  a pipe
        line = process.stdout.readline().strip()
    if not line.startswith("http"):
        raise ConnectionError(f"metrics cannot be served at {address}: {line or 'it ended'}")
    return line


class BrokerCollector:
    """What prometheus-client asks at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the broker that runs; none where none does."""
        try:
            status = inquiry.status()
        except ConnectionError:
            return
        if status is not None:
            yield from metrics_of(status)


def metrics_of(status: Status) -> Iterator[Metric]:
    """Yield a status as metrics; see the table above."""
    from prometheus_client.core import GaugeMetricFamily as Gauge  # noqa: PLC0415  optional

    info = Gauge("notebook_ext_broker_info", "The broker that runs.", labels=["version"])
    info.add_metric([status.version], 1)
    yield info
    since = "When the broker started, in Unix seconds."
    yield Gauge("notebook_ext_broker_start_time_seconds", since, value=status.started_at)
    yield Gauge("notebook_ext_clients", "Connected clients.", value=status.clients)
    slots = Gauge("notebook_ext_host_cpu_slots", "Cores of a host.", labels=["host"])
    used = Gauge("notebook_ext_host_cpu_used", "Cores in use.", labels=["host"])
    memory = Gauge("notebook_ext_host_memory_bytes", "Memory for workers.", labels=["host"])
    for host in status.hosts:
        slots.add_metric([host.host], host.resources.cpu)
        used.add_metric([host.host], host.cpu_used)
        memory.add_metric([host.host], host.resources.memory_mib * 2**20)
    yield from (slots, used, memory)
    workers: Counter[tuple[str, str]] = Counter()
    backlog: Counter[str] = Counter()
    running: Counter[str] = Counter()
    for pool in status.pools:
        for state in _WORKERS:
            workers[pool.name, state] += getattr(pool, state)
        backlog[pool.name] += pool.backlog
        running[pool.name] += pool.running
    calls: Counter[str] = Counter(call.name for call in status.calls)
    inputs: Counter[tuple[str, str]] = Counter()
    for call in status.calls:
        for state in _INPUTS:
            inputs[call.name, state] += getattr(call, state)
    yield _counted(Gauge, "pool_workers", "Workers.", ["function", "state"], workers)
    yield _counted(Gauge, "pool_backlog_inputs", "Inputs that wait.", ["function"], backlog)
    yield _counted(Gauge, "pool_running_inputs", "Inputs that run.", ["function"], running)
    yield _counted(Gauge, "open_calls", "Calls that have not ended.", ["function"], calls)
    yield _counted(Gauge, "open_call_inputs", "Their inputs.", ["function", "state"], inputs)


def _counted(
    gauge: type[Metric],
    name: str,
    text: str,
    labels: list[str],
    counts: Counter[str] | Counter[tuple[str, str]],
) -> Metric:
    metric = gauge(f"notebook_ext_{name}", text, labels=labels)  # type: ignore[call-arg]
    for key, count in counts.items():
        values = [key] if isinstance(key, str) else list(key)
        metric.add_metric(values, count)  # type: ignore[attr-defined]
    return metric


def serve(address: str) -> None:
    """Serve metrics at `address` until the broker has gone; in a process of its own."""
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415  optional

    registry = CollectorRegistry()
    registry.register(BrokerCollector())
    host, port = parse_address(address)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        print(error.strerror, flush=True)  # noqa: T201  `start` reads it
        return
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{server.server_address[1]}/metrics", flush=True)  # noqa: T201  as above
    with open(os.devnull, "w", encoding="ascii") as nothing:  # noqa: PTH123  a descriptor
        os.dup2(nothing.fileno(), 1)  # nobody reads it any more
    seen = time.monotonic()
    while time.monotonic() - seen < GONE_SECONDS:
        time.sleep(LOOK_SECONDS)
        if inquiry.find() is not None:
            seen = time.monotonic()
    server.shutdown()


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    serve(sys.argv[1])
