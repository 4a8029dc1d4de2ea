"""Packages that know nothing but their version, and environments that have them."""

from __future__ import annotations

import sysconfig
import venv
import zipfile
from pathlib import Path


def wheel(directory: Path, version: str) -> Path:
    """Make a wheel of a package that knows its version only."""
    path = directory / f"flavour-{version}-py3-none-any.whl"
    about = f"flavour-{version}.dist-info"
    files = {
        "flavour.py": f"NAME = 'flavour {version}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: flavour\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


def environment(directory: Path, package: Path) -> Path:
    """Make a virtual environment on top of the test's own, with one package more."""
    venv.create(directory, symlinks=True, with_pip=False)
    (packages,) = directory.glob("lib/python*/site-packages")
    below = sysconfig.get_path("purelib")
    (packages / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(packages)
    return directory / "bin" / "python"


def site(directory: Path, version: str) -> Path:
    """Return a folder of installed packages in which `flavour` has a version."""
    place = directory / "site-packages"
    with zipfile.ZipFile(wheel(directory, version)) as archive:
        archive.extractall(place)
    return place
