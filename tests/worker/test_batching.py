"""Groups of inputs: one call of the function, an answer for each input."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kernel_worker.model import LeaseId, Outcome
from kernel_worker.wire import messages
from kernel_worker.wire.frames import FORM_CALL
from tests.waiting import wait_until
from tests.worker.harness import Broker, Worker, define

SUMS = """
def f(xs, ys=0):
    print("group", xs, ys)
    return [x + (ys[i] if isinstance(ys, list) else ys) for i, x in enumerate(xs)]
"""
WAITS = """
import os, time
def f(gates):
    open(gates[0] + ".began", "w").close()
    while not os.path.exists(gates[0]):
        time.sleep(0.01)
    return [os.path.basename(gate) for gate in gates]
"""
ASYNC_WAITS = (
    WAITS.replace("def f", "async def f")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("import os", "import asyncio, os")
)


def start(broker: Broker, source: str, **options: Any) -> Worker:
    return broker.start_worker(define(source), max_batch_size=8, **options)


def group(worker: Worker, number: int, *batches: list[Any], **more: Any) -> list[LeaseId]:
    """Lease a group, a lease for each batch, each of a call of its own."""
    return [
        worker.lease(batch, call=f"fc-{at}", group=number, group_size=len(batches), **more)
        for at, batch in enumerate(batches)
    ]


def outcome(broker: Broker, lease: LeaseId) -> Any:
    return broker.outcomes(lease, 1)[0]


def begin(broker: Broker, worker: Worker, number: int, *gates: Path) -> list[LeaseId]:
    """Lease a group of inputs that wait for the first gate, and wait until it runs."""
    leases = group(worker, number, *[[(str(gate),)] for gate in gates])
    wait_until(Path(f"{gates[0]}.began").exists, 20, "the group runs")
    return leases


def ended(broker: Broker, lease: LeaseId) -> messages.InputEnded:
    found = broker.wait(messages.InputEnded, lambda m: m.lease == lease)
    return found.message  # type: ignore[no-any-return]


def left(broker: Broker, lease: LeaseId) -> None:
    broker.wait(messages.InputLeft, lambda m: m.lease == lease)


def cancel(worker: Worker, lease: LeaseId) -> None:
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))


def test_one_call_answers_all_leases_of_a_group(broker: Broker) -> None:
    worker = start(broker, SUMS)
    one, other = group(worker, 900_001, [(1,), (2,)], [(3,)])
    assert broker.outcomes(one, 2) == {0: 1, 1: 2}
    assert broker.outcomes(other, 1) == {0: 3}
    assert worker.output() == "group [1, 2, 3] 0\n"


def test_a_part_of_a_batch(broker: Broker) -> None:
    worker = start(broker, SUMS)
    lease = worker.lease([(i,) for i in range(10)], start=4, stop=7, group=900_001, group_size=1)
    assert broker.outcomes(lease, 3) == {4: 4, 5: 5, 6: 6}


def test_arguments_become_lists_by_name(broker: Broker) -> None:
    worker = start(broker, SUMS)
    items: list[Any] = [((1,), {}), ((2, 10), {}), ((), {"xs": 3, "ys": 20})]
    lease = worker.lease(items, FORM_CALL, group=900_001, group_size=1)
    assert broker.outcomes(lease, 3) == {0: 1, 1: 12, 2: 23}
    assert worker.output() == "group [1, 2, 3] [0, 10, 20]\n"


def test_shared_arguments_are_lists_too(broker: Broker) -> None:
    worker = start(broker, SUMS)
    lease = worker.lease([(1,), (2,)], shared=pickle.dumps({"ys": 5}), group=900_001, group_size=1)
    assert broker.outcomes(lease, 2) == {0: 6, 1: 7}


def test_arguments_that_do_not_fit_fail_their_input_alone(broker: Broker) -> None:
    worker = start(broker, SUMS)
    items: list[Any] = [((1,), {}), ((), {"zs": 1}), ((3,), {})]
    lease = worker.lease(items, FORM_CALL, group=900_001, group_size=1)
    found = broker.outcomes(lease, 3)
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], TypeError)
    alone = worker.lease([()], group=900_002, group_size=1)
    assert isinstance(outcome(broker, alone), TypeError)


DIES_AS_IT_IS_PICKLED = """
import os, signal
class Deadly:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
def f(xs):
    return [Deadly() for _ in xs]
"""


def test_a_group_whose_results_kill_it_is_named(broker: Broker) -> None:
    worker = start(broker, DIES_AS_IT_IS_PICKLED)
    group(worker, 900_001, [(1,), (2,)])
    death = worker.exited()
    assert (death.lease, death.position) == (900_001, 0)


def test_an_exception_in_the_list_fails_its_input_alone(broker: Broker) -> None:
    worker = start(broker, "def f(xs):\n    return [ValueError(x) if x % 2 else x for x in xs]\n")
    lease = worker.lease([(x,) for x in range(4)], group=900_001, group_size=1)
    found = broker.outcomes(lease, 4)
    assert [type(found[x]).__name__ for x in range(4)] == ["int", "ValueError"] * 2
    assert str(found[3]) == "3"


def test_a_result_that_cannot_travel_fails_its_input_alone(broker: Broker) -> None:
    worker = start(
        broker,
        """
        import threading
        def f(xs):
            return [threading.Lock() if x == 1 else x for x in xs]
        """,
    )
    lease = worker.lease([(x,) for x in range(3)], group=900_001, group_size=1)
    found = broker.outcomes(lease, 3)
    assert [type(found[x]).__name__ for x in range(3)] == ["int", "SerializationError", "int"]


@pytest.mark.parametrize(
    ("returned", "found"),
    [("None", "NoneType"), ("tuple(xs)", "tuple"), ("xs[1:]", "a list of 1"), ("xs + xs", "of 4")],
)
def test_anything_but_a_list_of_results_fails_all(
    broker: Broker, returned: str, found: str
) -> None:
    worker = start(broker, f"def f(xs):\n    return {returned}\n")
    one, other = group(worker, 900_001, [(1,)], [(2,)])
    for lease in (one, other):
        error = outcome(broker, lease)
        assert type(error).__name__ == "InvalidError"
        assert "a list with a result for each of its 2 inputs" in str(error)
        assert found in str(error)


def test_what_the_function_raises_fails_all(broker: Broker) -> None:
    worker = start(broker, "def f(xs):\n    raise SystemExit(xs)\n")
    leases = group(worker, 900_001, [(1,)], [(2,)])
    assert [type(outcome(broker, lease)) for lease in leases] == [SystemExit] * 2
    again = worker.lease([(3,)], group=900_002, group_size=1)
    assert type(outcome(broker, again)) is SystemExit


@pytest.mark.parametrize("source", [WAITS, ASYNC_WAITS])
def test_a_cancelled_input_is_answered_at_once_and_the_others_later(
    broker: Broker, source: str, tmp_path: Path
) -> None:
    worker = start(broker, source)
    one, other = begin(broker, worker, 900_001, tmp_path / "one", tmp_path / "other")
    cancel(worker, one)
    cancel(worker, one)
    answer = ended(broker, one)
    assert (answer.outcome, answer.lingers) == (Outcome.CANCELLED, True)
    (tmp_path / "one").touch()
    assert outcome(broker, other) == "other"
    left(broker, one)
    assert len(broker.outcomes_so_far(one)) == 1


@pytest.mark.parametrize("source", [WAITS, ASYNC_WAITS])
def test_a_group_of_which_nothing_is_left_is_interrupted(
    broker: Broker, source: str, tmp_path: Path
) -> None:
    worker = start(broker, source)
    leases = begin(broker, worker, 900_001, tmp_path / "one", tmp_path / "other")
    for lease in leases:
        cancel(worker, lease)
    for lease in leases:
        left(broker, lease)
        assert ended(broker, lease).outcome is Outcome.CANCELLED
    (tmp_path / "again").touch()
    (again,) = group(worker, 900_002, [(str(tmp_path / "again"),)])
    assert outcome(broker, again) == "again"


def test_what_is_cancelled_before_its_group_is_complete_never_runs(broker: Broker) -> None:
    worker = start(broker, SUMS)
    first = worker.lease([(1,)], call="fc-0", group=900_001, group_size=3)
    cancel(worker, first)
    assert ended(broker, first).lingers is False
    ahead = LeaseId(10_000_001)
    cancel(worker, ahead)
    worker.tell_host(messages.TakeBack(worker.id, first))
    returned = broker.wait(messages.Returned, lambda m: m.lease == first).message
    assert returned.start == returned.stop
    worker.lease([(2,)], call="fc-1", group=900_001, group_size=3, number=ahead)
    assert ended(broker, ahead).outcome is Outcome.CANCELLED
    last = worker.lease([(3,)], call="fc-2", group=900_001, group_size=3)
    assert outcome(broker, last) == 3
    assert worker.output() == "group [3] 0\n"
    cancel(worker, last)  # too late
    (again,) = group(worker, 900_002, [(4,)])
    assert outcome(broker, again) == 4


@pytest.mark.parametrize("source", [WAITS, ASYNC_WAITS])
def test_the_time_of_a_group_is_over_for_all(broker: Broker, source: str, tmp_path: Path) -> None:
    worker = start(broker, source, timeout_seconds=0.5)
    leases = begin(broker, worker, 900_001, tmp_path / "one", tmp_path / "other")
    assert [ended(broker, lease).outcome for lease in leases] == [Outcome.TIMED_OUT] * 2


def test_a_group_that_swallows_its_time_limit_does_not_win(broker: Broker) -> None:
    worker = start(
        broker,
        """
        import time
        def f(xs):
            try:
                time.sleep(20)
            except BaseException:
                return xs
        """,
        timeout_seconds=0.3,
    )
    (lease,) = group(worker, 900_001, [(1,)])
    assert ended(broker, lease).outcome is Outcome.TIMED_OUT


def test_a_death_names_the_group(broker: Broker, tmp_path: Path) -> None:
    worker = start(broker, WAITS)
    begin(broker, worker, 900_001, tmp_path / "one", tmp_path / "other")
    os.kill(worker.pid, signal.SIGKILL)
    gone = worker.exited()
    assert (gone.lease, gone.position) == (900_001, 0)


def test_a_fork_of_a_group_says_nothing(broker: Broker) -> None:
    worker = start(
        broker,
        """
        import os
        def f(xs):
            pid = os.fork()
            if pid:
                return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for x in xs[:1]]
            if xs[0]:
                raise ValueError
            return xs
        """,
    )
    codes = [outcome(broker, group(worker, 900_001 + x, [(x,)])[0]) for x in (0, 1)]
    assert codes == [0, 1]


def test_output_is_live(broker: Broker, tmp_path: Path) -> None:
    worker = start(
        broker,
        """
        import os, time
        def f(gates):
            print("live")
            while not os.path.exists(gates[0]):
                time.sleep(0.01)
            return gates
        """,
    )
    (lease,) = group(worker, 900_001, [(str(tmp_path / "gate"),)])
    broker.wait(messages.Output)
    assert broker.outcomes_so_far(lease) == {}
    (tmp_path / "gate").touch()
    broker.outcomes(lease, 1)


@pytest.mark.clock
def test_each_input_is_charged_its_share_of_the_time(broker: Broker) -> None:
    worker = start(broker, "import time\ndef f(xs):\n    time.sleep(0.4)\n    return xs\n")
    began = time.monotonic()
    one, other = group(worker, 900_001, [(1,), (2,), (3,)], [(4,)])
    broker.outcomes(one, 3)
    broker.outcomes(other, 1)
    took = time.monotonic() - began
    done = {
        each.message.lease: each.message.elapsed_seconds
        for each in broker.received
        if isinstance(each.message, messages.Done)
    }
    assert done[one] == pytest.approx(3 * done[other], rel=0.05)
    assert 0.4 <= done[one] + done[other] <= took
