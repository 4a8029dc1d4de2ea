"""A plugin of the run of nbval: what a cell shows of how it goes is not compared.

How long a call waits decides whether a progress display appears, or a line that says what it waits
for; so neither is in a comparison. Everything else that a cell shows is.
"""

from __future__ import annotations

from typing import Any

from nbval.plugin import IPyNbCell  # type: ignore[import-untyped]

_compare = IPyNbCell.compare_outputs


def pytest_configure() -> None:
    """Take it out of both sides before nbval compares them."""
    IPyNbCell.compare_outputs = _compare_rest


def _compare_rest(cell: Any, test: list[Any], ref: list[Any], *rest: Any) -> Any:
    return _compare(cell, _settled(test), _settled(ref), *rest)


def _settled(outputs: list[Any]) -> list[Any]:
    return [output for output in outputs if not is_live(output)]


def is_live(output: Any) -> bool:
    """Whether an output of a notebook tells how something goes, not what came of it."""
    if output["output_type"] == "stream":
        lines = "".join(output["text"]).splitlines()
        return all(line.startswith("notebook_ext: waits: ") for line in lines)
    plain = "".join(output.get("data", {}).get("text/plain", ""))
    return plain.startswith("Progress of ")
