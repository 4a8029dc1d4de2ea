"""Leases are run: every input is answered once, whatever it does."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from kernel_worker.errors import DeserializationError, SerializationError
from kernel_worker.model import CallContext, CallId, Digest, LeaseId, Outcome, Resources
from kernel_worker.wire import failures, messages, payload, sealing
from kernel_worker.wire.frames import FORM_ARGS, FORM_CALL, Frame
from notebook_ext.capture import Capturer
from tests.waiting import wait_until
from tests.worker.harness import Broker, Received, Worker, define

SQUARE = """
def f(x):
    return x * x
"""


def test_plain_values_come_back_in_one_message_where_they_are_quick(broker: Broker) -> None:
    worker = broker.start_worker(define(SQUARE))
    lease = worker.lease([(i,) for i in range(1000)])
    assert broker.outcomes(lease, 1000) == {i: i * i for i in range(1000)}
    done = [r for r in broker.received if isinstance(r.message, messages.Done)]
    assert len(done) <= 20
    assert sum(r.message.elapsed_seconds for r in done) > 0


def test_sealed_inputs_are_opened_and_others_are_refused_where_they_are_due(
    broker: Broker,
) -> None:
    secret, call = os.urandom(32), CallId("fc-s1")
    key, place = sealing.Key(secret), sealing.inputs_of(call)
    (broker.directory / "payload.key").write_text(secret.hex())
    file = broker.directory / "connection.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"payload_key": str(broker.directory / "payload.key")}))
    worker = broker.start_worker(define(SQUARE))

    def answer(kind: type[Any], number: int, frames: Sequence[Frame]) -> Received:
        lease = messages.Lease(LeaseId(number), call, 6, 7, 1, 5, snapshot=worker.captured.snapshot)
        broker.send(worker.id, lease, *frames)
        return broker.wait(kind, lambda m: m.lease == LeaseId(number))

    digest = worker.captured.snapshot
    snapshot = key.seal(worker.captured.objects[digest], sealing.object_named(digest))
    broker.send(worker.id, messages.StoreObject(digest), snapshot)
    batch = payload.encode_batch([(2,), (3,)], FORM_ARGS)
    sealed = key.seal_batch(batch, place, 5)
    done = answer(messages.Done, 9001, sealed)
    assert payload.loads(key.open_batch(done.frames, sealing.values_of(call), 6)) == 9
    for number, frames, why in (
        (9002, batch, "in clear, and should be sealed"),
        (9003, [sealed[0], bytes(sealed[1])[::-1]], "changed on their way"),
        (9004, key.seal_batch(batch, place, 6), "changed on their way"),
        (9005, sealing.Key(bytes(32)).seal_batch(batch, place, 5), "changed on their way"),
    ):
        ended = answer(messages.InputEnded, number, frames)
        raised = key.open(ended.frames[0], sealing.exception_of(call, 6))
        error = failures.rebuild(raised)
        assert isinstance(error, DeserializationError)
        assert f"the arguments of fc-s1 cannot be opened: {why}" in str(error)


def test_a_part_of_a_whole_batch(broker: Broker) -> None:
    worker = broker.start_worker(define(SQUARE))
    lease = worker.lease([(i,) for i in range(10)], start=4, stop=7)
    assert broker.outcomes(lease, 3) == {4: 16, 5: 25, 6: 36}


def test_keywords_and_shared_arguments_are_unpickled_anew_for_each_input(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f(x, *, seen, scale=1):
            seen.append(x)
            return len(seen) * scale
        """)
    )
    items = [((i,), {"scale": 10}) for i in range(5)]
    lease = worker.lease(items, FORM_CALL, shared=pickle.dumps({"seen": [0]}))
    assert set(broker.outcomes(lease, 5).values()) == {20}


def test_no_input_sees_anothers_change(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f(config):
            config["count"] += 1
            return config["count"]
        """)
    )
    config = {"count": 0}
    lease = worker.lease([(config,)] * 100)
    assert set(broker.outcomes(lease, 100).values()) == {1}


def test_a_result_is_pickled_when_it_is_returned(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f(x, seen=[]):
            seen.append(x)
            return seen
        """)
    )
    lease = worker.lease([(i,) for i in range(3)])
    assert broker.outcomes(lease, 3) == {0: [0], 1: [0, 1], 2: [0, 1, 2]}


def test_failures_are_answered_one_by_one_between_the_values(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f(x):
            if x % 3 == 1:
                raise ValueError(x)
            return x
        """)
    )
    outcomes = broker.outcomes(worker.lease([(i,) for i in range(9)]), 9)
    failed = {k: v.args for k, v in outcomes.items() if isinstance(v, ValueError)}
    assert failed == {1: (1,), 4: (4,), 7: (7,)}
    assert {k for k, v in outcomes.items() if k == v} == {0, 2, 3, 5, 6, 8}


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_the_worker_survives_what_ends_an_interpreter(broker: Broker, raised: str) -> None:
    worker = broker.start_worker(
        define(f"""
        def f(x):
            if x:
                raise {raised}
            return "alive"
        """)
    )
    outcomes = broker.outcomes(worker.lease([(1,), (0,)]), 2)
    assert type(outcomes[0]).__name__ == raised.partition("(")[0]
    assert outcomes[1] == "alive"


def test_a_bad_argument_fails_its_own_input_alone(broker: Broker) -> None:
    source = """
    class Bad:
        def __reduce__(self):
            return (int, ("not a number",))
    """
    worker = broker.start_worker(define("def f(x):\n    return 1\n"))
    outcomes = broker.outcomes(worker.lease([([],), (define(source, "Bad")(),), ([],)]), 3)
    assert isinstance(outcomes[1], DeserializationError)
    assert (outcomes[0], outcomes[2]) == (1, 1)


def test_a_result_that_cannot_be_pickled_names_the_path(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import threading
        def f(x):
            return {"lock": threading.Lock()} if x else 0
        """)
    )
    outcomes = broker.outcomes(worker.lease([(0,), (1,), (0,)]), 3)
    assert isinstance(outcomes[1], SerializationError)
    assert "lock" in str(outcomes[1])
    assert (outcomes[0], outcomes[2]) == (0, 0)


def test_async_functions_share_one_loop(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import asyncio
        loops = []
        async def f(x):
            await asyncio.sleep(0)
            if x == 2:
                raise LookupError(x)
            loops.append(asyncio.get_running_loop())
            return len({id(loop) for loop in loops})
        """)
    )
    outcomes = broker.outcomes(worker.lease([(i,) for i in range(4)]), 4)
    assert (outcomes[0], outcomes[1], outcomes[3]) == (1, 1, 1)
    assert isinstance(outcomes[2], LookupError)


def test_asyncio_run_works_in_a_sync_function(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import asyncio
        def f(x):
            async def inner():
                await asyncio.sleep(0)
                return x
            return asyncio.run(inner())
        """)
    )
    assert worker.call(5) == 5


def test_a_builtin_is_a_function_too(broker: Broker) -> None:
    assert broker.start_worker(abs).call(-3) == 3


def test_what_lies_finished_is_sent_while_a_long_input_runs(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(x):
            while x == 5:
                time.sleep(0.01)
            return x
        """)
    )
    lease = worker.lease([(i,) for i in range(6)])
    assert set(broker.outcomes(lease, 5)) == {0, 1, 2, 3, 4}


def test_values_that_are_not_plain_are_sent_while_a_long_input_runs(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(x):
            while x == 5:
                time.sleep(0.01)
            return [x] if x % 2 else x
        """)
    )
    lease = worker.lease([(i,) for i in range(6)])
    assert broker.outcomes(lease, 5) == {0: 0, 1: [1], 2: 2, 3: [3], 4: 4}


def test_a_new_snapshot_is_bound_and_what_the_worker_set_survives(broker: Broker) -> None:
    f = define("""
    threshold = 1
    model = None
    def f():
        global model
        if model is None:
            model = "loaded"
            return "loads", threshold
        return model, threshold
    """)
    capturer = Capturer(f)
    captured = capturer.read()
    worker = broker.start_worker(captured)
    assert worker.call() == ("loads", 1)
    f.__globals__["threshold"] = 2
    worker.captured = capturer.read()
    assert worker.captured.code == captured.code
    assert worker.call() == ("loaded", 2)


def test_directory_and_variables_are_those_of_the_call(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os
        def f():
            return os.getcwd(), os.environ.get("NBX_ONE"), os.environ.get("HOME")
        """)
    )
    home = worker.call()[2]
    first = CallContext("/tmp", (("NBX_ONE", "1"), ("HOME", None)))
    assert broker.outcomes(worker.lease([()], context=first), 1)[0] == ("/tmp", "1", None)
    second = CallContext("/usr")
    assert broker.outcomes(worker.lease([()], context=second), 1)[0] == ("/usr", None, home)


def test_each_of_many_quick_inputs_is_named_where_somebody_asks(broker: Broker) -> None:
    """They look at the clock every so often, and say which of them runs only then."""
    worker = broker.start_worker(
        define("""
        import asyncio, time
        import kernel_worker.context as context
        async def named():
            return context.running_input().index
        def f(x):
            if x % 50 == 49:
                print("input", x)
            if x == 120:
                time.sleep(0.05)  # after quick ones
            return asyncio.run(named()) if x == 70 else context.running_here().index
        """)
    )
    lease = worker.lease([(i,) for i in range(200)])
    assert broker.outcomes(lease, 200) == {i: i for i in range(200)}
    said = [each for each in broker.received if isinstance(each.message, messages.Output)]
    assert [(each.message.index, each.frames[0]) for each in said] == [
        (x, f"input {x}\n".encode()) for x in (49, 99, 149, 199)
    ]


def test_the_running_input_is_known_to_user_code_and_its_tasks(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import kernel_worker.context as context
        def f(x):
            running = context.running_here()
            identity = context.worker_identity
            return [running.call, running.index, running.attempt, running.worker,
                    identity.objects[running.table], identity.connection_file]
        """)
    )
    lease = worker.lease([(1,), (2,)], table=b"the table")
    found = broker.outcomes(lease, 2)
    path = str(broker.directory / "connection.json")
    assert found[1] == ["fc-1", 1, 1, worker.id, b"the table", path]


def test_what_was_not_started_is_given_back_at_once(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(x):
            if x == 2:
                time.sleep(0.5)
            return x
        """)
    )
    lease = worker.lease([(i,) for i in range(100)])
    broker.wait(messages.Done)
    worker.tell_host(messages.TakeBack(worker.id, lease))
    returned = broker.wait(messages.Returned).message
    assert returned == messages.Returned(lease, 3, 100)
    assert set(broker.outcomes(lease, 3)) == {0, 1, 2}
    assert worker.call(7) == 7


def test_a_lease_that_waits_is_given_back_as_a_whole(broker: Broker, tmp_path: Path) -> None:
    worker = broker.start_worker(
        define("""
        import os, time
        def f(x):
            while isinstance(x, str) and not os.path.exists(x):
                time.sleep(0.01)
            return x
        """)
    )
    door = tmp_path / "door"
    first = worker.lease([(str(door),)])
    second = worker.lease([(0,)] * 10)
    worker.tell_host(messages.TakeBack(worker.id, second))
    returned = broker.wait(messages.Returned).message
    assert returned == messages.Returned(second, 0, 10)
    door.touch()
    assert broker.outcomes(first, 1) == {0: str(door)}
    worker.tell_host(messages.TakeBack(worker.id, second))
    again = broker.wait(messages.Returned, lambda m: m.start == m.stop).message
    assert again.lease == second
    assert worker.call(0) == 0
    assert broker.outcomes_so_far(second) == {}


def test_quick_leases_that_are_taken_back_are_answered_once(broker: Broker) -> None:
    worker = broker.start_worker(define(SQUARE))
    for _ in range(30):
        lease = worker.lease([(i,) for i in range(3000)])
        worker.tell_host(messages.TakeBack(worker.id, lease))
        returned = broker.wait(messages.Returned, partial(is_of, lease)).message
        count = 3000 - (returned.stop - returned.start)
        outcomes = broker.outcomes(lease, count)
        assert set(outcomes) == set(range(3000)) - set(range(returned.start, returned.stop))


def test_no_ops_cost_microseconds(broker: Broker) -> None:
    worker = broker.start_worker(define("def f(x):\n    return x\n"))
    worker.call(1)
    best = min(_seconds_per_input(broker, worker) for _ in range(3))
    assert best < 10e-6, best


def is_of(lease: LeaseId, message: messages.Returned) -> bool:
    return message.lease == lease


def _seconds_per_input(broker: Broker, worker: Worker) -> float:
    lease = worker.lease([(i,) for i in range(100_000)])
    assert len(broker.outcomes(lease, 100_000)) == 100_000
    spent = [
        r.message.elapsed_seconds
        for r in broker.received
        if isinstance(r.message, messages.Done) and r.message.lease == lease
    ]
    return sum(spent) / 100_000


def test_a_lease_without_its_objects_fails_its_inputs_and_nothing_else(broker: Broker) -> None:
    worker = broker.start_worker(define(SQUARE))
    worker.sent["shared"] = Digest("no such object")
    lease = worker.lease([(1,)], shared=b"")
    assert broker.outcomes(lease, 1) == {0: 1}
    message = messages.Lease(
        lease=LeaseId(9999),
        call=CallId("fc-1"),
        start=0,
        stop=1,
        attempt=1,
        first=0,
        snapshot=Digest("absent"),
    )
    broker.send(worker.id, message, b"not", b"frames")
    ended = broker.wait(messages.InputEnded).message
    assert ended.outcome is Outcome.FAILED
    assert worker.call(3) == 9


def test_workers_of_one_template_draw_different_numbers(broker: Broker) -> None:
    f = define("""
    import random
    import numpy
    numpy.random.seed(1)
    random.seed(1)
    def f():
        return random.random(), float(numpy.random.rand())
    """)
    first, second = broker.start_worker(f), broker.start_worker(f)
    values = {*first.call(), *second.call()}
    assert len(values) == 4


def test_threads_of_numeric_libraries_are_raised_to_the_workers_share(broker: Broker) -> None:
    f = define("""
    import numpy
    from threadpoolctl import threadpool_info
    def f():
        assert numpy.pi
        return [each["num_threads"] for each in threadpool_info()]
    """)
    assert set(broker.start_worker(f).call()) == {1}
    many = broker.start_worker(f, resources=Resources(cpu=2.0))
    assert set(many.call()) == {2}


@pytest.mark.clock
def test_time_of_a_warm_call(broker: Broker) -> None:
    worker = broker.start_worker(define(SQUARE))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        worker.call(3)
        times.append(time.perf_counter() - start)
    assert sorted(times)[100] < 0.02


@pytest.mark.parametrize("ending", ["return 1", "raise ValueError('in the child')"])
def test_a_child_that_a_function_forks_ends_where_the_function_does(
    broker: Broker, ending: str
) -> None:
    worker = broker.start_worker(
        define(f"""
        import os, time
        def f(file):
            child = os.fork()
            if not child:
                os.write(file, b"x")
                {ending}
            time.sleep(0.2)
            return os.waitpid(child, os.WNOHANG)[0] == child
        """)
    )
    found = broker.outcomes(worker.lease([(1,), (1,), (1,)]), 3)
    assert found == {0: True, 1: True, 2: True}
    assert worker.call(1) is True
    assert worker.output().count("x") == 4
    assert ("ValueError: in the child" in worker.output()) == ("raise" in ending)


def test_a_child_that_is_forked_among_quick_inputs_runs_no_other(
    broker: Broker, tmp_path: Path
) -> None:
    """The page is the parent's, which has gone on."""
    worker = broker.start_worker(
        define(f"""
        import os, time
        home = 0
        def f(x):
            global home
            home = home or os.getpid()
            if x == 50 and not os.fork():
                while os.path.exists({str(tmp_path / "gate")!r}):
                    time.sleep(0.005)
            if os.getpid() != home and x != 50:
                os.mknod({str(tmp_path)!r} + f"/{{x}}")
            return x
        """)
    )
    (tmp_path / "gate").touch()
    lease = worker.lease([(x,) for x in range(500)])
    assert broker.outcomes(lease, 500) == {x: x for x in range(500)}
    (child,) = psutil.Process(worker.pid).children()
    (tmp_path / "gate").unlink()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert list(tmp_path.iterdir()) == []
    assert worker.call(7) == 7


def test_a_forked_child_that_exits_has_its_exit_code(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os, sys
        def f(code):
            child = os.fork()
            if not child:
                sys.exit(code)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        """)
    )
    codes = [(0,), (None,), (4,), (-1,), ("why not",)]
    found = broker.outcomes(worker.lease(codes), len(codes))
    assert list(found.values()) == [0, 0, 4, 255, 1]
    assert "why not" in worker.output()


def test_a_failure_says_whether_it_is_the_cancellation_of_a_call_of_its_own(
    broker: Broker,
) -> None:
    source = """
    def f(below):
        from kernel_worker.errors import CallCancelledError
        raise CallCancelledError("child") if below else ValueError("other")
    """
    worker = broker.start_worker(define(source))
    broker.outcomes(worker.lease([(True,), (False,)]), 2)
    heard = [one.message for one in broker.received]
    ended = [one for one in heard if isinstance(one, messages.InputEnded)]
    assert [(one.outcome, one.cancelled_below) for one in ended] == [
        (Outcome.FAILED, True),
        (Outcome.FAILED, False),
    ]
