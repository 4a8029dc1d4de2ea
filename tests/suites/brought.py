"""Tests that a project does not install: brought from its repository, for one run.

cloudpickle's are neither in its wheel nor in its source distribution. The release is the one that
is installed, or the last one before it that the repository has. `CLOUDPICKLE_REPOSITORY` names a
copy of it (a directory, or an address), where the usual one cannot be reached.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

REPOSITORY = os.environ.get(
    "CLOUDPICKLE_REPOSITORY", "https://github.com/cloudpipe/cloudpickle.git"
)
OURS = "\n\nfrom tests.suites.cloudpickle_worker import *\n"
RELEASE = re.compile(r"v\d+\.\d+\.\d+")
NUMBER = re.compile(r"\d+")
MAIN = '\n\nif __name__ == "__main__":'


def cloudpickle(base: Path) -> Path:
    """Put cloudpickle's tests below `base`, with our worker in place of theirs; return where.

    Raises:
        subprocess.CalledProcessError: the repository cannot be reached.
    """
    tag = _release(_said("git", "ls-remote", "--tags", "--refs", REPOSITORY).split())
    copy = base / "cloudpickle"
    clone = ("-c", "advice.detachedHead=false", "clone", "--quiet", "--depth=1", "--no-local")
    _said("git", *clone, f"--branch={tag}", REPOSITORY, copy)
    theirs = (copy / "tests").rename(base / "cloudpickle_tests")  # ours is the package `tests`
    package = "_cloudpickle_testpkg"  # one that their tests take for installed
    (theirs / "cloudpickle_testpkg" / package).rename(base / package)
    room = theirs / "testutils.py"
    before, main, after = room.read_text().partition(MAIN)
    assert main, "their worker's room looks otherwise"
    room.write_text(before + OURS + main + after)
    return theirs


def _release(words: list[str]) -> str:
    """Return the newest release, of those that `git ls-remote` lists, up to what is installed."""
    tags = [each.removeprefix("refs/tags/") for each in words]
    releases = {_numbers(tag): tag for tag in tags if RELEASE.fullmatch(tag)}
    return releases[max(each for each in releases if each <= _numbers(version("cloudpickle")))]


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, NUMBER.findall(release)[:3]))


def _said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
