from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker import context, rendezvous, settings
from kernel_worker.errors import AuthError, DeserializationError
from kernel_worker.model import WorkerId, digest_of
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import messages, payload
from kernel_worker.wire.frames import FORM_ARGS
from notebook_ext import inquiry, process, sealed
from notebook_ext.config import config
from notebook_ext.cutting import cut
from notebook_ext.exception import ClientClosed, ConnectionError, NotFoundError  # noqa: A004
from notebook_ext.session import Session
from tests.waiting import PATIENCE, wait_until


def test_status(add: nb.Function[..., int]) -> None:
    add.remote(1)
    status = process.current().status().join()
    assert any(pool.name == add.name for pool in status.pools)


def test_the_prefix_of_lines_holds_at_once(live: nb.App, monkeypatch: pytest.MonkeyPatch) -> None:
    session = process.current()
    assert not session.output("f")._prefixed
    monkeypatch.setattr(config, "log_prefix", True)
    assert session.output("f")._prefixed


def test_questions_that_cannot_be_answered(live: nb.App) -> None:
    asked = process.current().ask("object", "0" * 32, bytes)
    with pytest.raises(NotFoundError):
        asked.join()


def test_what_is_not_what_its_digest_says_is_refused_where_the_broker_is_not_believed(
    add: nb.Function[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert add.remote(1) == 2, "it is connected"
    session, digest = process.current(), digest_of(b"mine")
    session.post(session._conversation._told.store, digest, b"mine")
    assert session.ask("object", digest, bytes).join() == b"mine"
    monkeypatch.setattr(context, "seals", True)
    assert session.ask("object", digest, bytes).join() == b"mine"
    monkeypatch.setattr(sealed, "digest_of", lambda _: digest_of(b"theirs"))
    with pytest.raises(DeserializationError, match="another one, in clear"):
        session.ask("object", digest, bytes).join()


def test_who_has_to_seal_and_has_no_key_is_told_before_the_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "connection.json"
    gone = Connection("ipc://s", 1, "i", "m", str(file), payload_key=str(tmp_path / "gone"))
    rendezvous.publish(gone)
    identity = context.WorkerIdentity(WorkerId("ta"), str(file), {})
    monkeypatch.setattr(context, "worker_identity", identity)
    monkeypatch.setattr(context, "seals", True)
    with Session() as session:
        with pytest.raises(AuthError, match="No such file"):
            session.new_call()
        file.unlink()
        assert session.new_call().startswith("fc-s"), "the broker is about to be found again"


def test_closing_ends_the_waits(live: nb.App) -> None:
    @live.function
    def sleep() -> None:
        import time

        time.sleep(60)

    waiting = sleep.remote.start()
    process.close()
    with pytest.raises(ClientClosed):
        waiting.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_session_that_failed_is_replaced_at_once(live: nb.App) -> None:
    @live.function
    def sleep(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    waiting = sleep.remote.start(60)
    process.current().post(int, "no number")
    with pytest.raises(ClientClosed):
        waiting.join()
    assert sleep.remote.start(0).wait(30)


def test_a_broker_that_dies_costs_nothing_but_time(live: nb.App) -> None:
    @live.function
    def work(x: int) -> int:
        import time

        time.sleep(0.02)
        return x

    results = iter(work.map(range(100)))
    assert next(results) == 0
    call = work.spawn(7)
    broker = rendezvous.find(process.current().settings)
    assert broker is not None
    os.kill(broker.pid, signal.SIGKILL)
    assert list(results) == list(range(1, 100))
    assert call.get() == 7
    assert work.remote(3) == 3


def test_a_broker_that_was_stopped_ends_the_waits_and_none_is_started_for_them(
    live: nb.App, tmp_path: Path
) -> None:
    @live.function
    def work(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    @live.function
    def until(path: str) -> bool:
        import time
        from pathlib import Path

        while not Path(path).exists():
            time.sleep(0.02)
        return True

    call = until.spawn(str(tmp_path / "mark"))
    results = iter(work.map([0.0, 60.0]))
    assert next(results) == 0.0
    waiting = [work.remote.start(60), call.get.start(), process.current().ask("attach", "x", str)]
    inquiry.stop()
    with pytest.raises(ConnectionError, match="stopped on purpose"):
        next(results)
    for each in waiting:
        with pytest.raises((ConnectionError, NotFoundError)):
            each.join()
    assert inquiry.find_here() is None
    assert work.remote(0.0) == 0.0, "who calls again has another one"
    (tmp_path / "mark").touch()
    assert nb.FunctionCall.from_id(call.object_id).get() is True


def test_what_goes_by_a_direct_line_ends_too_where_the_broker_was_stopped(live: nb.App) -> None:
    @live.function
    def work(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    def has_line() -> bool:
        work.remote(0.0)
        return process.current().lines.count == 1

    found: list[Exception] = []

    def call() -> None:
        try:
            work.remote(60.0)
        except ConnectionError as error:
            found.append(error)

    wait_until(has_line, what="there is a line")
    calling = threading.Thread(target=call)
    calling.start()
    line = next(iter(process.current().lines._open.values()))
    wait_until(line.in_use.locked, what="it is called")
    inquiry.stop()
    calling.join(30 * PATIENCE)
    assert "stopped on purpose" in str(found[0])
    assert inquiry.find_here() is None


def test_no_broker_within_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Any) -> Any:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(rendezvous, "find_or_start", nobody)
    with Session(settings.load({"runtime_dir": tmp_path / "r"})) as lonely:
        with pytest.raises(ConnectionError, match="nobody is there"):
            lonely.status().join()
        with pytest.raises(ConnectionError, match="nobody is there"):
            lonely.status().join()


def test_a_broker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rendezvous.Connection(f"ipc://{tmp_path}/s", os.getpid(), "i", "elsewhere", "p")
    monkeypatch.setattr(rendezvous, "find_or_start", lambda _: found)
    wanted = settings.load({"runtime_dir": tmp_path / "r", "connect_timeout": 0.2})
    with Session(wanted) as lonely, pytest.raises(ConnectionError, match=r"within 0\.2 s"):
        lonely.status().join()


def test_parts_of_batches() -> None:
    for items in ([(1,), (2,), (3,)], [([1],), ([2],), ([3],)]):
        part = cut(payload.encode_batch(items, FORM_ARGS), 1, 3)
        reader = payload.BatchReader(part)
        assert [reader[at] for at in range(len(reader))] == items[1:]


def interrupt_next_post(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stop button be pressed as the next wish lies on the queue of the I/O thread."""
    link = process.current()._link
    up = link._wake.up

    def interrupted() -> None:
        monkeypatch.setattr(link._wake, "up", up)
        raise KeyboardInterrupt

    monkeypatch.setattr(link._wake, "up", interrupted)


def test_a_wish_is_heard_though_an_interrupt_comes(
    live: nb.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    interrupt_next_post(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        process.current().post(done.set)
    assert done.wait(10 * PATIENCE)


def test_a_call_that_an_interrupt_leaves_behind_is_cancelled(
    live: nb.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @live.function
    def left_behind() -> None:
        import time

        time.sleep(60)

    def is_known() -> bool:
        calls = process.current().calls(messages.CallFilter()).join()
        return any(call.name == left_behind.name for call in calls)

    process.current().status().join()
    interrupt_next_post(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        left_behind.remote()
    wait_until(lambda: not is_known(), what="the call ends")


def test_an_idle_session_takes_no_time(add: nb.Function[..., int]) -> None:
    add.remote(1)
    clock = _thread_seconds()
    wait_until(lambda: True)
    assert _thread_seconds() - clock < 0.5


def _thread_seconds() -> float:
    times = os.times()
    return times.user + times.system
