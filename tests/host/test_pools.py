"""What pools need of a host, until some time after they have retired."""

from __future__ import annotations

from pathlib import Path

from kernel_worker.wire import messages
from notebook_ext.capture import Captured, Capturer
from tests.host.test_agent import descendants
from tests.waiting import wait_until
from tests.worker.harness import Broker, define

HURRIED = """
import sys
from kernel_worker.host import __main__ as program, pools
pools.RETIRED_SECONDS = 0.01
sys.exit(program.main())
"""


class HurriedBroker(Broker):
    program = ("-c", HURRIED)


def test_objects_that_no_pool_needs_any_more_are_let_go(tmp_path: Path) -> None:
    with HurriedBroker(tmp_path) as broker:
        stays = Capturer(define("def f():\n    return object()\n")).read()
        kept = broker.start_worker(stays)
        goes = Capturer(define("def f():\n    return 'of a pool that goes'\n")).read()
        wait_until(lambda: "was not sent" in end_of_a_start(broker, goes))
        assert broker.start_worker(stays).call() != kept.call()


def test_of_many_retired_pools_the_latest_are_kept(broker: Broker) -> None:
    for number in range(12):
        worker, spec = broker.ask_worker(define(f"def f():\n    return {number}\n"))
        broker.ready(worker)
        worker.tell_host(messages.StopWorker(worker.id))
        worker.exited()
        broker.send(broker.host, messages.RetirePool(spec.pool))
    # Not more than the few that are kept for who goes back, their base and nothing else.
    wait_until(lambda: len(descendants(broker.agent.pid)) <= 2 * 4 + 2)


def end_of_a_start(broker: Broker, captured: Captured) -> str:
    """Ask for a worker without sending what it needs, retire its pool, say how it ended."""
    worker, spec = broker.ask_worker(captured)  # which sends each object once
    worker.tell_host(messages.KillWorker(worker.id))
    broker.send(broker.host, messages.RetirePool(spec.pool))
    found: list[str] = []

    def has_ended() -> bool:
        broker.pump(0.1)
        for each in broker.received:
            match each.message:
                case messages.WorkerExited(worker=worker.id, cause=text):
                    found.append(text)
                case messages.StartFailed(worker=worker.id, message=text):
                    found.append(text)
                case _:
                    pass
        return bool(found)

    wait_until(has_ended)
    return found[0]
