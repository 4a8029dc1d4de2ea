"""Secrets that are stored: in files of one's own, or in a keyring; and the commands for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from notebook_ext import secret_store
from notebook_ext.cli import main
from notebook_ext.config import reload
from notebook_ext.exception import InvalidError, NotFoundError
from notebook_ext.secret import Secret

VALUE = "open sesame"


class Keyring(ModuleType):
    """A keyring of the desktop, as the library `keyring` shows one."""

    def __init__(self, priority: float) -> None:
        super().__init__("keyring")
        self.kept: dict[tuple[str, str], str] = {}
        self.priority = priority
        self.errors = SimpleNamespace(PasswordDeleteError=LookupError)

    def get_keyring(self) -> Keyring:
        return self

    def set_password(self, service: str, name: str, text: str) -> None:
        self.kept[service, name] = text

    def get_password(self, service: str, name: str) -> str | None:
        return self.kept.get((service, name))

    def delete_password(self, service: str, name: str) -> None:
        del self.kept[service, name]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep them in a directory of the test's own, without a keyring."""
    monkeypatch.setenv("NOTEBOOK_EXT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setitem(sys.modules, "keyring", None)
    reload()
    yield tmp_path / "data"
    monkeypatch.undo()
    reload()


def with_keyring(monkeypatch: pytest.MonkeyPatch, priority: float) -> Keyring:
    made = Keyring(priority)
    monkeypatch.setitem(sys.modules, "keyring", made)
    monkeypatch.setitem(sys.modules, "keyring.errors", made.errors)
    return made


def test_they_lie_in_files_that_nobody_else_can_read(place: Path) -> None:
    secret_store.store("vault", {"TOKEN": VALUE}, replaces=False)
    assert Secret.from_name("vault", required_keys=["TOKEN"]).values == {"TOKEN": VALUE}
    (file,) = [path for path in place.rglob("*") if path.is_file()]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InvalidError, match="there is one of this name; use --force"):
        secret_store.store("vault", {}, replaces=False)
    secret_store.store("vault", {"TOKEN": "other"}, replaces=True)
    assert Secret.from_name("vault").values == {"TOKEN": "other"}
    secret_store.delete("vault")
    assert secret_store.names() == []


def test_a_name_that_is_not_there_is_said_with_the_nearest() -> None:
    secret_store.store("vault", {"A": "1"}, replaces=False)
    with pytest.raises(NotFoundError, match="no secret 'valt' here; did you mean vault"):
        Secret.from_name("valt")
    with pytest.raises(NotFoundError, match="the secret 'vault' has no B; it has: A"):
        Secret.from_name("vault", required_keys=["A", "B"])
    with pytest.raises(InvalidError, match=r"secret '\.\./x': allowed are"):
        Secret.from_name("../x")


def test_where_there_is_a_keyring_it_keeps_them(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = with_keyring(monkeypatch, 5)
    secret_store.store("vault", {"TOKEN": VALUE}, replaces=False)
    assert len(keyring.kept) == 1
    assert not any(VALUE in path.read_text() for path in place.rglob("*.json"))
    assert secret_store.names() == ["vault"]
    assert secret_store.load("vault") == {"TOKEN": VALUE}
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(NotFoundError):
        secret_store.load("vault")
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    secret_store.delete("vault")
    assert keyring.kept == {}


def test_a_keyring_that_cannot_be_used_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = with_keyring(monkeypatch, 0)
    secret_store.store("vault", {"TOKEN": VALUE}, replaces=False)
    assert keyring.kept == {}
    monkeypatch.delattr(keyring, "priority")
    assert secret_store.load("vault") == {"TOKEN": VALUE}
    secret_store.delete("vault")


def test_the_commands_show_no_value(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text(f"FROM_FILE='{VALUE}'\n")
    run = CliRunner()
    made = run.invoke(
        main,
        ["secret", "create", "v", "A=1", "ASKED", "--from-dotenv", str(tmp_path / "a.env")],
        input=f"{VALUE}\n",
    )
    assert made.exit_code == 0, made.output
    assert "Stored: v (FROM_FILE, A, ASKED), in " in made.output
    assert VALUE not in made.output
    assert secret_store.load("v") == {"FROM_FILE": VALUE, "A": "1", "ASKED": VALUE}
    again = run.invoke(main, ["secret", "create", "v", "A=2"])
    assert (again.exit_code, "use --force" in again.output) == (1, True)
    assert run.invoke(main, ["secret", "create", "v", "A=2", "--force"]).exit_code == 0
    assert run.invoke(main, ["secret", "list"]).output == "v  A\n"
    assert run.invoke(main, ["secret", "create", "w"]).exit_code == 1
    assert run.invoke(main, ["secret", "delete", "v"]).output == "Deleted: v\n"
    assert run.invoke(main, ["secret", "list"]).output == "No secret is stored.\n"


def test_one_that_cannot_be_read_is_named_and_can_be_replaced_and_deleted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_store.store("fine", {"A": "1"}, replaces=False)
    secret_store.store("torn", {"A": VALUE}, replaces=False)
    (torn,) = place.rglob("torn.json")
    torn.write_text(torn.read_text()[:-3])
    with_keyring(monkeypatch, 5.0)
    secret_store.store("lost", {"A": VALUE}, replaces=False)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(InvalidError, match=r"'torn': .*torn\.json is damaged; .*--force torn"):
        Secret.from_name("torn")
    with pytest.raises(NotFoundError, match=r"'lost' was stored in the keyring.*--force lost"):
        Secret.from_name("lost")
    listed = CliRunner().invoke(main, ["secret", "list"])
    assert listed.exit_code == 0
    assert VALUE not in listed.output
    assert [line.split()[:2] for line in listed.output.splitlines()] == [
        ["fine", "A"],
        ["lost", "cannot"],
        ["torn", "cannot"],
    ]
    secret_store.store("torn", {"A": "2"}, replaces=True)
    assert Secret.from_name("torn").values == {"A": "2"}
    secret_store.delete("lost")
    assert secret_store.names() == ["fine", "torn"]
    assert len(list(torn.parent.iterdir())) == 2, "nothing of them is left"
