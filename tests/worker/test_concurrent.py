"""Several inputs of a worker at once: each is answered for itself, whatever the others do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kernel_worker.model import CallId, LeaseId, Outcome
from kernel_worker.wire import messages
from tests.waiting import wait_until
from tests.worker.harness import Broker, Worker, define

BODIES = {
    "async": """
        import asyncio, os
        async def f(gate, meet=0):
            print("began", gate)
            open(gate + ".began", "w").close()
            while not os.path.exists(gate):
                await asyncio.sleep(0.01)
            print("ended", gate)
            return os.path.basename(gate)
        """,
    "threads": """
        import os, time
        def f(gate, meet=0):
            print("began", gate)
            open(gate + ".began", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.01)
            print("ended", gate)
            return os.path.basename(gate)
        """,
}
both = pytest.mark.parametrize("kind", list(BODIES))


def start(broker: Broker, kind: str, **options: object) -> Worker:
    return broker.start_worker(define(BODIES[kind]), max_inputs=3, **options)


def begin(broker: Broker, worker: Worker, gate: Path) -> LeaseId:
    """Lease one input that waits for `gate`, and wait until it runs."""
    lease = worker.lease([(str(gate),)], call=f"fc-{gate.name}")
    began = Path(f"{gate}.began")
    wait_until(lambda: broker.pump(0.01) or began.exists(), 20, "the input runs")
    wait_until(began.exists, 20, "the input runs")
    return lease


def ended(broker: Broker, lease: LeaseId) -> messages.InputEnded:
    found = broker.wait(messages.InputEnded, lambda m: m.lease == lease)
    return found.message  # type: ignore[no-any-return]


def cancel(worker: Worker, lease: LeaseId) -> None:
    worker.tell_host(messages.Interrupt(worker.id, lease, 0))


def text_of(broker: Broker, call: str) -> str:
    return b"".join(
        each.frames[0]
        for each in broker.received
        if isinstance(each.message, messages.Output) and each.message.call == call
    ).decode()


@both
def test_inputs_run_side_by_side_and_end_in_any_order(
    broker: Broker, kind: str, tmp_path: Path
) -> None:
    worker = start(broker, kind)
    gates = [tmp_path / name for name in "abc"]
    leases = [begin(broker, worker, gate) for gate in gates]
    for gate, lease in reversed(list(zip(gates, leases, strict=True))):
        gate.touch()
        assert broker.outcomes(lease, 1) == {0: gate.name}
    for gate in gates:
        assert text_of(broker, f"fc-{gate.name}") == f"began {gate}\nended {gate}\n"


@both
def test_output_comes_before_the_outcome_of_its_input(
    broker: Broker, kind: str, tmp_path: Path
) -> None:
    worker = start(broker, kind)
    for name in "abcdefgh":
        (tmp_path / name).touch()
    leases = {
        name: worker.lease([(str(tmp_path / name),)], call=f"fc-{name}") for name in "abcdefgh"
    }
    for lease in leases.values():
        broker.outcomes(lease, 1)
    for name, lease in leases.items():
        order = [
            type(each.message).__name__
            for each in broker.received
            if getattr(each.message, "call", "") == f"fc-{name}"
            or getattr(each.message, "lease", 0) == lease
        ]
        assert order[-1] == "Done"
        assert "Output" in order


def test_a_cancelled_coroutine_sees_it_and_its_neighbour_goes_on(
    broker: Broker, tmp_path: Path
) -> None:
    worker = start(broker, "async")
    one = begin(broker, worker, tmp_path / "one")
    other = begin(broker, worker, tmp_path / "other")
    cancel(worker, one)
    answer = ended(broker, one)
    assert (answer.outcome, answer.lingers) == (Outcome.CANCELLED, False)
    (tmp_path / "other").touch()
    assert broker.outcomes(other, 1) == {0: "other"}


def test_a_cancelled_thread_is_answered_at_once_and_left_when_it_ends(
    broker: Broker, tmp_path: Path
) -> None:
    worker = start(broker, "threads")
    one = begin(broker, worker, tmp_path / "one")
    other = begin(broker, worker, tmp_path / "other")
    cancel(worker, one)
    answer = ended(broker, one)
    assert (answer.outcome, answer.lingers) == (Outcome.CANCELLED, True)
    (tmp_path / "one").touch()
    broker.wait(messages.InputLeft, lambda m: m.lease == one)
    (tmp_path / "other").touch()
    assert broker.outcomes(other, 1) == {0: "other"}
    assert len(broker.outcomes_so_far(one)) == 1


def test_a_coroutine_that_does_not_heed_is_answered_after_a_while(
    broker: Broker, tmp_path: Path
) -> None:
    worker = broker.start_worker(
        define("""
        import asyncio, os
        async def f(gate):
            open(gate + ".began", "w").close()
            while not os.path.exists(gate):
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
            return "late"
        """),
        max_inputs=2,
    )
    lease = begin(broker, worker, tmp_path / "gate")
    cancel(worker, lease)
    answer = ended(broker, lease)
    assert (answer.outcome, answer.lingers) == (Outcome.CANCELLED, True)
    (tmp_path / "gate").touch()
    broker.wait(messages.InputLeft, lambda m: m.lease == lease)


@both
def test_each_input_has_its_own_time(broker: Broker, kind: str, tmp_path: Path) -> None:
    worker = start(broker, kind, timeout_seconds=0.5)
    late = begin(broker, worker, tmp_path / "late")
    assert ended(broker, late).outcome is Outcome.TIMED_OUT
    (tmp_path / "quick").touch()
    quick = worker.lease([(str(tmp_path / "quick"),)])
    assert broker.outcomes(quick, 1) == {0: "quick"}


@both
def test_a_death_names_all_that_ran(broker: Broker, kind: str, tmp_path: Path) -> None:
    worker = start(broker, kind)
    leases = {begin(broker, worker, tmp_path / name) for name in "abc"}
    os.kill(worker.pid, signal.SIGKILL)
    gone = worker.exited()
    assert {gone.lease, *gone.started} == leases
    assert gone.position == 0


def test_what_the_loop_has_not_begun_is_given_back(broker: Broker, tmp_path: Path) -> None:
    worker = broker.start_worker(
        define("""
        import os, time
        async def f(gate):
            open(gate + ".began", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.01)  # the loop runs nothing else meanwhile
            return 1
        """),
        max_inputs=3,
    )
    blocking = begin(broker, worker, tmp_path / "gate")
    waiting = worker.lease([("/",)])
    worker.tell_host(messages.TakeBack(worker.id, blocking))
    worker.tell_host(messages.TakeBack(worker.id, waiting))
    given = broker.wait(messages.Returned, lambda m: m.lease == waiting).message
    assert (given.start, given.stop) == (0, 1)
    kept = broker.wait(messages.Returned, lambda m: m.lease == blocking).message
    assert kept.start == kept.stop
    (tmp_path / "gate").touch()
    assert broker.outcomes(blocking, 1) == {0: 1}
    assert broker.outcomes_so_far(waiting) == {}


def test_what_is_cancelled_before_the_loop_begins_it_never_runs(
    broker: Broker, tmp_path: Path
) -> None:
    worker = broker.start_worker(
        define("""
        import os, time
        async def f(gate):
            open(gate + ".began", "w").close()
            while not os.path.exists(gate):
                time.sleep(0.01)
            return 1
        """),
        max_inputs=3,
    )
    blocking = begin(broker, worker, tmp_path / "gate")
    waiting = worker.lease([(str(tmp_path / "never"),)])
    cancel(worker, waiting)
    assert ended(broker, waiting).lingers is False
    (tmp_path / "gate").touch()
    assert broker.outcomes(blocking, 1) == {0: 1}
    (tmp_path / "never").touch()
    assert worker.call(str(tmp_path / "gate")) == 1
    assert not (tmp_path / "never.began").exists()


@both
def test_what_was_asked_about_a_lease_before_it_came_holds(
    broker: Broker, kind: str, tmp_path: Path
) -> None:
    worker = start(broker, kind)
    (tmp_path / "gate").touch()
    first = worker.call(str(tmp_path / "gate"))
    assert first == "gate"
    ahead = LeaseId(10_000_001)
    worker.tell_host(messages.TakeBack(worker.id, ahead))
    worker.tell_host(messages.Interrupt(worker.id, LeaseId(ahead + 1), 0))
    # It serves these in order: what answers the third has seen the first two.
    probe = begin(broker, worker, tmp_path / "probe")
    worker.tell_host(messages.TakeBack(worker.id, probe))
    broker.wait(messages.Returned, lambda m: m.lease == probe)
    for lease in (ahead, LeaseId(ahead + 1)):
        worker.lease([(str(tmp_path / "gate"),)], number=lease)
    assert broker.wait(messages.Returned, lambda m: m.lease == ahead).message.stop == 1
    assert ended(broker, LeaseId(ahead + 1)).outcome is Outcome.CANCELLED
    (tmp_path / "probe").touch()
    assert broker.outcomes(probe, 1) == {0: "probe"}


@both
def test_errors_end_their_input_alone(broker: Broker, kind: str) -> None:
    prefix = "async " if kind == "async" else ""
    worker = broker.start_worker(
        define(f"""
        import threading
        {prefix}def f(x):
            if x == 1:
                raise SystemExit(3)
            if x == 2:
                return threading.Lock()
            if x == 3:
                raise ValueError(x)
            return x
        """),
        max_inputs=5,
    )
    leases = [worker.lease([(x,)], call=f"fc-{x}") for x in range(5)]
    found = [broker.outcomes(lease, 1)[0] for lease in leases]
    assert [type(each).__name__ for each in found] == [
        "int", "SystemExit", "SerializationError", "ValueError", "int",
    ]  # fmt: skip


@both
def test_a_fork_of_an_input_says_nothing(broker: Broker, kind: str) -> None:
    prefix = "async " if kind == "async" else ""
    worker = broker.start_worker(
        define(f"""
        import os
        {prefix}def f(x):
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if x:
                raise ValueError
            return 7
        """),
        max_inputs=2,
    )
    assert worker.call(0) == 0
    assert worker.call(1) == 1


@both
def test_much_output_of_many_inputs_arrives_whole(broker: Broker, kind: str) -> None:
    prefix = "async " if kind == "async" else ""
    worker = broker.start_worker(
        define(f"""
        {prefix}def f(x):
            for _ in range(2000):
                print(x, "." * 100)
        """),
        max_inputs=4,
    )
    leases = [worker.lease([(x,)], call=f"fc-{x}") for x in range(4)]
    for lease in leases:
        broker.outcomes(lease, 1)
    for x in range(4):
        assert text_of(broker, str(CallId(f"fc-{x}"))) == f"{x} {'.' * 100}\n" * 2000


def test_a_loop_that_user_code_stops_goes_on(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import asyncio
        async def f(x):
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            return x
        """),
        max_inputs=2,
    )
    assert [worker.call(x) for x in range(3)] == [0, 1, 2]


def test_threads_are_used_again(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import threading
        def f(x):
            return threading.get_ident()
        """),
        max_inputs=2,
    )
    # One may still be on its way back when the next input comes.
    assert len({worker.call(x) for x in range(30)}) <= 3
