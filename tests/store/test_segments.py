"""Segments: what is written is read, whatever becomes of the file meanwhile."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kernel_worker.store import segments
from kernel_worker.wire.frames import Place
from tests.waiting import wait_until

SIZE = 300_000
CONTENT = bytes(range(250)) * (SIZE // 250)


def written(directory: str, *contents: bytes) -> list[Place]:
    places = segments.write(directory, [memoryview(content) for content in contents])
    assert places is not None
    return places


def names(directory: str) -> list[str]:
    return [entry.name for entry in segments.entries(directory)]


def test_what_is_written_is_mapped_and_writing_to_a_mapping_changes_nothing(directory: str) -> None:
    first, second = written(directory, CONTENT, CONTENT[::-1])
    assert first.name == second.name
    assert second.offset % mmap.PAGESIZE == 0
    mapping = segments.fetch(directory, first)
    assert isinstance(mapping, mmap.mmap)
    assert bytes(mapping) == CONTENT
    mapping[:5] = b"other"
    assert bytes(segments.fetch(directory, first)) == CONTENT
    assert bytes(segments.fetch(directory, second)) == CONTENT[::-1]


def test_only_this_user_can_read_it(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    assert Path(f"{directory}/{place.name}").stat().st_mode & 0o777 == 0o600


def test_what_is_small_is_copied(directory: str) -> None:
    (place,) = written(directory, b"small")
    assert segments.fetch(directory, place) == bytearray(b"small")


def test_a_free_segment_is_used_again_and_keeps_its_file(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    file = Path(f"{directory}/{place.name}").stat().st_ino
    segments.free(directory, place.name)
    (after,) = written(directory, CONTENT[::-1])
    assert after.name != place.name
    assert Path(f"{directory}/{after.name}").stat().st_ino == file
    with pytest.raises(FileNotFoundError):
        segments.fetch(directory, place)
    assert bytes(segments.fetch(directory, after)) == CONTENT[::-1]


def test_a_free_segment_that_is_much_too_large_or_too_small_is_not(directory: str) -> None:
    (large,) = written(directory, bytes(4 * SIZE))
    (small,) = written(directory, bytes(SIZE // 2))
    for place in (large, small):
        segments.free(directory, place.name)
    written(directory, CONTENT)
    assert sum(entry.is_free for entry in segments.entries(directory)) == 2


def test_a_segment_that_is_mapped_is_not_used_again_as_long_as_it_is(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    mapping = segments.fetch(directory, place)
    segments.free(directory, place.name)
    written(directory, CONTENT[::-1])
    assert bytes(mapping) == CONTENT
    assert len(names(directory)) == 1, "the one that was mapped went with its name"


def test_a_process_that_dies_holds_nothing(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    program = (
        "import sys\nfrom kernel_worker.store import segments\n"
        f"held = segments.fetch({directory!r}, segments.Place({place.name!r}, 0, {SIZE}))\n"
        "print('mapped', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mapped\n"
        path = f"{directory}/{place.name}"
        file = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.kill()
        other.wait()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)


def test_two_that_write_at_once_take_different_segments(directory: str) -> None:
    for place in [written(directory, CONTENT)[0] for _ in range(4)]:
        segments.free(directory, place.name)
    found: list[Place] = []
    threads = [
        threading.Thread(target=lambda: found.extend(written(directory, CONTENT))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({place.name for place in found}) == 8


def test_a_segment_that_a_thread_takes_from_under_another_is_no_error(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    segments.free(directory, place.name)
    (free,) = segments.entries(directory)
    segments._seen[directory] = [free]
    Path(f"{directory}/{free.name}").unlink()
    assert bytes(segments.fetch(directory, written(directory, CONTENT)[0])) == CONTENT


def test_what_is_named_and_is_not_there_or_too_short_is_refused(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    for wrong in (
        Place("b-1-00", 0, SIZE),
        Place(place.name, 0, 10 * SIZE),
        Place(place.name, 1 << 40, 10),
    ):
        with pytest.raises(FileNotFoundError):
            segments.fetch(directory, wrong)


def test_a_file_system_that_is_full_is_no_crash_but_the_disk_or_nothing(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert segments.write(directory, [memoryview(CONTENT)]) is None
    assert names(directory) == []
    assert names(f"{directory}/{segments.DISK}") == []


def test_beyond_the_limit_it_goes_to_the_disk_and_is_mapped_from_there(directory: str) -> None:
    (limit,) = Path(directory).glob(f"{segments.LIMIT}*")
    limit.rename(f"{directory}/{segments.LIMIT}400000")
    (first,) = written(directory, CONTENT)
    (second,) = written(directory, CONTENT[::-1])
    assert not first.name.startswith("disk/")
    assert second.name.startswith("disk/")
    mapping = segments.fetch(directory, second)
    segments.free(directory, second.name)
    assert names(f"{directory}/{segments.DISK}") == [], "the disk keeps nothing warm"
    assert bytes(mapping) == CONTENT[::-1]


def test_little_memory_is_left_alone(
    directory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 16000 kB\nMemFree: 1 kB\nMemAvailable: 1100 kB\n")
    monkeypatch.setattr(segments, "_MEMORY", facts)
    assert segments.memory_bytes() == (16_384_000, 1_126_400)
    (place,) = written(directory, CONTENT)
    assert place.name.startswith("disk/")
    facts.unlink()
    assert segments.memory_bytes() == (0, float("inf"))


def test_free_segments_are_trimmed_to_a_part_of_the_file_system(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in [written(directory, CONTENT)[0] for _ in range(3)]:
        segments.free(directory, place.name)
    segments.trim(directory)
    assert len(names(directory)) == 3
    monkeypatch.setattr(segments, "_KEPT_PART", 1 << 60)
    written(directory, bytes(5 * SIZE))
    segments.trim(directory)
    assert [entry.is_free for entry in segments.entries(directory)] == [False]
    segments.trim(f"{directory}/nowhere")


def test_beyond_a_number_of_mappings_there_are_copies(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    monkeypatch.setattr(segments, "MAPPINGS", 4)
    segments._known.clear()
    (place,) = written(directory, CONTENT)
    kept = [segments.fetch(directory, place) for _ in range(6)]
    assert [isinstance(each, mmap.mmap) for each in kept] == [True] * 4 + [False] * 2
    assert all(bytes(each) == CONTENT for each in kept)
    del kept[:4]
    assert isinstance(segments.fetch(directory, place), mmap.mmap)


def test_few_descriptors_are_left_to_others(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    segments._known.clear()
    monkeypatch.setattr(segments, "MAPPINGS", 2)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    (place,) = written(directory, CONTENT)
    kept = [segments.fetch(directory, place) for _ in range(2)]
    assert [isinstance(each, mmap.mmap) for each in kept] == [True, False]


def test_a_mapping_that_is_as_it_came_is_known_by_its_place(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    mapping = segments.fetch(directory, place, "held")
    assert isinstance(mapping, mmap.mmap)
    view = memoryview(mapping)
    assert segments.unchanged(directory, view) == (place, "held")
    assert sum(view) >= 0  # to read it changes nothing
    assert segments.unchanged(directory, view) == (place, "held")
    assert segments.unchanged("/another/store", view) is None
    assert segments.unchanged(directory, view[: SIZE // 2]) is None
    assert segments.unchanged(directory, view.toreadonly()) is None
    assert segments.unchanged(directory, memoryview(bytearray(CONTENT))) is None
    view[SIZE - 1] = 1
    assert segments.unchanged(directory, view) is None


def test_where_the_kernel_tells_nothing_it_is_taken_for_changed(
    directory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (place,) = written(directory, CONTENT)
    mapping = segments.fetch(directory, place)
    monkeypatch.setattr(segments, "_PAGEMAP", str(tmp_path / "nowhere"))
    assert segments.unchanged(directory, memoryview(mapping)) is None
    (tmp_path / "pagemap").touch()
    monkeypatch.setattr(segments, "_PAGEMAP", str(tmp_path / "pagemap"))
    assert segments.unchanged(directory, memoryview(mapping)) is None


def test_what_is_held_is_mapped_many_times(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    held = segments.Held(directory, place)
    segments.free(directory, place.name)
    first, second = held.fetch(), held.fetch()
    first[:5] = b"other"
    assert bytes(second) == CONTENT
    written(directory, CONTENT[::-1])
    assert bytes(held.fetch()) == CONTENT
    with pytest.raises(FileNotFoundError):
        segments.Held(directory, place)


def test_mappings_leave_no_descriptor_behind(directory: str) -> None:
    (place,) = written(directory, CONTENT)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(20):
        segments.fetch(directory, place)
    held = segments.Held(directory, place)
    held.fetch()
    del held
    wait_until(lambda: len([*Path("/proc/self/fd").iterdir()]) == before, what="all are closed")
