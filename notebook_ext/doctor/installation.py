"""The installation: Python and the packages, against the ranges that this version declares."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

import zmq
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from notebook_ext.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "notebook-ext"


def findings() -> Iterator[Finding]:
    """Look at the interpreter and at each package that is required."""
    about = metadata.metadata(PACKAGE)
    yield python(platform.python_version(), str(about["Requires-Python"] or ""))
    required = [Requirement(each) for each in metadata.requires(PACKAGE) or ()]
    yield from packages([each for each in required if each.marker is None])


def python(version: str, allowed: str) -> Finding:
    """Say whether `version` of Python is in the range `allowed`."""
    if SpecifierSet(allowed).contains(version, prereleases=True):
        return Finding("python", "ok", f"{version}, {platform.python_implementation()}")
    remedy = f"install {PACKAGE} for a Python {allowed}"
    return Finding("python", "problem", f"{version}: {allowed} is required", remedy)


def packages(required: list[Requirement]) -> Iterator[Finding]:
    """Say which of the required packages are there in a version that will do."""
    there = []
    for each in required:
        version = _version(each.name)
        if each.specifier.contains(version, prereleases=True) and version:
            there.append(f"{each.name} {version}")
            continue
        said = f"{each.name} {version}: {each.specifier} is required"
        if not version:
            said = f"{each.name} is not installed"
        yield Finding("packages", "problem", said, f"pip install '{each}'")
    if there:
        yield Finding("packages", "ok", ", ".join([*there, f"libzmq {zmq.zmq_version()}"]))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
