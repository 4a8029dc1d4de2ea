"""SECURITY.md promises nothing without a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_each_test_that_it_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 10
    gone = [
        f"{path}::{name}"
        for path, name in named
        if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert gone == []


def test_each_promise_names_one() -> None:
    promises = TEXT.partition("## What is promised\n")[2].partition("\n## ")[0].split("\n- ")[1:]
    assert len(promises) > 5
    assert [each for each in promises if "::test_" not in each] == []


def test_nothing_else_is_bound_than_it_says() -> None:
    """Whoever binds something else has to write it there."""
    bound = [
        path.relative_to(ROOT).as_posix()
        for room in ("kernel_worker", "notebook_ext")
        for path in sorted((ROOT / room).rglob("*.py"))
        if re.search(
            r"(router|end)\.bind\(|_server\(\w|socket\(\)\.bind|socket\.bind\(", path.read_text()
        )
    ]
    assert bound == [
        "kernel_worker/broker/bulk.py",
        "kernel_worker/broker/door.py",
        "kernel_worker/broker/sockets.py",
        "kernel_worker/wire/line.py",
        "notebook_ext/metrics.py",
        "notebook_ext/web/places.py",
        "notebook_ext/web/streams.py",
    ]
