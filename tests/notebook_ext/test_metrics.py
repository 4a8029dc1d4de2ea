from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

import notebook_ext as nb
from notebook_ext import metrics
from notebook_ext.cli import main
from notebook_ext.exception import ConnectionError, InvalidError  # noqa: A004  ours
from tests.waiting import wait_until

Run = Callable[..., Result]


def scraped(url: str) -> dict[tuple[str, ...], float]:
    """Return what is served: values by name and labels."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  ours
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def exporters() -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if "notebook_ext.metrics" in _command(p)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_a_scrape_tells_how_the_broker_stands(live: nb.App) -> None:
    @live.function(min_containers=1)
    def scraped_one(x: int) -> int:
        return x

    assert scraped_one.remote(1) == 1
    status = nb.process.current().status().join()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.metrics_of(status)
        for sample in family.samples
    }
    name = scraped_one.name
    assert found["notebook_ext_broker_info", status.version] == 1
    assert found["notebook_ext_broker_start_time_seconds",] == status.started_at
    workers = [found["notebook_ext_pool_workers", name, s] for s in ("idle", "busy", "starting")]
    assert sum(workers) >= 1
    assert found["notebook_ext_pool_backlog_inputs", name] == 0
    host = status.hosts[0]
    assert found["notebook_ext_host_cpu_slots", host.host] == host.resources.cpu
    scraped_one.keep_warm(0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command line with a broker of its own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "metrics")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    yield invoke
    assert invoke("broker", "stop").exit_code == 0


def test_a_broker_with_metrics(run: Run) -> None:
    started = run("broker", "start", "--metrics", "127.0.0.1:0")
    found = re.search(r"^Metrics: (http://127\.0\.0\.1:\d+/metrics)$", started.output, re.MULTILINE)
    assert found is not None, started.output
    url = found[1]
    assert scraped(url)["notebook_ext_clients",] == 0
    # A broker is there a moment before its host.
    slots = "notebook_ext_host_cpu_slots"
    wait_until(lambda: slots in {name for name, *_ in scraped(url)}, what="its host has joined")
    assert len(exporters()) == 1
    taken = run("broker", "start", "--metrics", url.removeprefix("http://").partition("/")[0])
    assert taken.exit_code == 1
    assert "cannot be served" in taken.output
    assert run("broker", "stop").exit_code == 0
    wait_until(lambda: not exporters(), 30, what="the exporter leaves")


def test_where_no_broker_runs_there_is_nothing(run: Run) -> None:
    assert list(metrics.BrokerCollector().collect()) == []


@pytest.mark.parametrize("wrong", ["x", "9464", ":9464", "127.0.0.1:", "127.0.0.1:99999"])
def test_addresses(wrong: str) -> None:
    assert metrics.parse_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert metrics.parse_address("[::1]:0") == ("::1", 0)
    with pytest.raises(InvalidError, match="allowed is HOST:PORT"):
        metrics.parse_address(wrong)


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="in use"):
            metrics.start(address)


def test_what_is_written_of_them_is_what_there_is() -> None:
    text = Path(metrics.__file__).read_text()
    table = metrics.__doc__ or ""
    names = set(re.findall(r'"(pool_\w+|open_\w+)"', text)) | {
        name.removeprefix("notebook_ext_") for name in re.findall(r'"(notebook_ext_\w+)"', text)
    }
    assert names
    assert {name for name in names if f"notebook_ext_{name}" not in table} == set()
