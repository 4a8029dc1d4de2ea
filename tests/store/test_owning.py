"""Stores: one for each client that lives, nothing of the others."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel_worker.store import owning, segments
from kernel_worker.store.owning import Store

CONTENT = memoryview(bytes(300_000))

DIES = """
import os, signal, sys
from pathlib import Path
from kernel_worker.store import owning, segments
store = owning.Store(Path(sys.argv[1]), sys.argv[2], 1 << 30)
assert segments.write(str(store.directory), [memoryview(bytes(300_000))])
print(store.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_is_private_and_goes_with_its_client(broker: Path) -> None:
    store = Store(broker, "cl-private", 1 << 30)
    segments.write(os.fspath(store.directory), [CONTENT])
    assert store.directory.parent == owning.root_of(broker)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert store.directory.parent.stat().st_mode & 0o777 == 0o700
    assert owning.sweep(broker) >= 300_000
    assert store.directory.exists()
    store.close()
    store.close()
    assert not store.directory.exists()
    assert not store.directory.with_name("cl-private.lock").exists()
    assert not (broker / "store").exists()


def test_what_a_killed_client_left_goes_with_the_next_look(broker: Path) -> None:
    name = f"cl-{os.urandom(6).hex()}"
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(broker), name], capture_output=True, text=True, check=False
    )
    left = Path(died.stdout.strip())
    assert left.name == name, died.stderr
    assert left.exists()
    owning.sweep(broker)
    assert not left.exists()
    assert not (broker / "store" / name).exists()
    Store(broker, name, 1).close()


def test_free_segments_of_the_living_go_after_a_while(store: Store, broker: Path) -> None:
    directory = os.fspath(store.directory)
    places = [
        *(segments.write(directory, [CONTENT]) or ()),
        *(segments.write(directory, [CONTENT]) or ()),
    ]
    segments.free(directory, places[0].name)
    owning.sweep(broker)
    assert len(segments.entries(directory)) == 2
    owning.sweep(broker, time.time() + owning.FREE_SECONDS + 1)
    assert [entry.name for entry in segments.entries(directory)] == [places[1].name]


def test_a_child_that_was_forked_does_not_take_it_away(store: Store) -> None:
    child = os.fork()
    if not child:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert store.directory.exists()


def test_where_there_is_no_shared_memory_it_lies_beside_the_broker(
    broker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(owning, "MEMORY", tmp_path / "nowhere")
    store = Store(broker, "cl-disk", 1 << 30)
    assert store.directory == broker / "store" / "cl-disk"
    assert segments.write(os.fspath(store.directory), [CONTENT]) is not None
    store.close()
    assert not (broker / "store").exists()


def test_a_lock_that_is_swept_just_before_is_made_again(
    broker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    swept: list[int] = []

    def sweeps_first(file: int, kind: int) -> None:
        if not swept:
            swept.append(file)
            (owning.root_of(broker) / "cl-swept.lock").unlink()
        lock(file, kind)

    monkeypatch.setattr(fcntl, "flock", sweeps_first)
    monkeypatch.setattr(owning, "sweep", lambda _: 0)
    store = Store(broker, "cl-swept", 1)
    assert swept
    assert store.directory.with_name("cl-swept.lock").exists()
    store.close()
