"""A notebook whose packages are not those of the machine where its functions run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.places import Place
from tests.acceptance.test_elsewhere import Laptop, Site
from tests.waiting import PATIENCE


def installed(home: Path, **versions: str) -> str:
    """Return a folder of installed packages of these versions."""
    folder = home / "site-packages"
    for name, version in versions.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\nthing = 1\n")
    return str(folder)


@pytest.fixture
def laptop(own_place: Place, tmp_path: Path) -> Iterator[Laptop]:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    site = Site(own_place, there)
    site.variables["PYTHONPATH"] = installed(there, near="2.1", far="3.0", calendar="2026.1")
    site.types("broker", "start", "--listen", site.address)
    made = Laptop(here, site.invite("laptop", here / "box.json"))
    made.variables["PYTHONPATH"] = installed(
        here, near="2.0", far="2.9", calendar="2025.4", only="1.5", other="1.0"
    )
    yield made
    site.types("broker", "stop")


def test_what_does_not_fit_is_refused_before_it_runs_and_the_rest_is_said(laptop: Laptop) -> None:
    mark = laptop.home / "ran"
    with laptop.starts(
        f"""
        import calendar as _, far, near, only

        def ran():
            open({str(mark)!r}, "a").close()

        @app.function()
        def has_global():
            ran()
            return only.thing

        @app.function()
        def imports():
            ran()
            import other.inner

        @app.function()
        def is_of_another_major():
            ran()
            return far.thing

        @app.function()
        def warns(x):
            return near.thing + x

        @app.function()
        def may_do_without(x):
            if x < 0:
                import other
            try:
                import only
            except ImportError:
                return "without"

        found = []
        for each in (has_global, imports, is_of_another_major):
            try:
                each.remote()
            except nb.exception.VersionError as error:
                found.append(str(error))
        found.append(warns.remote(1))
        found.append(list(warns.map(range(3))))
        found.append(may_do_without.remote(1))
        print(json.dumps(found))
        """
    ) as process:
        said, wrong = process.communicate(timeout=90 * PATIENCE)
    assert not process.returncode, wrong
    has_global, imports, major, warned, mapped, without = json.loads(said.splitlines()[-1])
    assert has_global.startswith("has_global needs only 1.5, and ")
    assert "pip_install('only==1.5')" in has_global
    assert imports.startswith("imports needs other, and "), "nobody has recorded which"
    assert major.startswith("is_of_another_major was captured with far 2.9, but ")
    assert "has far 3.0; " in major
    assert not mark.exists()
    assert (warned, mapped, without) == (2, [1, 2, 3], "without")
    lines = [line for line in wrong.splitlines() if "has near 2.1, the notebook 2.0" in line]
    assert lines
    assert "calendar" not in wrong
