"""What is said of a way that cannot be had, and what is done about it; `ssh` is a small program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kernel_worker.errors import (
    AuthError,
    ConnectionError,  # noqa: A004  ours
    Error,
    InvalidError,
    NotFoundError,
    VersionError,
)
from kernel_worker.model import PROTOCOL_MAJOR
from notebook_ext.ssh.far_end import Answer, Request
from notebook_ext.ssh.keeper import Way
from notebook_ext.ssh.target import MARK, parse
from tests.waiting import PATIENCE

REQUEST = Request(PROTOCOL_MAJOR, "1.0", "ssh-anna", "k" * 40, "client", "/nowhere.sock")
MAKES_SOCKET = 'for each; do case $each in -L*) near=${each#-L}; : > "${near%%:*}";; esac; done\n'
"""A file does for it: nobody dials."""
ASKED = Callable[..., Way]


@pytest.fixture
def way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ASKED:
    """Give a function that tries a way by an `ssh` that does as a script says."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def tries(script: str, target: str = "ssh://box", seconds: float = 20 * PATIENCE) -> Way:
        path = tmp_path / "ssh"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o700)
        return Way(parse(target), str(tmp_path / "near.sock"), REQUEST, seconds)

    return tries


def says(answer: object) -> str:
    return f"echo '{MARK}{msgspec.json.encode(answer).decode()}'\n"


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (
            "echo 'Host key verification failed.' >&2; exit 255",
            AuthError,
            "`ssh box` in a terminal",
        ),
        (
            "echo 'anna@box: Permission denied (publickey).' >&2; exit 255",
            AuthError,
            "`ssh box true` works without",
        ),
        (
            "echo 'ssh: Could not resolve hostname box: Name or service not known' >&2; exit 255",
            ConnectionError,
            "ssh://box cannot be reached: ssh: Could not resolve hostname box",
        ),
        ("exit 255", ConnectionError, "ssh says nothing"),
        ("echo Welcome", ConnectionError, "cannot be reached"),
        ("""echo "Error: No such command 'tunnel'." >&2; exit 2""", VersionError, "is too old"),
        (f"echo '{MARK}" + "{}'", NotFoundError, "no notebook-ext in the PATH of ssh://box"),
        (f"echo '{MARK}nonsense'", VersionError, "in words of another version"),
        (says(Answer("VersionError", "1 there, 2 here")), VersionError, "ssh://box: 1 there, 2"),
        (says(Answer("InvalidError", "full")), InvalidError, "ssh://box: full"),
        (says(Answer(server="s")), ConnectionError, "ssh does not forward to ssh://box"),
    ],
)
def test_what_goes_wrong_is_said_with_its_remedy(
    way: ASKED, script: str, kind: type[Error], said: str
) -> None:
    with pytest.raises(kind) as caught:
        way(script)
    assert type(caught.value) is kind
    assert said in str(caught.value)


def test_a_command_that_is_not_where_it_was_said_to_be(way: ASKED) -> None:
    with pytest.raises(NotFoundError, match=r"ssh://box has no /opt/x that can be run"):
        way(f"echo '{MARK}" + "{}'", "ssh://box/opt/x")


def test_where_there_is_no_ssh(way: ASKED, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        way("exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(NotFoundError, match="needs the program ssh, which is not in the PATH"):
        Way(parse("ssh://box"), str(tmp_path / "near.sock"), REQUEST, 5)


def test_one_that_does_not_answer(way: ASKED) -> None:
    with pytest.raises(
        ConnectionError, match=r"did not answer in time \(setting connect_timeout\)"
    ):
        way("echo Welcome; cat > /dev/null", seconds=0.3)


def test_a_way_ends_when_it_is_closed(way: ASKED, tmp_path: Path) -> None:
    found = way(MAKES_SOCKET + "echo Welcome\n" + says(Answer(server="s")) + "cat > /dev/null")
    assert found.answer == Answer(server="s")
    assert found.process.poll() is None
    found.close()
    assert found.process.returncode == 0
