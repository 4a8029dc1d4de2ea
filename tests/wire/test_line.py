"""The line between a client and a worker: datagrams both ways, and who is at the other end."""

from __future__ import annotations

import os

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
