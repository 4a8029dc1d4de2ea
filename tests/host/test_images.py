"""What an environment with an image is on a host; `worker/test_building.py` shows builds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

from kernel_worker import images as kept
from kernel_worker.errors import InvalidError
from kernel_worker.host.images import Build, Images, own_where_missing
from kernel_worker.model import ELSEWHERE, Environment, ImageFile, ImageSpec, ImageStep

SPEC = ImageSpec((ImageStep("pip", "pip_install a", ("a",)),), (ImageFile("f", b"1", 0o644),))
CALLER = Environment(
    sys.executable, ("/lent",), {"PATH": "/bin", "PYTHONPATH": "/lent", "A": "1"}, "stamp"
)


def found(folder: Path) -> Images:
    def fail(_: Build) -> None:
        raise AssertionError("nothing is built here")

    return Images(lambda: folder, -1, fail, fail)


def encoded(environment: Environment, **changes: object) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(environment, **changes))


def test_without_an_image_the_environment_is_the_callers(tmp_path: Path) -> None:
    images = found(tmp_path)
    own = encoded(CALLER)
    assert images.resolve(own).encoded is own
    assert images.build_of(own) is None
    far = images.resolve(encoded(ELSEWHERE, variables={"A": "2"}))
    assert (far.environment.python, far.environment.path) == (sys.executable, tuple(sys.path))
    assert far.environment.variables["A"] == "2"


@pytest.mark.parametrize("caller", [CALLER, ELSEWHERE])
def test_in_an_image_it_is_the_images(tmp_path: Path, caller: Environment) -> None:
    here = found(tmp_path).resolve(encoded(caller, image=SPEC))
    environment, wanted = here.environment, here.image
    assert wanted is not None
    assert environment.python == str(tmp_path / wanted.name / "bin" / "python")
    assert environment.path == ()
    assert environment.image is None, "templates need not carry what it is made from"
    assert environment.variables["PATH"].startswith(f"{tmp_path / wanted.name / 'bin'}:")
    assert environment.variables["VIRTUAL_ENV"] == str(wanted.path)
    assert environment.variables["NOTEBOOK_EXT_IMAGE"] == "pip_install a"
    assert environment.variables["NOTEBOOK_EXT_IMAGE_FILES"] == str(tmp_path / wanted.files)
    assert "PYTHONPATH" not in environment.variables
    lends = "/lent" if caller is CALLER else sys.path[-1]
    assert repr(lends) in wanted.prelude()
    assert msgspec.msgpack.decode(here.encoded, type=Environment) == environment


def test_where_no_image_can_lie_is_said() -> None:
    def refuse() -> Path:
        raise InvalidError("no place; make one")

    images = Images(refuse, -1, lambda _: None, lambda _: None)
    with pytest.raises(InvalidError, match="no place"):
        images.resolve(encoded(CALLER, image=SPEC))


def test_on_another_machine_the_hosts_own_interpreter_stands_in() -> None:
    theirs = Environment("/nowhere/python", ("/nowhere",), {"A": "1", "B": "2"}, "s", ("B",))
    found = own_where_missing(msgspec.msgpack.encode(theirs))
    assert msgspec.msgpack.decode(found, type=Environment) == Environment(
        "", (), {"B": "2"}, "s", ("B",)
    )
    here = msgspec.msgpack.encode(msgspec.structs.replace(theirs, python=sys.executable))
    assert own_where_missing(here) == here


def test_an_image_that_is_used_for_long_is_no_old_one(tmp_path: Path) -> None:
    cache = found(tmp_path)
    wanted = cache.resolve(encoded(CALLER, image=SPEC)).image
    assert wanted is not None
    for name in wanted.names:
        (tmp_path / name).mkdir()
        kept.complete(tmp_path / name, kept.About("a"))
    told: list[str] = []
    for _ in range(2):
        for name in wanted.names:
            os.utime(tmp_path / name / kept.COMPLETE, (1.0, 1.0))
        cache.prepare(wanted, told.append)
        assert all(one.used_at > 1.0 for one in kept.kept(tmp_path))
    assert told == ["", ""]
