"""A host agent starts, stops, kills and reaps; nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from kernel_worker.model import LeaseId
from kernel_worker.wire import messages
from tests.waiting import wait_until
from tests.worker.harness import Broker, define

PID = """
import os
def f(x=None):
    return os.getpid()
"""


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        current = todo.pop()
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{current}/task/{current}/children").read_text()
            todo += map(int, text.split())
            found += map(int, text.split())
    return found


def test_hello_says_what_there_is(broker: Broker) -> None:
    resources = broker.hello.resources
    assert resources is not None
    assert resources.cpu >= 1
    assert resources.memory_mib > 100
    assert broker.hello.machine == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_worker_is_a_process_of_its_own_session(broker: Broker) -> None:
    worker = broker.start_worker(define(PID))
    assert worker.start == "forked"
    assert worker.call() == worker.pid
    assert os.getsid(worker.pid) == worker.pid


def test_stop_ends_an_idle_worker_cleanly(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import atexit
        def f(path):
            atexit.register(lambda: open(path, "w").close())
        """)
    )
    path = broker.directory / "exited"
    worker.call(str(path))
    worker.tell_host(messages.StopWorker(worker.id))
    assert worker.exited() == messages.WorkerExited(worker.id, "stopped")
    assert path.exists()


def test_what_does_not_stop_is_killed(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            print("in", flush=True)
            time.sleep(60)
        """)
    )
    worker.lease([()])
    broker.wait(messages.Output)
    worker.tell_host(messages.StopWorker(worker.id, grace_seconds=0.2))
    assert worker.exited().cause == "killed: did not stop in time"


def test_kill(broker: Broker) -> None:
    worker = broker.start_worker(define(PID))
    worker.tell_host(messages.KillWorker(worker.id))
    assert worker.exited().cause == "killed on request"


DEATHS = {
    "os._exit(3)": "exit code 3",
    "os.kill(os.getpid(), signal.SIGKILL)": "killed by SIGKILL (not by us; out of memory?)",
    "os.kill(os.getpid(), signal.SIGTERM)": "killed by SIGTERM",
    "faulthandler._sigsegv()": "killed by SIGSEGV",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_names_cause_lease_and_input(broker: Broker, death: str) -> None:
    worker = broker.start_worker(
        define(f"""
        import faulthandler, os, signal
        def f(x):
            if x == 7:
                {death}
            return x
        """)
    )
    lease = worker.lease([(i,) for i in range(10)])
    exited = worker.exited()
    assert exited == messages.WorkerExited(worker.id, DEATHS[death], lease, 7)
    if "sigsegv" in death:
        assert "Segmentation fault" in worker.output()


def test_an_idle_death_names_no_input(broker: Broker) -> None:
    worker = broker.start_worker(define(PID))
    worker.call()
    broker.pump(0.3)
    os.kill(worker.pid, signal.SIGKILL)
    exited = worker.exited()
    assert (exited.lease, exited.position) == (LeaseId(0), -1)


def test_bytes_that_are_no_message_change_nothing(broker: Broker) -> None:
    broker.socket.send_multipart([broker.host.encode(), b"\xff\xff"])
    broker.socket.send_multipart([broker.host.encode(), b""])
    assert broker.start_worker(define(PID)).call() > 0


@pytest.mark.parametrize(
    "leave",
    [
        "subprocess.Popen(['sleep', '300'])",
        "subprocess.Popen(['sleep', '300'], start_new_session=True)",
        "os.system('setsid sleep 300 &')",
        "os.system('nohup sleep 300 > /dev/null 2>&1 &')",
    ],
)
def test_what_a_function_leaves_behind_ends_with_its_worker(broker: Broker, leave: str) -> None:
    worker = broker.start_worker(
        define(f"""
        import os, subprocess
        def f():
            {leave}
        """)
    )
    other = broker.start_worker(define(PID))
    worker.call()
    wait_until(lambda: "sleep" in commands(broker.agent.pid))
    worker.tell_host(messages.StopWorker(worker.id))
    worker.exited()
    wait_until(lambda: "sleep" not in commands(broker.agent.pid))
    assert other.call() == other.pid


def commands(pid: int) -> set[str]:
    found = set()
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{each}/comm").read_text().strip())
    return found


def test_an_agent_that_is_told_to_end_takes_all_with_it(broker: Broker) -> None:
    broker.start_worker(define("import subprocess\ndef f():\n    pass\n"))
    busy = broker.start_worker(
        define("""
        import subprocess
        def f():
            print("in", flush=True)
            subprocess.run(["sleep", "300"], start_new_session=True)
        """)
    )
    busy.lease([()])
    broker.wait(messages.Output)
    wait_until(lambda: "sleep" in commands(broker.agent.pid))
    below = descendants(broker.agent.pid)
    assert len(below) >= 6
    broker.agent.terminate()
    assert broker.agent.wait(20) == 0
    assert not [pid for pid in below if is_alive(pid)]


def test_one_that_is_killed_too(broker: Broker) -> None:
    busy = broker.start_worker(
        define("""
        import subprocess
        def f():
            child = subprocess.Popen(["sleep", "300"])
            print("in", flush=True)
            while True:
                pass
        """)
    )
    busy.lease([()])
    broker.wait(messages.Output)
    below = descendants(broker.agent.pid)
    broker.agent.kill()
    broker.agent.wait()
    wait_until(lambda: not [pid for pid in below if is_alive(pid)])


def test_what_one_that_was_killed_could_not_end_the_next_one_does(tmp_path: Path) -> None:
    leaves = define("""
        import subprocess
        def f():
            return subprocess.Popen(["sleep", "300"], start_new_session=True).pid
    """)
    elsewhere = {**os.environ, "NOTEBOOK_EXT_WORKPLACE": str(tmp_path / "another.json")}
    with subprocess.Popen(["/bin/sleep", "300"], env=elsewhere) as other:
        with Broker(tmp_path) as first:
            left = first.start_worker(leaves).call()
            wait_until(lambda: "sleep" in commands(first.agent.pid))
            first.agent.kill()
            first.agent.wait()
        assert is_alive(left)
        with Broker(tmp_path) as second:
            wait_until(lambda: not is_alive(left), what="the next agent has ended it")
            assert second.start_worker(define(PID)).call() > 0
        assert other.poll() is None, "it is of another place"
        other.kill()


def test_an_agent_that_is_told_to_end_ends_everything(broker: Broker) -> None:
    broker.start_worker(define(PID))
    below = descendants(broker.agent.pid)
    broker.agent.terminate()
    assert broker.agent.wait(20) == 0
    assert not [pid for pid in below if is_alive(pid)]


def test_an_idle_host_does_nothing(broker: Broker) -> None:
    worker = broker.start_worker(define(PID))
    worker.call()
    pids = [broker.agent.pid, *descendants(broker.agent.pid)]
    wait_until(lambda: not switches_of_half_a_second(broker, pids), 20)


def switches_of_half_a_second(broker: Broker, pids: list[int]) -> int:
    before = switches(pids)
    broker.pump(0.5)
    return switches(pids) - before


def switches(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt"):
                    total += int(line.split()[1])
    return total
