"""Deployments in the journal: which versions there were, and what stays with the one in force."""

from __future__ import annotations

from pathlib import Path

from kernel_worker import records
from kernel_worker.journal.deployments import KEPT_DEPLOYMENTS, Deployed, Undeployed
from kernel_worker.journal.store import Store
from kernel_worker.model import Digest
from tests.journal.facts import submitted


def deployed(version: int, **objects: bytes) -> Deployed:
    deployment = records.Deployment("shop", version, 10.0 * version, ())
    return Deployed(deployment, {Digest(name): content for name, content in objects.items()})


def test_deployments_are_kept_with_the_objects_of_the_version_in_force(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store = Store.open(path)
    store.write([deployed(1, code=b"1", shared=b"s"), deployed(2, code2=b"2", shared=b"s")])
    store.write([submitted("fc-1", code2=b"2")])
    store.close()
    store = Store.open(path)
    assert [(d.version, ended) for d, ended in store.deployments.versions()] == [
        (1, 20.0),
        (2, None),
    ]
    assert dict(store.objects.needed()) == {"code2": b"2", "shared": b"s"}
    store.write([deployed(2)])  # again, with other settings: its objects stay
    assert dict(store.objects.needed()) == {"code2": b"2", "shared": b"s"}
    store.write([Undeployed("shop", 30.0), Undeployed("other", 31.0)])
    assert [ended for _, ended in store.deployments.versions()] == [20.0, 30.0]
    assert dict(store.objects.needed()) == {"code2": b"2"}, "a call needs it"
    store.write([deployed(2 + KEPT_DEPLOYMENTS)])
    assert [d.version for d, _ in store.deployments.versions()] == [2 + KEPT_DEPLOYMENTS]
    store.close()


def test_settings_that_cross_a_new_version_do_not_end_it(store: Store) -> None:
    store.write([deployed(1, code=b"1")])
    store.write([deployed(2, code2=b"2"), deployed(1)])
    assert [(d.version, ended) for d, ended in store.deployments.versions()] == [
        (1, 20.0),
        (2, None),
    ]
    assert dict(store.objects.needed()) == {"code2": b"2"}


def test_settings_bring_the_objects_of_a_new_instance_unless_their_version_has_ended(
    store: Store,
) -> None:
    store.write([deployed(1, code=b"1")])
    store.write([deployed(1, instance=b"x")])
    assert dict(store.objects.needed()) == {"code": b"1", "instance": b"x"}
    store.write([deployed(2, code2=b"2"), deployed(1, late=b"y")])
    assert dict(store.objects.needed()) == {"code2": b"2"}
