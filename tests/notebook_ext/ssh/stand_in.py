"""A program called `ssh` that goes nowhere: it runs the command here, as another machine would.

It does what we ask of ssh: options, one `-L` of sockets, the command through a login shell, which
writes a line of its own first. `STAND_IN` is a directory: what it did is in `arguments`, `machine`
holds the variables there (JSON), `refuses` what it says instead of connecting, and `passed-B-N` how
many bytes have passed, both ways, by a connection N whose first one was B.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path


class Tally:
    """What has passed by one connection."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._count = 0
        self._lock = threading.Lock()
        self._first = 0

    def add(self, data: bytes, *, is_near: bool) -> None:
        with self._lock:
            self._first = self._first or (data[0] if is_near else 0)
            self._count += len(data)
            if self._first:
                name = f"{self._first}-{id(self)}"
                (self._place / f"new-{name}").write_text(str(self._count))
                (self._place / f"new-{name}").replace(self._place / f"passed-{name}")


def passes_on(source: socket.socket, sink: socket.socket, tally: Tally, is_near: bool) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            tally.add(data, is_near=is_near)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def forwards(near: str, far: str, place: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(near)
    listener.listen()
    while True:
        one, _ = listener.accept()
        other = socket.socket(socket.AF_UNIX)
        try:
            other.connect(far)
        except OSError:
            one.close()
            continue
        tally = Tally(place)
        for ends in ((one, other, tally, True), (other, one, tally, False)):
            threading.Thread(target=passes_on, args=ends, daemon=True).start()


def main() -> int:
    place = Path(os.environ["STAND_IN"])
    arguments = sys.argv[1:]
    with (place / "arguments").open("a") as file:
        file.write(json.dumps(arguments) + "\n")
    refuses = place / "refuses"
    if refuses.exists():
        sys.stderr.write(refuses.read_text())
        return 255
    (forward,) = [each.removeprefix("-L") for each in arguments if each.startswith("-L")]
    end = arguments.index("--")
    host, command = arguments[end + 1 :]
    threading.Thread(target=forwards, args=(*forward.split(":"), place), daemon=True).start()
    machine = json.loads((place / "machine").read_text())
    line = f"echo 'Welcome to {host}'; {command}"
    done = subprocess.run(["/bin/sh", "-c", line], env=machine, cwd=machine["HOME"], check=False)
    Path(forward.partition(":")[0]).unlink(missing_ok=True)
    return done.returncode


if __name__ == "__main__":
    os._exit(main())
