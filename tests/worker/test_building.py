"""Building images: by uv, by pip, one at a time; what is said where it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kernel_worker import images
from kernel_worker.errors import InvalidError
from kernel_worker.model import Environment, ImageFile, ImageSpec, ImageStep
from kernel_worker.worker import building
from tests.packages import environment, wheel

OFFLINE = ("--no-index", "--no-deps")


def step(package: Path, kind: str = "pip") -> ImageStep:
    return ImageStep(kind, f"pip_install {package.name}", (str(package), *OFFLINE))  # type: ignore[arg-type]


def caller(python: str = sys.executable, path: str | None = None) -> Environment:
    variables = {**os.environ, "PATH": path or os.environ["PATH"]}
    return Environment(python, tuple(sys.path), variables, "")


def without_uv(tmp_path: Path) -> Environment:
    """Return the environment of a caller who has pip and no uv."""
    python = environment(tmp_path / "caller", wheel(tmp_path, "3.0"))
    return caller(str(python), path="/nowhere")


def said(name: str, python: str = sys.executable) -> str:
    code = "import importlib.metadata as m; print(m.version('flavour'))"
    return subprocess.run(
        [name, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_a_package_is_installed_beside_files(
    tmp_path: Path, by: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = ImageSpec((step(wheel(tmp_path, "1.0")),), (ImageFile("a/b.txt", b"text", 0o755),))
    around = caller() if by == "uv" else without_uv(tmp_path)
    building.build(spec, tmp_path, around)
    path = tmp_path / images.name_of(spec, around.python)
    assert said(str(images.python_of(path))) == "1.0"
    file = tmp_path / images.name_of_files(spec) / "a" / "b.txt"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("text", 0o755)
    told = capfd.readouterr().out
    assert told.startswith("Building an image, once on this machine: pip_install flavour-1.0")
    assert ("Processing" in told) is (by == "pip")
    building.build(spec, tmp_path, around)
    assert capfd.readouterr().out == "", "it is there"


def test_what_workers_need_is_in_the_image_in_their_version_or_not_at_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pinned = ImageStep("uv", "uv_pip_install flavour", ("flavour==1.0", "--no-index"))
    links = (("UV_FIND_LINKS", str(wheel(tmp_path, "1.0").parent)),)
    spec = ImageSpec(
        (msgspec.structs.replace(pinned, variables=links),), constraints=("flavour==2.0",)
    )
    with pytest.raises(InvalidError, match=r"flavour failed .*Workers need flavour==2\.0"):
        building.build(spec, tmp_path, caller())
    assert "flavour==2.0" in capfd.readouterr().out
    assert images.kept(tmp_path) == []
    assert [path.name for path in tmp_path.glob("im-*") if path.is_dir()] == [], "not in halves"


@pytest.mark.parametrize(
    ("seen", "hint"),
    [
        ("Failed to establish a new connection: [Errno -2]", "No package index could be reached"),
        ("error: dns error", "No package index could be reached"),
        ("No matching distribution (from versions: none)", "no such package, or could not be"),
        ("you require a==1 and a==2", "Workers need a==2, as the notebook has it"),
    ],
)
def test_what_is_known_to_mean_something_is_said(seen: str, hint: str) -> None:
    assert hint in building.hint_of(f"ERROR: {seen}", ["a==2", "b"])
    assert building.hint_of("ERROR: no archive", ["a==2", "b"]) == ""


def test_without_uv_what_asks_for_it_is_refused(tmp_path: Path) -> None:
    spec = ImageSpec((step(wheel(tmp_path, "1.0"), "uv"),))
    with pytest.raises(InvalidError, match=r"uv is not found.*pip_install"):
        building.build(spec, tmp_path, without_uv(tmp_path))


def test_two_processes_build_one_image_once(tmp_path: Path) -> None:
    spec = ImageSpec((step(wheel(tmp_path, "1.0")),))
    order = msgspec.msgpack.encode((spec, str(tmp_path), caller()))
    alive, held = os.pipe()
    command = [sys.executable, "-P", "-m", "kernel_worker.worker.building", str(alive)]
    builders = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(alive,),
            start_new_session=True,
        )
        for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write(order)
        builder.stdin.close()
    texts = []
    for builder in builders:
        assert builder.stdout is not None
        texts.append(builder.stdout.read().decode())
        builder.stdout.close()
        assert builder.wait() == 0, texts
    assert sum("Building an image" in text for text in texts) == 1
    os.close(alive)
    os.close(held)


def test_what_pip_was_told_is_told_to_uv() -> None:
    listed = (
        "global.find-links='/a\\n/b'\nglobal.no_index='true'\n:env:.trusted-host='host'\n"
        "download.find-links='/c'\nglobal.timeout='5'\nnonsense\nglobal.cert=a b\n"
    )
    assert building.in_words_of_uv(listed) == {
        "UV_FIND_LINKS": "/a,/b",
        "UV_NO_INDEX": "true",
        "UV_INSECURE_HOST": "host",
    }


def test_uv_is_among_what_tests_have() -> None:
    assert shutil.which("uv", path=str(Path(sys.executable).parent)) is not None
