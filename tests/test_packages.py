"""What of two versions is refused, what is a warning, and what is nothing."""

from __future__ import annotations

import sys
import types

import cloudpickle
import pytest

from kernel_worker import packages
from kernel_worker.errors import VersionError


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the name of a package of which `version` is here."""
    module = types.ModuleType("some_package")
    module.__version__ = "2.13.0+cpu"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_package", module)
    return "some_package"


@pytest.mark.parametrize(
    ("there", "how"),
    [
        ("2.13.0", "fits"),
        ("2.13.0+cu128", "fits"),
        ("2.13.9rc1", "fits"),
        ("2.13", "fits"),
        ("2.12.0", "warns"),
        ("2", "warns"),
        ("1.13.0", "refused"),
        ("3.0", "refused"),
        ("0.13", "refused"),
        ("2026.11", "warns"),
        ("", "fits"),
        ("unknown", "fits"),
    ],
)
def test_what_two_versions_mean(here: str, there: str, how: str) -> None:
    versions = ((here, there),)
    if how == "refused":
        with pytest.raises(VersionError) as caught:
            packages.check("train", "gpu-box", versions, ())
        said = str(caught.value)
        assert said.startswith(
            f"train was captured with {here} {there}, but gpu-box has {here} 2.13.0+cpu; "
        )
        assert f"pip_install('{here}=={there}')" in said
        assert sys.executable in said
        assert caught.value.lack == f"gpu-box has {here} 2.13.0+cpu"
    else:
        warnings = packages.check("train", "gpu-box", versions, ())
        assert [f"gpu-box has {here} 2.13.0+cpu, the notebook {there}" in w for w in warnings] == (
            [True] if how == "warns" else []
        )


def test_what_is_needed_and_not_here_is_refused() -> None:
    versions = (("no_such_package", "1.5+cpu"), ("other_missing", ""))
    assert not packages.check("f", "box", versions, ("json", "not_captured"))
    for name, text in (
        ("no_such_package", r"f needs no_such_package 1\.5\+cpu, and box has no no_such_package"),
        (
            "other_missing",
            r"f needs other_missing, and box has no .*pip_install\('other_missing'\)",
        ),
    ):
        with pytest.raises(VersionError, match=text):
            packages.check("f", "box", versions, (name,))
    found = packages.missing(
        "f", "box", versions, ModuleNotFoundError(name="no_such_package.inner")
    )
    assert found is not None
    assert "pip_install('no_such_package==1.5')" in str(found)
    assert found.lack == "box has no no_such_package"
    assert packages.missing("f", "box", versions, ModuleNotFoundError(name="mine")) is None
    assert packages.missing("f", "box", versions, ImportError("nothing is known")) is None


def test_a_version_is_the_modules_own_or_what_was_installed(here: str) -> None:
    pytest_version = packages.version_of("pluggy")
    assert packages.captured([f"{here}.inner", "json", "pluggy"]) == (
        ("cloudpickle", cloudpickle.__version__),
        ("json", sys.modules["json"].__version__),
        ("pluggy", pytest_version),
        (here, "2.13.0+cpu"),
    )
    assert pytest_version
    assert packages.version_of("hatchling_of_nobody") == ""
    assert packages.version_of("pip").count(".") >= 1, "it is not imported, and recorded"
