"""Workers that are over a limit are told, then killed.

What the interrupt of a timeout does is in `tests/worker/test_interrupts.py`, what counts as memory
in `tests/worker/test_memory.py`.
"""

from __future__ import annotations

from pathlib import Path

from kernel_worker.model import Outcome, Resources
from tests.worker.harness import Broker, define

HURRIED = """
import sys
from kernel_worker.host import __main__ as program, limits
limits.GRACE_SECONDS = 0.2
sys.exit(program.main())
"""


class HurriedBroker(Broker):
    program = ("-c", HURRIED)


def test_who_runs_on_after_its_timeout_is_killed(tmp_path: Path) -> None:
    with HurriedBroker(tmp_path) as broker:
        worker = broker.start_worker(
            define("""
            import signal, time
            def f():
                while True:
                    try:
                        time.sleep(60)
                    except BaseException:
                        pass
            """),
            timeout_seconds=0.2,
        )
        lease = worker.lease([()])
        exited = worker.exited()
        assert (exited.lease, exited.position, exited.timed_out) == (lease, 0, True)
        assert exited.cause == "killed: did not stop 0.2 s after its timeout of 0.2 s"


def test_each_input_has_its_own_time(broker: Broker) -> None:
    slow = "import time\ndef f(x):\n    time.sleep(x)\n    return x\n"
    worker = broker.start_worker(define(slow), timeout_seconds=1.0)
    lease = worker.lease([(0.7,), (0.7,), (60,)])
    assert broker.outcomes(lease, 3) == {0: 0.7, 1: 0.7, 2: Outcome.TIMED_OUT}


def test_who_has_more_memory_than_its_limit_is_killed(broker: Broker) -> None:
    hoards = "import time\ndef f():\n    kept = bytearray(400 << 20)\n    time.sleep(60)\n"
    resources = Resources(memory_mib=64, memory_limit_mib=256)
    worker = broker.start_worker(define(hoards), resources=resources)
    lease = worker.lease([()])
    exited = worker.exited()
    assert exited.lease == lease
    assert exited.over_memory_mib > 256
    assert "more than its limit of 256 MiB" in exited.cause
