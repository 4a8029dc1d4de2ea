"""Another user's process: what it gets at a broker's socket, files and door."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).parents[2]
_TEXT = """
import json, os, socket, sys

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
found = {}
for path in sys.argv[1:]:
    try:
        if path.endswith(".sock"):
            door = socket.socket(socket.AF_UNIX)
            door.settimeout(10)
            door.connect(path)
            found[path] = repr(door.recv(64))
        else:
            found[path] = repr(open(path, "rb").read(64))
    except OSError as error:
        found[path] = type(error).__name__
print(json.dumps(found))
"""


_DIALS = """
import json, os, sys
from pathlib import Path

import zmq

from kernel_worker import keys
from kernel_worker.errors import Error
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import messages
from kernel_worker.far import Far

def dials(invitation):
    context = zmq.Context()
    to = Connection(invitation.address, 0, "", "", "", keys=invitation)
    far = Far(context, to, messages.Hello("client", "cl-intruder"))
    try:
        heard = far.wait(30.0)
        return "nothing" if heard is None else type(messages.decode_at_client(heard[0])).__name__
    except Error as error:
        return type(error).__name__
    finally:
        far.close(0)
        context.term()

def uses(path):
    try:
        return dials(keys.read(Path(path)))
    except Error as error:
        return str(error)

address, server, *files = sys.argv[1:]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
made_up = keys.KeyPair(*(key.decode() for key in zmq.curve_keypair()))
found = {path: uses(path) for path in files}
found["its own"] = dials(keys.Invitation(address, server, made_up, "laptop"))
print(json.dumps(found))
"""


def dials(address: str, server: str, files: Sequence[Path]) -> dict[str, str]:
    """Return what user 65534 gets at a door.

    With each connection file (by its name), and (as `its own`) with a key pair that it has made; it
    knows the broker's public key.
    """
    command = [sys.executable, "-c", _DIALS, address, server, *map(str, files)]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
    )
    found: dict[str, str] = json.loads(ended.stdout)
    return {Path(path).name: got for path, got in found.items()}


def tries(paths: Sequence[Path]) -> dict[str, str]:
    """Return what user 65534 gets from each path, by its name; only root can be another user."""
    command = [sys.executable, "-c", _TEXT, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] = json.loads(ended.stdout)
    return {Path(path).name: got for path, got in found.items()}
