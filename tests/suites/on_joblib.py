"""joblib's `test_parallel`, with the backend `notebook_ext` in its lists of backends.

It is in `BACKENDS` as soon as joblib is imported; wherever a test is tried with loky among others,
ours is tried too. What is run are the tests that are tried with ours.
"""

from __future__ import annotations

import pytest

import notebook_ext as nb

assert nb.__version__  # imported first: then joblib knows the backend before its tests look
NAME = "notebook_ext"
LEFT_OUT = {
    r"test_(auto_memmap_on_arrays_from_generator|memmapping_leaks).*": "of joblib's memmapping",
    r"test_error_capture.*": "asks for a new pool after a failure, by a private attribute",
    r"test_nested_parallelism_limit.*": "makes the name of the backend's class out of its own",
    r"test_nested_backend_in_sequential.*-None\]": (
        "expects one job where none is said: ours takes all workers, as joblib's backend for dask"
    ),
}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put our backend beside loky."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1]
        if isinstance(values, list) and "loky" in values and NAME not in values:
            values.append(NAME)


def _is_ours(value: object) -> bool:
    return value == NAME or type(value).__module__.startswith(f"{NAME}.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what is tried with our backend; joblib's others are its own matter."""
    ours: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        (ours if any(map(_is_ours, parameters.values())) else others).append(item)
    items[:] = ours
    config.hook.pytest_deselected(items=others)
