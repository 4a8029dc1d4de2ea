from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from notebook_ext import image_steps as steps
from notebook_ext.exception import InvalidError
from tests.packages import wheel


def test_what_lies_at_a_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path, "1.0")
    step = steps.install("pip_install", "pip", ["./flavour-1.0-py3-none-any.whl[extra]", "a"], {})
    one = step.made()
    assert one.arguments == (f"{tmp_path}/flavour-1.0-py3-none-any.whl[extra]", "a")
    before = step.stamp()
    wheel(tmp_path, "1.0").write_bytes(b"another")
    assert step.stamp() != before
    assert step.made().stamp != one.stamp


def test_a_projects_folder_counts_without_what_is_made_in_it(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")
    step = steps.install("pip_install", "pip", [str(tmp_path), "git+https://host/x.tar.gz"], {})
    before = step.stamp()
    for made in (".git", "__pycache__", "build", "x.egg-info"):
        (tmp_path / made).mkdir()
        (tmp_path / made / "file").write_text("")
    assert step.stamp() == before
    (tmp_path / "module.py").write_text("edited")
    assert step.stamp() != before


def test_requirements_are_read_when_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("b==2\n")
    (tmp_path / "limits.txt").write_text("c<3\n")
    file = tmp_path / "requirements.txt"
    file.write_text("a\n-r more.txt\n--constraint=limits.txt\n./local\n")
    step = steps.install_file("pip_install_from_requirements", "pip", file, {})
    limits = f"--constraint {tmp_path / 'limits.txt'}"
    assert step.made().requirements.splitlines() == ["a", "b==2", limits, f"{tmp_path}/local"]
    file.write_text("d\n")
    assert step.made().requirements == "d"


def test_the_dependencies_of_a_project(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        "[project]\ndependencies = ['a>=1']\n[project.optional-dependencies]\nx = ['b']\ny = ['c']"
    )
    assert steps.project_requirements(project, []) == ["a>=1"]
    assert steps.project_requirements(project, ["y"]) == ["a>=1", "c"]


def test_a_function_runs_again_when_its_code_changes() -> None:
    def one() -> int:
        return 1

    def other() -> int:
        return 2

    first, second = (steps.run(f, (1,), {}, {}).made() for f in (one, other))
    assert first.title == "run_function(one)"
    assert first.stamp == steps.run(one, (1,), {}, {}).made().stamp
    assert len({first.stamp, second.stamp, steps.run(one, (2,), {}, {}).made().stamp}) == 3
    assert steps.run(one, (), {}, {}).stamp() == steps.run(one, (), {}, {}).stamp()


def test_workers_need_versions_that_fit() -> None:
    found = steps.constraints()
    assert f"cloudpickle=={metadata.version('cloudpickle')}" in found
    assert any(each.startswith("pyzmq>=") for each in found)
    assert not any(each.startswith(("click", "rich")) for each in found)


def test_a_checkout_on_the_path_constrains_pickles_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", missing)
    steps.constraints.cache_clear()
    assert len(steps.constraints()) == 1
    steps.constraints.cache_clear()


def test_other_options_are_refused() -> None:
    with pytest.raises(InvalidError, match="nmae=1: allowed in pip_install are"):
        steps.install("pip_install", "pip", ["a"], {"nmae": 1, "gpu": "any", "timeout": 3})
