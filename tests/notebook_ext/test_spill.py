from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest

from kernel_worker.wire import payload
from kernel_worker.wire.frames import FORM_VALUE
from notebook_ext.spill import Spill, Spilled, Values
from tests.waiting import wait_until


def values(*found: object) -> Values:
    return Values(len(found), [bytes(f) for f in payload.encode_batch(found, FORM_VALUE)], 0)


def test_what_was_written_is_read_as_often_as_it_is_wanted() -> None:
    spill = Spill()
    first, second = spill.write(values(1, 2)), spill.write(values("a"))
    assert first.read() == values(1, 2)
    assert second.read() == values("a")
    assert first.read().read() == values(1, 2)
    assert spill.size_bytes == first.size_bytes + second.size_bytes
    spill.close()
    spill.close()


def test_the_file_is_emptied_with_the_last_batch() -> None:
    spill = Spill()
    spill.write(values(1))
    spill.write(values(2))
    spill.drop()
    assert spill.size_bytes
    spill.drop()
    assert not spill.size_bytes
    assert spill.write(values(3)).read() == values(3)
    spill.close()


def test_the_file_goes_with_the_last_that_refers_to_it() -> None:
    spill = Spill()
    written = spill.write(values(1))
    link = Path(f"/proc/self/fd/{spill._file.fileno()}")
    file = link.readlink()
    del spill
    assert written.read() == values(1)
    assert link.readlink() == file
    del written
    gc.collect()
    wait_until(lambda: not link.is_symlink() or link.readlink() != file)


def test_what_the_disk_does_not_take_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    spill, held = Spill(), values(1)
    assert spill.write(held) is held
    assert spill.size_bytes == 0
    monkeypatch.undo()
    assert isinstance(spill.write(held), Spilled), "there is room again"
    spill.close()
