from pathlib import Path

import msgspec
import pytest

from kernel_worker.journal.deployments import Deployed
from kernel_worker.journal.objects import MOST_SEALED_BYTES
from kernel_worker.journal.seal import MARK, Sealer
from kernel_worker.journal.store import Fact, Store
from kernel_worker.model import CallContext, DeployedFunction
from kernel_worker.records import Deployment
from tests.journal.facts import SPEC, submitted

TEXT = b"the environment of a function: TOKEN=hunter2" * 10


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 440])
def test_what_is_sealed_is_opened_by_the_same_key_alone(length: int) -> None:
    text = TEXT[:length]
    sealed = Sealer(b"k" * 32).seal(text)
    assert Sealer(b"k" * 32).open(sealed) == text
    assert Sealer(b"o" * 32).open(sealed) is None
    assert Sealer(b"k" * 32).open(sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert Sealer(b"k" * 32).seal(text) != sealed, "no two are alike"
    assert length < 8 or text[:8] not in sealed


def test_what_never_was_sealed_is_itself() -> None:
    assert Sealer(b"k" * 32).open(b"\x84plain") == b"\x84plain"
    assert not b"\x84plain".startswith(MARK)


def test_the_key_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    sealed = Sealer.beside(path).seal(TEXT)
    assert (tmp_path / "journal.key").stat().st_mode & 0o777 == 0o600
    assert Sealer.beside(path).open(sealed) == TEXT


def test_environments_and_code_do_not_lie_in_the_journal_in_clear(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store = Store.open(path)
    cell = b"Secret.from_dict({'TOKEN': 'hunter2'})"
    large = b"data in clear" + bytes(MOST_SEALED_BYTES)
    store.write([submitted("fc-1", environment=TEXT, code=cell, snapshot=cell, array=large)])
    deployment = Deployment("shop", 1, 1.0, (DeployedFunction("f", SPEC),))
    store.write([Deployed(deployment, {SPEC.environment: TEXT, "deployed": cell})])  # type: ignore[dict-item]
    store.close()
    on_disk = b"".join(file.read_bytes() for file in tmp_path.glob("journal.db*"))
    assert b"hunter2" not in on_disk
    assert b"data in clear" in on_disk
    store = Store.open(path)
    assert dict(store.objects.needed()) == {
        SPEC.environment: TEXT,
        "code": cell,
        "snapshot": cell,
        "array": large,
        "deployed": cell,
    }
    store.close()


def test_another_key_loses_what_was_sealed_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.db"
    store = Store.open(path)
    data = bytes(MOST_SEALED_BYTES + 1)
    store.write([submitted("fc-1", environment=TEXT, array=data)])
    store.close()
    (tmp_path / "journal.key").write_bytes(b"o" * 32)
    store = Store.open(path)
    assert dict(store.objects.needed()) == {"array": data}
    assert "the journal's key does not open environment" in caplog.text
    store.close()


def test_variables_of_a_call_do_not_lie_in_the_journal_in_clear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.db"
    context = CallContext("/work", (("TOKEN", "hunter2" * 4000), ("LANG", None)))
    told = msgspec.structs.replace(submitted("fc-1").record, context=context)
    store = Store.open(path)
    store.write([Fact(told)])
    store.close()
    on_disk = b"".join(file.read_bytes() for file in tmp_path.glob("journal.db*"))
    assert b"hunter2" not in on_disk
    assert b"/work" in on_disk
    store = Store.open(path)
    assert [(each.record, each.frames) for each in store.open_facts()] == [(told, [])]
    store.close()
    (tmp_path / "journal.key").write_bytes(b"o" * 32)
    store = Store.open(path)
    (left,) = store.open_facts()
    assert left.record == msgspec.structs.replace(told, context=CallContext("/work"))
    assert "the journal's key does not open the variables of fc-1" in caplog.text
    store.close()
