"""What others see while calls run: no open port, no file that they can read, no secret anywhere."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.acceptance.places import Place
from tests.waiting import PATIENCE, wait_until

MARKER = b"marker-7f3a91"
SCRIPT = """
import os
import sys
import time
import traceback
from pathlib import Path

import notebook_ext as nb

app = nb.App("vault")
MARKER = "-".join(["marker", "7f3a91"])
secret = nb.Secret.from_dict({"TOKEN": MARKER})

@app.function(secrets=[secret])
def wait(running, go):
    Path(running).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return [os.environ[name][::-1] for name in ("TOKEN", "SET_IN_A_CELL")]

@app.function(secrets=[secret])
def fail():
    raise ValueError(f"{len(os.environ['TOKEN'])} characters")

for _ in range(2):
    try:
        fail.remote()
    except ValueError:
        traceback.print_exc()
    os.environ["SET_IN_A_CELL"] = MARKER  # travels with each call from now on
app.deploy()
failed = fail.spawn()
try:
    failed.get()
except ValueError:
    traceback.print_exc()
print(repr(secret), repr(app), repr(fail), fail.info(), nb.calls(), *failed.logs())
print("as text", failed.status(), failed.get_call_graph())
call = wait.spawn(*sys.argv[1:])
assert call.get() == [MARKER[::-1]] * 2
"""
TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of the sockets that the process has open."""
    inodes = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            try:
                target = str(entry.readlink())
            except OSError:
                continue  # it was closed meanwhile
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    return inodes


def ports(pid: int) -> list[str]:
    """Return the lines of the kernel's tables of network sockets that are the process's."""
    inodes = sockets_of(pid)
    found = []
    for table in TABLES:
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        found += [f"{table} {line}" for line in lines if line.split()[9] in inodes]
    return found


def doors(pid: int) -> list[str]:
    """Return the names of the unix sockets on which the process listens."""
    listening = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000:  # it accepts connections
            listening[fields[6]] = " ".join(fields[7:])
    return [listening[inode] for inode in sockets_of(pid) if inode in listening]


def contents(*roots: Path) -> dict[Path, bytes]:
    """Return every file below `roots`, but for those that end while they are looked at."""
    found = {}
    for root in roots:
        for path in root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[path] = path.read_bytes()
    return found


def test_nothing_listens_nothing_is_readable_and_no_secret_shows(
    own_place: Place, tmp_path: Path
) -> None:
    running, go, script = tmp_path / "running", tmp_path / "go", tmp_path / "script.py"
    script.write_text(SCRIPT)
    data = Path(own_place.variables["NOTEBOOK_EXT_DATA_DIR"])
    roots = own_place.runtime_dir, data
    command = [sys.executable, str(script), str(running), str(go)]
    with subprocess.Popen(
        command,
        env=os.environ | own_place.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            wait_until(
                lambda: running.exists() or process.poll() is not None, 30, "the call is running"
            )
            processes = own_place.processes()
            assert len(processes) >= 4, "script, broker, host agent, templates, workers"
            assert {pid: found for pid in processes if (found := ports(pid))} == {}
            (door,) = [name for pid in processes for name in doors(pid)]
            assert door.startswith(str(own_place.runtime_dir)), "the others have no name to dial"
            assert door.endswith("/broker.sock")
            written = contents(*roots)
            names = {path.name for path in written}
            assert {"journal.db", "journal.db-wal", "journal.key", "broker.log"} <= names
            for root in roots:
                assert root.stat().st_mode & 0o077 == 0
                for path in root.rglob("*"):
                    mode = path.lstat().st_mode
                    assert mode & 0o077 == 0 or stat.S_ISSOCK(mode), path
            shown = b"\n".join(line.encode() for line in processes.values())
        finally:
            go.touch()
            said, _ = process.communicate(timeout=60 * PATIENCE)
    assert process.returncode == 0, said.decode()
    assert said.count(b"ValueError: 13 characters") == 3
    for text in (said, shown, *written.values(), *contents(*roots).values()):
        assert MARKER not in text
    assert any(b"deployed/vault/fail" in text for text in written.values()), "the journal was read"
