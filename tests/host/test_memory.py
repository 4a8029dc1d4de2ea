"""How much memory a process and what it started use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kernel_worker.host import memory

PARENT = """
import os, sys
content = bytearray(b"x" * 50_000_000)
if os.fork():
    print("ready", flush=True)
else:
    own = bytearray(b"y" * 30_000_000)
    os.write(1, b"child\\n")
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[int]:
    command = [sys.executable, "-c", PARENT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"ready\n", "child\n"}
        yield process.pid


def test_children_count_and_what_they_share_counts_once(parent: int) -> None:
    exact = memory.used_mib(parent, limit_mib=1)
    bound = memory.used_mib(parent, limit_mib=10_000)
    assert 76 <= exact <= 110
    assert bound >= exact + 40, "resident memory counts what is shared twice"


def test_a_process_that_is_gone_uses_nothing() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert memory.used_mib(child, 0) == 0


def test_the_pause_follows_the_room_and_the_cost() -> None:
    assert memory.pause_seconds(0, 0) == pytest.approx(0.05)
    assert memory.pause_seconds(300, 0) == pytest.approx(300 / 2048)
    assert memory.pause_seconds(100_000, 0) == pytest.approx(0.25)
    assert memory.pause_seconds(0, 0.1) == pytest.approx(5)
