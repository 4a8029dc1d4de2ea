"""What the measurements become: one record per system, a table for people, a JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


@dataclass
class Map:
    """One map of no-ops: how many inputs it was asked for, ran, and in what time."""

    asked: int
    count: int
    seconds: float
    cpu_seconds: float = 0.0
    """For an input, over all processes."""

    @property
    def inputs_per_second(self) -> float:
        """The rate; of `count` inputs, which are fewer than `asked` where the system is slow."""
        return self.count / self.seconds

    @property
    def extrapolated(self) -> bool:
        """Whether the rate was measured on fewer inputs than asked for."""
        return self.count < self.asked


@dataclass
class Record:
    """All that was measured of one system; a list has one entry per round (or per block)."""

    name: str
    version: str = ""
    failure: str = ""
    import_seconds: list[float] = field(default_factory=list)
    first_result_seconds: list[float] = field(default_factory=list)
    latency_seconds: list[float] = field(default_factory=list)
    latency_ratios: list[float] = field(default_factory=list)
    maps: dict[str, list[Map]] = field(default_factory=dict)
    efficiency: dict[str, list[float]] = field(default_factory=dict)
    cpu_call_seconds: list[float] = field(default_factory=list)
    """For a call, over all processes; an entry per block."""
    memory_mb: list[float] = field(default_factory=list)
    """Of all processes, after the maps."""
    echo_rates: list[float] = field(default_factory=list)
    """Bytes per second of a large array, there and back."""
    first_of_many_seconds: list[float] = field(default_factory=list)
    left_behind: int = 0

    def rate(self, title: str) -> str:
        """Return the median rate of the maps under `title`, `*` where it is extrapolated."""
        maps = self.maps.get(title)
        if not maps:
            return "-"
        rate = statistics.median(entry.inputs_per_second for entry in maps)
        return f"{rate:,.0f}{'*' if maps[0].extrapolated else ''}"


HEADINGS = (
    "system",
    "import s",
    "first result s",
    "p50 µs",
    "of reference",
    "CPU µs",
    "10 k /s",
    "1 M /s",
    "CPU µs an input",
    "1 M by hand /s",
    "1 ms sleep",
    "1 ms busy",
    "skewed",
    "first of 100 k ms",
    "array GB/s",
    "MB",
)


def table(records: Iterable[Record]) -> str:
    """Return the table, one line per system, as Markdown."""
    rows = [HEADINGS, *(_row(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "| " + " | ".join(cells) + " |"


def _row(record: Record) -> tuple[str, ...]:
    return (
        record.name,
        _median(record.import_seconds, "{:.2f}"),
        _median(record.first_result_seconds, "{:.2f}"),
        _median([1e6 * value for value in record.latency_seconds], "{:.0f}"),
        _median(record.latency_ratios, "{:.2f}"),
        _median([1e6 * value for value in record.cpu_call_seconds], "{:.0f}"),
        record.rate("10 k"),
        record.rate("1 M"),
        _median([1e6 * each.cpu_seconds for each in record.maps.get("1 M", [])], "{:.2f}"),
        record.rate("1 M chunked"),
        _median(record.efficiency.get("sleep", []), "{:.0%}"),
        _median(record.efficiency.get("burn", []), "{:.0%}"),
        _median(record.efficiency.get("skewed", []), "{:.0%}"),
        _median([1e3 * value for value in record.first_of_many_seconds], "{:.0f}"),
        _median([value / 1e9 for value in record.echo_rates], "{:.2f}"),
        _median(record.memory_mb, "{:.0f}"),
    )


def _median(values: list[float], form: str) -> str:
    return form.format(statistics.median(values)) if values else "-"


def failures(records: Iterable[Record]) -> str:
    """Return a line for every system that failed, with what was measured of it before."""
    return "\n".join(f"{r.name}: failed: {r.failure}" for r in records if r.failure)


_PLOTS: tuple[tuple[str, Callable[[Record], list[float]]], ...] = (
    ("a warm call, µs (less is better)", lambda r: [1e6 * each for each in r.latency_seconds]),
    (
        "1 M no-ops, inputs/s, defaults",
        lambda r: [each.inputs_per_second for each in r.maps.get("1 M", [])],
    ),
    (
        "first result of 100 k, ms (less is better)",
        lambda r: [1e3 * each for each in r.first_of_many_seconds],
    ),
    ("tasks of 1 ms, efficiency", lambda r: r.efficiency.get("sleep", [])),
    ("a few long ones last, efficiency", lambda r: r.efficiency.get("skewed", [])),
    ("100 MB there and back, GB/s", lambda r: [each / 1e9 for each in r.echo_rates]),
)


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw medians and ranges of what users notice, a panel each, and write a PNG to `path`."""
    import matplotlib as mpl  # noqa: PLC0415  a table is printed without it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(2, 3, figsize=(15, 8), sharey=True, layout="constrained")
    for panel, (title, values) in zip(panels.flat, _PLOTS, strict=True):
        for row, record in enumerate(records):
            if found := sorted(values(record)):
                middle = statistics.median(found)
                color = "tab:orange" if record.name == "notebook-ext" else "tab:gray"
                panel.barh(row, middle, color=color)
                low, high = found[len(found) // 10], found[-1 - len(found) // 10]
                panel.plot([low, high], [row, row], color="black", linewidth=1)
        if "efficiency" not in title:
            panel.set_xscale("log")
        panel.set_title(title, fontsize=10)
        panel.set_yticks(range(len(records)), [record.name for record in records])
    panels.flat[0].invert_yaxis()
    figure.savefig(path, dpi=90)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }


def write_json(path: Path, records: Iterable[Record], facts: dict[str, Any]) -> None:
    """Write everything that was measured, and where, to `path`."""
    systems = [_for_json(record) for record in records]
    path.write_text(json.dumps({**facts, "systems": systems}, indent=1) + "\n")


def _for_json(record: Record) -> dict[str, Any]:
    """Return the record with the thousands of single latencies as their percentiles."""
    data = asdict(record)
    durations = sorted(data.pop("latency_seconds"))
    data["latency_calls"] = len(durations)
    if durations:
        cuts = statistics.quantiles(durations, n=100)
        data["latency_seconds"] = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
    return data
