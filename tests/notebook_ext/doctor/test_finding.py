from __future__ import annotations

from kernel_worker.errors import InvalidError
from notebook_ext.doctor.finding import Finding, mib, of_error


def test_an_error_of_ours_is_a_problem_with_its_remedy() -> None:
    found = of_error("here", InvalidError("it is red; paint it, or set COLOUR; both help"))
    assert found == Finding("here", "problem", "it is red", "paint it, or set COLOUR; both help")
    assert not of_error("here", InvalidError("it is red")).remedy


def test_sizes_are_for_people() -> None:
    assert [mib(0), mib(3 * 2**20), mib(1.5 * 2**30)] == ["0 MiB", "3 MiB", "1.5 GiB"]
