from __future__ import annotations

import pytest

from notebook_ext import facts as rooms
from notebook_ext.facts import CANCELLED, DONE, FAILED, QUEUED, RUNNING, MapFacts


def test_changes_are_taken_once_and_joined() -> None:
    facts = MapFacts("f", 10)
    facts.note(0, 5, QUEUED)
    facts.note(5, 10, QUEUED)
    facts.note(2, 3, RUNNING)
    assert facts.take_changes() == [(0, 10, QUEUED), (2, 3, RUNNING)]
    assert facts.take_changes() == []


def test_counts() -> None:
    facts = MapFacts("f", None)
    facts.count(0, 3, DONE)
    facts.count(3, 1, FAILED)
    facts.count(4, 2, CANCELLED)
    assert (facts.done, facts.failed, facts.cancelled) == (3, 1, 2)
    facts.running = 2
    facts.finish("done")
    facts.finish("failed")
    assert facts.state == "done"
    assert facts.finished_at is not None
    assert facts.running == 0


def test_changes_that_nobody_takes_are_condensed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_CHANGES", 10)
    facts = MapFacts("f", None)
    for at in range(0, 22, 2):
        facts.note(at, at + 1, RUNNING)
        facts.note(at, at + 1, DONE)
    changes = facts.take_changes()
    assert len(changes) <= 25
    assert changes[0] == (0, 1, DONE)


def test_too_many_to_tell_apart_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_CHANGES", 2)
    monkeypatch.setattr(rooms, "_PAINTED", 10)
    facts = MapFacts("f", None)
    for at in (0, 5, 20, 30):
        facts.note(at, at + 1, DONE)
    assert facts.take_changes() == []
