"""The line between a client and a worker: datagrams both ways, and who is at the other end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from kernel_worker.errors import ProtocolError
from kernel_worker.wire import line


def test_turns_go_both_ways_once_a_worker_has_dialled() -> None:
    name = f"test-{os.urandom(8).hex()}"
    listener = line.listen(name)
    worker = line.dial(name, "fc-1")
    assert worker is not None
    client, _ = listener.accept()
    assert line.is_ours(client)
    assert client.recv(100) == b"fc-1"
    asked = line.Turn(3, (b"header", b"pickle"))
    client.send(line.encode(asked))
    assert line.decode(worker.recv(line.MAX_BYTES)) == asked
    worker.send(line.encode(line.Turn(3, ())))
    assert line.decode(client.recv(line.MAX_BYTES)).frames == ()
    worker.close()
    assert client.recv(100) == b""
    client.close()
    listener.close()


def test_who_has_dialled_names_a_call_or_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{os.urandom(8).hex()}"
    with line.listen(name) as listener:
        for said, call in ((b"fc-1", "fc-1"), (b"\xff", ""), (b"", "")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as worker:
                worker.connect(f"\0{name}")
                if said:
                    worker.send(said)
                client, _ = listener.accept()
                with client:
                    line.limit_waits(client, 0.01)  # a worker has said it before we look
                    assert line.caller_of(client) == call
                    monkeypatch.setattr(os, "geteuid", lambda: -1)
                    assert line.caller_of(client) == ""
                    monkeypatch.undo()


_NOBODY = """
import os, socket, sys

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.connect("\\0" + sys.argv[1])
end.send(b"fc-1")
print("dialled", flush=True)
end.close()
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.bind("\\0" + sys.argv[1] + "-theirs")
end.listen()
print("listens", flush=True)
end.accept()[0].recv(1)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_gets_no_line() -> None:
    name = f"test-{os.urandom(8).hex()}"
    command = [sys.executable, "-c", _NOBODY, name]
    with (
        line.listen(name) as listener,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as nobody,
    ):
        assert nobody.stdout is not None
        assert nobody.stdout.readline() == "dialled\n"
        client, _ = listener.accept()
        with client:
            assert line.caller_of(client) == ""
        assert nobody.stdout.readline() == "listens\n"
        assert line.dial(f"{name}-theirs", "fc-1") is None


def test_a_wait_has_a_limit() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        line.limit_waits(ours, 0.01)
        with pytest.raises(BlockingIOError):
            ours.recv(100)


def test_nobody_listens() -> None:
    assert line.dial(f"test-{os.urandom(8).hex()}", "fc-1") is None


def test_somebody_elses_process_is_not_talked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{os.urandom(8).hex()}"
    listener = line.listen(name)
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert line.dial(name, "fc-1") is None
    listener.close()


def test_what_is_no_turn_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no turn"):
        line.decode(b"\xc1")
