"""A worker that is a kernel too: what is typed is the console's, and the calls go on."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from kernel_worker.wire import messages
from tests.waiting import PATIENCE, wait_until
from tests.worker.harness import Broker, Worker, define

SOURCE = """
import sys, time
limit = 1
def f(go_on):
    if go_on is None:
        return limit, "ipykernel" in sys.modules
    import os
    print("begins")
    while not os.path.exists(go_on):
        time.sleep(0.005)
    print("ends")
    return limit
"""

Attach = Callable[[Worker], "Console"]


class Console:
    """A front end that is attached."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.client = BlockingKernelClient(connection_file=path)
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=20 * PATIENCE)

    def run(self, source: str) -> tuple[str, str]:
        """Run a cell; return its status and what it showed."""
        shown: list[str] = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            shown.append(content.get("text", ""))
            shown.append(content.get("data", {}).get("text/plain", ""))
            shown.append(content.get("ename", ""))

        reply = self.client.execute_interactive(
            source, timeout=20 * PATIENCE, allow_stdin=False, output_hook=take
        )
        return reply["content"]["status"], "".join(shown)


@pytest.fixture
def attach(broker: Broker) -> Iterator[Attach]:
    consoles: list[Console] = []

    def make(worker: Worker) -> Console:
        worker.tell_host(messages.AttachKernel(worker.id))
        said = broker.wait(messages.KernelAttached).message
        assert not said.error, said.error
        consoles.append(Console(said.path))
        return consoles[-1]

    yield make
    for each in consoles:
        each.client.stop_channels()


def test_a_busy_worker_is_a_kernel_and_goes_on(
    broker: Broker, attach: Attach, tmp_path: Path
) -> None:
    worker = broker.start_worker(define(SOURCE))
    assert worker.call(None) == (1, False), "nobody has imported ipykernel"
    lease = worker.lease([(str(tmp_path / "go"),)])
    wait_until(lambda: broker.pump(0.1) and "begins" in worker.output())
    console = attach(worker)
    assert console.run("limit, inputs()[0].locals['go_on']")[1] == repr((1, str(tmp_path / "go")))
    assert console.run("limit = 2; print('typed')") == ("ok", "typed\n")
    assert console.run("display(limit)")[1].strip() == "2"
    assert console.run("1 / 0") == ("error", "ZeroDivisionError")
    (tmp_path / "go").touch()
    assert broker.outcomes(lease, 1) == {0: 2}, "what was typed is seen by the input that runs"
    assert worker.output() == "begins\nends\n"
    assert worker.call(None) == (2, True)
    assert console.run("inputs()")[1] == "[]"


def test_an_interrupt_hits_the_console_alone_and_leaving_detaches(
    broker: Broker, attach: Attach, tmp_path: Path
) -> None:
    worker = broker.start_worker(define(SOURCE))
    lease = worker.lease([(str(tmp_path / "go"),)])
    console = attach(worker)
    endless = "print('on'); n = 0\nwhile True:\n    n += 1"
    # Else a kernel aborts what comes just after the error, until it has said that it is idle.
    message = console.client.execute(endless, stop_on_error=False)
    while console.client.get_iopub_msg(timeout=20 * PATIENCE)["msg_type"] != "stream":
        pass
    console.client.control_channel.send(console.client.session.msg("interrupt_request"))
    reply = console.client.get_shell_msg(timeout=20 * PATIENCE)
    while reply["parent_header"]["msg_id"] != message:
        reply = console.client.get_shell_msg(timeout=20 * PATIENCE)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    # One that comes when no cell runs changes nothing.
    idle = console.client.session.msg("interrupt_request")
    console.client.control_channel.send(idle)
    while (
        console.client.get_control_msg(timeout=20 * PATIENCE)["parent_header"]["msg_id"]
        != idle["header"]["msg_id"]
    ):
        pass  # the answer to the first
    assert console.run("'there'") == ("ok", "'there'")
    left = console.client.execute("exit")
    reply = console.client.get_shell_msg(timeout=20 * PATIENCE)
    assert reply["parent_header"]["msg_id"] == left
    assert [each["source"] for each in reply["content"]["payload"]] == ["ask_exit"]
    console.client.shutdown()
    assert console.run("'still there'") == ("ok", "'still there'")
    (tmp_path / "go").touch()
    assert broker.outcomes(lease, 1) == {0: 1}


def test_nobody_else_gets_in_and_nothing_is_left(broker: Broker, attach: Attach) -> None:
    worker = broker.start_worker(define(SOURCE))
    console = attach(worker)
    assert stat.S_IMODE(console.path.parent.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(console.path.stat().st_mode) == 0o600
    assert all(len(str(each)) < 100 for each in console.path.parent.iterdir())
    worker.tell_host(messages.KillWorker(worker.id))
    worker.exited()
    assert not list(console.path.parent.iterdir())


def test_a_worker_that_is_told_to_stop_ends_as_before(broker: Broker, attach: Attach) -> None:
    worker = broker.start_worker(define(SOURCE))
    console = attach(worker)
    worker.tell_host(messages.StopWorker(worker.id))
    assert worker.exited().cause == "stopped"
    assert not list(console.path.parent.iterdir())


def test_the_names_of_a_function_mean_what_they_did(broker: Broker, attach: Attach) -> None:
    source = """
    import importlib
    In = "mine"
    def f(x):
        return In, "exit" in globals()
    """
    worker = broker.start_worker(define(source))
    assert worker.call(0) == ("mine", False)
    console = attach(worker)
    console.run("1")
    assert worker.call(0) == ("mine", False)


def test_why_it_cannot_be_a_kernel_is_said(broker: Broker) -> None:
    source = """
    import sys
    def f(x):
        sys.modules["ipykernel.kernelapp"] = None
    """
    worker = broker.start_worker(define(source))
    worker.call(0)
    worker.tell_host(messages.AttachKernel(worker.id))
    assert "ipykernel.kernelapp" in broker.wait(messages.KernelAttached).message.error
    assert worker.call(0) is None
