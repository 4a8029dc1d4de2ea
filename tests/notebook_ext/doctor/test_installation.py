from __future__ import annotations

from packaging.requirements import Requirement

from notebook_ext.doctor import installation


def test_this_installation_is_sound_and_every_dependency_was_looked_at() -> None:
    found = list(installation.findings())
    assert [each.grade for each in found] == ["ok", "ok"]
    for name in ("pyzmq 2", "ipykernel 7.", "ipywidgets 8.", "anywidget 0.", "libzmq 4."):
        assert name in found[1].said
    assert "sphinx" not in found[1].said, "what is optional may be missing"


def test_what_is_missing_or_too_old_is_named_with_its_range() -> None:
    required = ["pyzmq>=999", "not-there-at-all>=2", "click>=8"]
    old, missing, fine = installation.packages([Requirement(each) for each in required])
    assert old.grade == missing.grade == "problem"
    assert old.said.endswith(": >=999 is required")
    assert old.remedy == "pip install 'pyzmq>=999'"
    assert missing.said == "not-there-at-all is not installed"
    assert fine.said.startswith("click 8.")


def test_another_python_is_a_problem() -> None:
    found = installation.python("3.9.18", ">=3.11")
    assert (found.grade, found.said) == ("problem", "3.9.18: >=3.11 is required")
    assert installation.python("3.14.0rc1", ">=3.11").grade == "ok"
