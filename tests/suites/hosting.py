"""A pytest plugin: tests of another project run on our workers, as they were installed.

`python -m tests.suites` loads it beside one of `on_cloudpickle`, `on_dask`, …, which say how
that project comes to our workers and what is left out, and why: `LEFT_OUT` has the reason by a
pattern of test names; a pattern that fits nothing any more is an error. Nothing of theirs is kept
here or changed on disk.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

FIGURES = "NOTEBOOK_EXT_SUITE_FIGURES"
"""The environment variable with the path of the file that counts are written to."""
BASE = "NOTEBOOK_EXT_SUITE_BASE"
"""That with the path of the run's own directory."""
TESTS = "NOTEBOOK_EXT_SUITE_TESTS"
"""That with the path of tests that were brought."""
LEFT = pytest.StashKey[Counter[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in this run's own directory."""
    config.option.basetemp = f"{os.environ[BASE]}/t"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the suite's plugin says."""
    reasons = [getattr(each, "LEFT_OUT", {}) for each in config.pluginmanager.get_plugins()]
    left_out = {re.compile(pattern): why for each in reasons for pattern, why in each.items()}
    unused = set(left_out)
    config.stash[LEFT] = Counter()
    kept, left = [], []
    for item in items:
        name = item.nodeid.partition("::")[2]
        pattern = next((each for each in left_out if each.fullmatch(name)), None)
        if pattern is None:
            kept.append(item)
        else:
            unused.discard(pattern)
            config.stash[LEFT][left_out[pattern]] += 1
            left.append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)
    if unused:
        raise pytest.UsageError(f"nothing fits {[each.pattern for each in unused]} any more")


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out and why, and write the counts down."""
    left = config.stash.get(LEFT, Counter())
    terminalreporter.section("left out")
    for reason, count in left.most_common():
        terminalreporter.line(f"{count:5} {reason}")
    kinds = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    counts = {each: len(terminalreporter.stats.get(each, ())) for each in kinds}
    if path := os.environ.get(FIGURES):
        Path(path).write_text(json.dumps(counts | {"left_out": sum(left.values())}))
