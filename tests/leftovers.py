"""What a test run may not leave behind: processes and files of its own brokers."""

from __future__ import annotations

import os
from pathlib import Path

from kernel_worker.store import owning

KEPT = ("lock", "start.lock", "agent.lock", "broker.log", "web.lock", "web.log")
"""Lock files stay (removing one under a waiting process would give two owners), and the log."""


def processes(directory: Path) -> dict[int, str]:
    """Return pid and command line of every other process whose environment names `directory`."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if str(directory).encode() in (entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode(errors="replace").strip()
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def files(directory: Path) -> list[Path]:
    """Return what lies below `directory` and should not."""
    return [
        path for path in sorted(directory.rglob("*")) if not path.is_dir() and path.name not in KEPT
    ]


def stores(directory: Path) -> list[Path]:
    """Return the stores of clients whose brokers met below `directory`."""
    found = owning.root_of(directory).glob("*/disk")
    return [disk.parent for disk in found if directory in disk.readlink().parents]
