"""Which modules an image's interpreter borrows, and that it borrows no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kernel_worker import borrowing


def installed(place: Path, name: str, *requires: str, files: tuple[str, ...] = ()) -> None:
    """Write the metadata of a distribution, and empty modules."""
    about = place / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", *(f"Requires-Dist: {r}" for r in requires)]
    (about / "METADATA").write_text("\n".join([*lines, "", "Requires-Dist: in-the-description"]))
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, "../../bin/x")))
    for file in files:
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_text(f"WHERE = {str(place)!r}\n")


def test_what_notebook_ext_needs_is_found_and_nothing_else(tmp_path: Path) -> None:
    installed(tmp_path, "notebook_ext", "Alpha.One>=1", 'extra; extra == "more"', "gone")
    installed(tmp_path, "alpha_one", "beta ; python_version > '3'", files=("alpha/__init__.py",))
    files = ("beta.py", "_beta.cpython-311-x86_64-linux-gnu.so", "beta.libs/x.so")
    installed(tmp_path, "beta", "alpha-one", files=files)
    installed(tmp_path, "other", files=("other.py",))
    found = borrowing.names((str(tmp_path), "/nowhere"))
    assert {"alpha", "beta", "_beta", "kernel_worker", "notebook_ext", "zmq"} <= set(found)
    assert not {"other", "extra", "beta.libs", "bin", ".."} & set(found)


def test_what_the_interpreter_has_itself_comes_first(tmp_path: Path) -> None:
    lent, own = tmp_path / "lent", tmp_path / "own"
    for place in (lent, own):
        installed(place, "other", files=("other.py",))
    installed(lent, "notebook_ext", "alpha", "beta")
    installed(lent, "alpha", files=("alpha.py",))
    installed(lent, "beta", files=("beta.py",))
    installed(own, "beta", files=("beta.py",))
    code = (
        borrowing.prelude([str(lent)], [str(own)])
        + "\nimport alpha, beta, importlib.util\n"
        + "print(alpha.WHERE, beta.WHERE, importlib.util.find_spec('nowhere'), sys.path[0])"
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == [str(lent), str(own), "None", str(own)]
