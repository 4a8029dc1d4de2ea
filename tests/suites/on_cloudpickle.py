"""cloudpickle's tests of what it sends to another process, with our worker in place of its own.

What is run are the tests that use such a worker, in themselves or in a script that they run; the
others are cloudpickle's own matter.
"""

from __future__ import annotations

import inspect

import pytest

LEFT_OUT = {r"Protocol2CloudPickleTest::.*": "the same again, by another protocol: ours is one"}
USES = ("subprocess_worker", "subprocess_pickle_echo", "subprocess_pickle_string")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what uses a worker."""
    ours: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        source = inspect.getsource(item.function) if isinstance(item, pytest.Function) else ""
        (ours if any(each in source for each in USES) else others).append(item)
    items[:] = ours
    config.hook.pytest_deselected(items=others)
