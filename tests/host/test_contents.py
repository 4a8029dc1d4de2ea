"""Objects are kept while a function needs them, and what was sealed is opened or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_worker.host.contents import Contents
from kernel_worker.model import Digest, FunctionKey, FunctionSpec, PoolId
from kernel_worker.rendezvous import Connection, publish
from kernel_worker.wire import sealing
from kernel_worker.wire.seals import Seals

KEY = sealing.Key(bytes(32))


def spec(code: str, environment: str = "env") -> FunctionSpec:
    return FunctionSpec(
        pool=PoolId("po"),
        key=FunctionKey("a/b/f"),
        name="f",
        module="__main__",
        version=Digest("v"),
        code=Digest(code),
        environment=Digest(environment),
    )


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    place, file = tmp_path / "payload.key", tmp_path / "connection.json"
    place.write_text(bytes(32).hex())
    publish(Connection("ipc://s", 1, "i", "m", str(file), payload_key=str(place)))
    return Contents(Seals(str(file)))


def test_what_nobody_needs_is_dropped(contents: Contents) -> None:
    for digest in ("a", "b", "env"):
        contents.keep(Digest(digest), digest.encode())
    assert contents.claim(spec("a")) == ""
    contents.drop_others([])
    assert set(contents.opened) == {"b"}, "for a worker that is about to be asked for"
    assert contents.claim(spec("a")) == "the host was not sent ['a', 'env']"


def test_what_is_sealed_is_opened(contents: Contents) -> None:
    contents.keep(Digest("a"), KEY.seal(b"code", sealing.object_named(Digest("a"))))
    contents.keep(Digest("env"), b"environment")
    assert contents.claim(spec("a")) == ""
    assert contents.opened[Digest("a")] == b"code"
    assert contents.came_sealed(spec("a"))
    contents.drop_others([])
    assert not contents.came_sealed(spec("a"))


def test_what_cannot_be_opened_is_not_used(
    contents: Contents, capfd: pytest.CaptureFixture[str]
) -> None:
    contents.keep(Digest("env"), b"environment")
    contents.keep(Digest("a"), KEY.seal(b"other code", sealing.object_named(Digest("b"))))
    assert contents.claim(spec("a")).startswith("the object a cannot be opened: changed on their")
    assert "host agent: the object a cannot be opened" in capfd.readouterr().err
