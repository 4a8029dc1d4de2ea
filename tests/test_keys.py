"""Keys lie in files of their user alone, and what is no key, or not his alone, is refused."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from rich.pretty import pretty_repr

from kernel_worker import keys
from kernel_worker.errors import AuthError, InvalidError, NotFoundError
from kernel_worker.keys import Keys

ADDRESS = "tcp://127.0.0.1:9465"


@pytest.fixture
def known(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_the_broker_keeps_its_key_and_nobody_elses(known: Keys, tmp_path: Path) -> None:
    assert known.listed() == {}
    made = known.server()
    assert known.server() == made == Keys(tmp_path).server()
    given = known.invite("laptop", ADDRESS)
    assert given.server == made.public
    assert known.listed() == {given.client.public: "laptop"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"server.key", "payload.key", "laptop"}
    assert all(given.client.secret not in path.read_text() for path in files)
    modes = {path.stat().st_mode & 0o777 for path in files}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    for secret in (made.secret, given.client.secret, given.payload):
        assert secret not in repr((made, given))
        assert secret not in pretty_repr((made, given))
    place = keys.payload_key_of(tmp_path)
    assert keys.read_payload_key(place) == bytes.fromhex(given.payload)
    assert known.invite("another", ADDRESS).payload == given.payload, "workers have one"


def test_a_payload_key_that_is_damaged_or_gone_is_told(known: Keys, tmp_path: Path) -> None:
    known.invite("a", ADDRESS)
    place = keys.payload_key_of(tmp_path)
    for content, says in ((b"nonsense", "holds no key"), (b"\xff", "it is damaged")):
        place.write_bytes(content)
        with pytest.raises(AuthError, match=says):
            keys.read_payload_key(place)
        with pytest.raises(AuthError, match=says):
            known.invite("b", ADDRESS)
    place.unlink()
    with pytest.raises(AuthError, match="No such file"):
        keys.read_payload_key(place)


def test_a_client_is_listed_once_and_revoked(known: Keys) -> None:
    first = known.invite("a", ADDRESS)
    with pytest.raises(InvalidError, match="revoke a"):
        known.invite("a", ADDRESS)
    known.invite("b", ADDRESS)
    known.revoke("a")
    assert list(known.listed().values()) == ["b"]
    with pytest.raises(NotFoundError, match="nobody called 'a' is listed; there is: b"):
        known.revoke("a")
    assert known.invite("a", ADDRESS).client != first.client


def test_a_key_is_for_a_client_or_for_a_host(known: Keys, tmp_path: Path) -> None:
    box = known.invite("box", ADDRESS, "host")
    assert known.listed("host") == {box.client.public: "box"}
    assert known.listed() == {}
    with pytest.raises(InvalidError, match="a host 'box' is listed already"):
        known.invite("box", ADDRESS)
    file = tmp_path / "box.json"
    file.write_bytes(msgspec.json.encode(box))
    file.chmod(0o600)
    assert keys.read(file, "host") == box
    with pytest.raises(InvalidError, match="made for a host, and is of no use to a client"):
        keys.read(file)
    known.revoke("box")
    assert known.listed("host") == {}
    file.write_bytes(msgspec.json.encode(known.invite("box", ADDRESS)))
    with pytest.raises(InvalidError, match="invite --host NAME"):
        keys.read(file, "host")


@pytest.mark.parametrize("name", ["", "../server.key", ".hidden", "a/b", "-x", "x" * 65, "a b"])
def test_names_that_are_no_file_names_are_refused(known: Keys, name: str) -> None:
    for act in (lambda: known.invite(name, ADDRESS), lambda: known.revoke(name)):
        with pytest.raises(InvalidError, match="allowed are"):
            act()


def test_a_key_that_is_damaged_is_not_used(known: Keys, tmp_path: Path) -> None:
    known.server()
    (tmp_path / "tcp" / "server.key").write_text("nonsense")
    with pytest.raises(InvalidError, match="holds no key"):
        known.server()
    (tmp_path / "tcp" / "clients" / "odd").write_bytes(b"\xff")
    assert known.listed() == {}


def test_a_directory_that_others_can_enter_is_refused(known: Keys, tmp_path: Path) -> None:
    known.server()
    (tmp_path / "tcp").chmod(0o755)
    with pytest.raises(InvalidError, match="chmod 700"):
        known.invite("a", ADDRESS)


def test_a_connection_file_is_read_as_it_was_written(known: Keys, tmp_path: Path) -> None:
    given = known.invite("a", ADDRESS)
    file = tmp_path / "a.json"
    file.write_bytes(msgspec.json.encode(given))
    file.chmod(0o600)
    assert keys.read(file) == given
    file.chmod(0o640)
    with pytest.raises(InvalidError, match="chmod 600"):
        keys.read(file)


def test_what_is_no_connection_file_is_refused_and_not_shown(known: Keys, tmp_path: Path) -> None:
    given = known.invite("a", ADDRESS)
    file = tmp_path / "a.json"
    with pytest.raises(InvalidError, match="No such file"):
        keys.read(file)
    file.touch(0o600)
    for text, says in (
        (given.client.secret.encode(), "no connection file"),
        (msgspec.json.encode(msgspec.structs.replace(given, format=2)), "another version"),
        (msgspec.json.encode(msgspec.structs.replace(given, server="short")), "damaged"),
        (msgspec.json.encode(msgspec.structs.replace(given, address="box")), "damaged"),
        (msgspec.json.encode(msgspec.structs.replace(given, payload="short")), "damaged"),
        (msgspec.json.encode(msgspec.structs.replace(given, payload="")), "before payloads were"),
        (msgspec.json.encode(msgspec.structs.replace(given, address="ipc://tmp/b")), "damaged"),
    ):
        file.write_bytes(text)
        with pytest.raises(InvalidError, match=says) as raised:
            keys.read(file)
        assert given.client.secret not in repr(raised.getrepr(showlocals=False))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_connection_file_of_somebody_else_is_refused(known: Keys, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(msgspec.json.encode(known.invite("a", ADDRESS)))
    file.chmod(0o600)
    os.chown(file, 65534, 65534)
    with pytest.raises(InvalidError, match="not yours alone"):
        keys.read(file)
