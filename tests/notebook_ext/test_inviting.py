"""Who is invited is listed, finds the broker at the right address, and is revoked."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest
from click.testing import CliRunner, Result

from kernel_worker.errors import ConnectionError, InvalidError, NotFoundError  # noqa: A004  ours
from kernel_worker.keys import Invitation
from notebook_ext import inquiry, inviting
from notebook_ext.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command line with a broker of its own."""
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", f"inviting-{os.urandom(3).hex()}")
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    inquiry.stop()


def invited(result: Result) -> Invitation:
    assert not result.exit_code, result.output
    return msgspec.json.decode(result.stdout, type=Invitation)


def test_one_is_invited_seen_and_revoked(run: Run) -> None:
    assert run("broker", "clients").output == ""
    started = run("broker", "start", "--listen", "tcp://127.0.0.1:0")
    door = started.output.rpartition(", ")[2].strip()
    assert door.startswith("tcp://127.0.0.1:")
    assert run("broker", "status").output.endswith(f"{door}\n")
    again = run("broker", "start", "--listen", "tcp://127.0.0.1:0")
    assert again.output.startswith("Already running: ")
    given = invited(run("broker", "invite", "laptop"))
    assert given.address == door
    assert invited(run("broker", "invite", "far", "--address", "tcp://box")).address == (
        "tcp://box:9465"
    )
    keys = inviting.listed("client")
    assert keys["laptop"] == given.client.public
    assert run("broker", "clients").output.splitlines() == [f"{n}  {k}" for n, k in keys.items()]
    assert run("broker", "revoke", "laptop").output == "Revoked: laptop; connections ended: 0\n"
    assert list(inviting.listed("client")) == ["far"]
    gone = run("broker", "revoke", "laptop")
    assert gone.exit_code == 1
    assert "there is: far" in gone.output
    other = run("broker", "start", "--listen", "tcp://127.0.0.1:1")
    assert other.exit_code == 1
    assert f"listens at {door}" in other.output


def test_without_a_broker_the_setting_says_where_it_will_be(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidError, match="no broker of this machine listens for others"):
        inviting.invite("laptop")
    monkeypatch.setenv("NOTEBOOK_EXT_LISTEN", "tcp://*:7001")
    assert inviting.invite("laptop").address.endswith(":7001")
    assert "*" not in inviting.invite("other").address
    assert inviting.revoke("laptop") == 0
    with pytest.raises(NotFoundError):
        inviting.revoke("laptop")


def test_a_broker_that_hangs_is_named_where_a_key_is_revoked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("broker", "start", "--listen", "tcp://127.0.0.1:0")
    invited(run("broker", "invite", "laptop"))
    running = inquiry.find_here()
    assert running is not None
    monkeypatch.setattr(inviting, "LIMIT_SECONDS", 0.2)
    os.kill(running.pid, signal.SIGSTOP)
    try:
        result = run("broker", "revoke", "laptop")
    finally:
        os.kill(running.pid, signal.SIGCONT)
    assert "laptop is not listed any more, but connections" in result.output
    assert f"end the process {running.pid} if it hangs" in result.output
    assert inviting.listed("client") == {}


def test_an_address_that_cannot_be_bound_is_one_line(run: Run) -> None:
    result = run("broker", "start", "--listen", "tcp://192.0.2.1")
    assert result.exit_code == 1
    assert result.output.startswith("Error: the broker cannot start: setting listen is 'tcp://192")
    assert len(result.output.splitlines()) == 1
    with pytest.raises(ConnectionError, match="cannot be bound"):
        inviting.listen("tcp://192.0.2.1")
