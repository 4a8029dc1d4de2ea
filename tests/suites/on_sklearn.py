"""scikit-learn's tests of what runs in parallel, with `notebook_ext` as joblib's default backend.

Where a test tries several backends, ours is one more. Loops that ask for no number of jobs run on
all workers, so that what the tests train is trained there: the tests that are left out fail
likewise with loky, where it has two jobs by default.
"""

from __future__ import annotations

import joblib
import pytest

import notebook_ext as nb

assert nb.__version__  # it is what tells joblib of the backend
NAME = "notebook_ext"
joblib.register_parallel_backend(NAME, joblib.parallel.BACKENDS[NAME], make_default=True)
LEFT_OUT = {
    r"test_parallel_delayed_warnings|test_searchcv_raise_warning_with_non_finite_score.*": (
        "expects a warning here that is raised where the work is done"
    ),
    r"test_multi_metric_search_forwards_metadata.*": (
        "expects that what is trained registers itself in a list of the test"
    ),
    r"test_search_callbacks_receive_search_instance.*": (
        "callbacks of what is trained are to get the very object of the test"
    ),
    r"test_search_callbacks_with_partial_fit_failures": (
        "scikit-learn sends a class of the test's function to its callbacks by plain pickle"
    ),
    r"test_grid_search_cv_splits_consistency": "a generator cannot be sent to a worker",
}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put our backend beside loky."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1]
        if isinstance(values, list) and "loky" in values and NAME not in values:
            values.append(NAME)
