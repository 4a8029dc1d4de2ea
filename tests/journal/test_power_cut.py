"""Power cuts: whatever of the write-ahead log had reached the disk, a prefix of the facts is there.

A cut is simulated on copies of the files of a living journal: the log ends at some byte, or what
follows that byte is another program's, zeros, or an older generation of the log. What `write` had
returned from before the cut must be there, and nothing out of order or in half.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel_worker.journal.store import Fact, Store
from tests.journal.facts import added, submitted, succeeded

CUTS = 100
MANY_CUTS = 3000
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24  # "The WAL File Format" of SQLite


@dataclass(frozen=True)
class Cuttable:
    """The files of a journal in use, and how long its log was after each transaction."""

    path: Path
    facts: list[list[Fact]]
    """What each transaction wrote."""
    log_bytes: list[int]
    """The length of the log when `write` had returned; those before the first are all below it."""
    checkpointed: int
    """So many transactions are in the database itself."""

    @property
    def log(self) -> bytes:
        return _log_of(self.path).read_bytes()


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _length(log: bytes) -> int:
    """Return where the present generation of a log ends: its frames have the salt of its header."""
    page_bytes, salt = int.from_bytes(log[8:12], "big"), log[16:24]
    at = _LOG_HEADER_BYTES
    while log[at + 8 : at + 16] == salt:
        at += _FRAME_HEADER_BYTES + page_bytes
    return at


def _transactions(chance: random.Random) -> list[list[Fact]]:
    made: list[list[Fact]] = []
    for number in range(40):
        call = f"fc-{number}"
        frames = [chance.randbytes(chance.choice([10, 3000, 40_000]))]
        made.append([submitted(call, **{f"code-{number}": chance.randbytes(500)})])
        made.append([added(call, 0, *frames), added(call, 1, *frames)])
        made.append([succeeded(call, 0, *frames)])
    return made


@pytest.fixture(scope="module", params=["in one log", "after a checkpoint"])
def journal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cuttable:
    directory = tmp_path_factory.mktemp("journal")
    path = directory / "live" / "journal.db"
    facts = _transactions(random.Random(5))
    store = Store.open(path)
    store._db.execute("PRAGMA wal_autocheckpoint = 0")
    lengths: list[int] = []
    checkpointed = len(facts) // 2 if request.param == "after a checkpoint" else 0
    for number, entries in enumerate(facts, 1):
        store.write(entries)
        if number == checkpointed:
            store._db.execute("PRAGMA wal_checkpoint(RESTART)")  # the log is written over from here
        elif number > checkpointed:
            lengths.append(_length(_log_of(path).read_bytes()))
    copied = directory / "cut" / "journal.db"
    shutil.copytree(path.parent, copied.parent)
    store.close()
    return Cuttable(copied, facts, lengths, checkpointed)


def _found(path: Path) -> list[tuple[object, list[bytes]]]:
    store = Store.open(path)
    try:
        (sound,) = store._db.execute("PRAGMA integrity_check").fetchone()
        assert sound == "ok"
        return [(each.record, each.frames) for each in store.open_facts()]
    finally:
        store.close()


def _check(journal: Cuttable, log: bytes, whole_bytes: int, directory: Path) -> None:
    """Open the journal with `log`, of which the first `whole_bytes` are as they were written."""
    shutil.copytree(journal.path.parent, directory)
    path = directory / "journal.db"
    _log_of(path).write_bytes(log)
    found = _found(path)
    shutil.rmtree(directory)
    wanted: list[tuple[object, list[bytes]]] = []
    ends = [0]
    for entries in journal.facts:
        wanted += [(each.record, [bytes(frame) for frame in each.frames]) for each in entries]
        ends.append(len(wanted))
    assert found == wanted[: len(found)], "facts are missing in the middle"
    assert len(found) in ends, "half a transaction is there"
    safe = journal.checkpointed + sum(length <= whole_bytes for length in journal.log_bytes)
    assert len(found) >= ends[safe], f"of {safe} transactions on the disk some are lost"


def _cut(journal: Cuttable, chance: random.Random, directory: Path) -> None:
    log = journal.log
    at = chance.randrange(len(log) + 1)
    if chance.random() < 0.3:  # just around the end of a transaction
        at = min(len(log), max(0, chance.choice(journal.log_bytes) + chance.randint(-40, 40)))
    rest = chance.choice(("nothing", "zeros", "noise", "hole"))
    if rest == "nothing":
        log = log[:at]
    elif rest == "zeros":
        log = log[:at] + bytes(len(log) - at)
    elif rest == "noise":
        log = log[:at] + chance.randbytes(len(log) - at)
    else:  # sectors reach the disk in any order: one in the middle did not
        log = log[:at] + bytes(min(512, len(log) - at)) + log[at + 512 :]
    _check(journal, log, at, directory)


def test_any_cut_leaves_a_prefix_of_the_transactions(journal: Cuttable, tmp_path: Path) -> None:
    chance = random.Random(1)
    for number in range(CUTS):
        _cut(journal, chance, tmp_path / str(number))


@pytest.mark.fuzz
@pytest.mark.timeout(600)
def test_thousands_of_cuts(journal: Cuttable, tmp_path: Path) -> None:
    chance = random.Random(random.randrange(2**32))  # the printed seed of the run repeats it
    for number in range(MANY_CUTS):
        _cut(journal, chance, tmp_path / str(number))


def test_a_log_that_is_not_cut_has_everything(journal: Cuttable, tmp_path: Path) -> None:
    _check(journal, journal.log, len(journal.log), tmp_path / "whole")
