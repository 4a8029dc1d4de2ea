"""API.md section 1, `secrets` and `env`: the environment of workers, whose values show nowhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place

DEFINE = """
import os
import notebook_ext as nb

app = nb.App("vault")
secret = nb.Secret.from_dict({"TOKEN": "hunter2", "MODE": "secret's"})

@app.function(secrets=[secret], env={"MODE": "of-the-env"})
def read():
    return os.environ["TOKEN"][::-1], os.environ["MODE"][::-1]

@app.function
def plain():
    return os.environ.get("TOKEN")
"""
VALUES = (b"hunter2", b"of-the-env")


def what_ps_shows(place: Place) -> bytes:
    """Return the command lines and first environments of the place's processes."""
    shown = b""
    for pid in place.processes():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):  # it has just ended
                shown += Path(f"/proc/{pid}/{name}").read_bytes()
    return shown


def test_the_worker_has_them_and_they_lie_and_show_nowhere(
    own_place: Place, run_script: ScriptRunner
) -> None:
    told = run_script(
        f"{DEFINE}\napp.deploy()\nprint(repr(app), repr(read), repr(secret), read.info().options)\n"
        "print(read.remote(), read.spawn().get(), plain.remote())",
        own_place.variables,
    )
    expected = ("2retnuh", "vne-eht-fo")
    assert told.splitlines()[-1] == f"{expected} {expected} None"
    looked_up = "import notebook_ext as nb\nprint(nb.Function.lookup('vault', 'read').remote())"
    assert run_script(looked_up, own_place.variables) == f"{expected}\n"
    listed = what_ps_shows(own_place)
    written = [
        path.read_bytes()
        for folder in (own_place.runtime_dir, Path(own_place.variables["NOTEBOOK_EXT_DATA_DIR"]))
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert any(b"deployed/vault/read" in content for content in written), "the journal was read"
    assert b"kernel_worker" in listed
    for value in VALUES:
        assert value not in listed
        assert value.decode() not in told
        assert not any(value in content for content in written)
