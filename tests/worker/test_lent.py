"""A worker that is lent: what comes by its line is run once, answered there or by the broker."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from kernel_worker.model import CallContext, LeaseId, Outcome
from kernel_worker.wire import line, messages, payload
from kernel_worker.wire.frames import FORM_ARGS
from tests.waiting import PATIENCE
from tests.worker.harness import Broker, Worker, define

DOES = """
import os, time

def f(what, *more):
    if what == "print":
        print("said", *more)
    if what == "raise":
        raise KeyError("mine")
    if what == "large":
        return bytes(100_000)
    if what == "sleep":
        time.sleep(*more)
    if what == "move":
        os.chdir("/")
    if what == "where":
        return os.getcwd()
    if what == "fork":
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        return child
    if what == "look":
        breakpoint()
    return what
"""
_numbers = itertools.count(1)


class Client:
    """The client's end of lines, and what the worker tells the broker meanwhile."""

    def __init__(self, broker: Broker, worker: Worker) -> None:
        self.broker = broker
        self.worker = worker
        self.name = f"test-{os.urandom(8).hex()}"
        self.listener = line.listen(self.name)
        self.listener.setblocking(True)
        self.listener.settimeout(20 * PATIENCE)
        self.lease = LeaseId(0)
        self.end: socket.socket | None = None
        self.next = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.end is not None:
            self.end.close()
        self.listener.close()

    def borrow(self, *first: Any, context: CallContext | None = None) -> None:
        """Have the worker lent, with a first input."""
        if self.end is not None:
            self.end.close()
        call = f"fc-lined-{next(_numbers)}"
        self.lease = self.worker.lease([first], call=call, line=self.name, context=context)
        self.end, _ = self.listener.accept()
        assert line.caller_of(self.end) == call
        self.end.settimeout(20 * PATIENCE)
        self.broker.outcomes(self.lease, 1)
        self.next = 1

    def ask(self, *args: Any) -> int:
        index, self.next = self.next, self.next + 1
        assert self.end is not None
        self.end.send(line.encode((index, payload.encode_batch([args], FORM_ARGS))))
        return index

    def answer(self) -> line.Turn | None:
        """Return the next answer; None where the worker has hung up."""
        assert self.end is not None
        data = self.end.recv(line.MAX_BYTES)
        return line.decode(data) if data else None

    def call(self, *args: Any) -> Any:
        """Return what comes by the line, or by the broker where the line says so."""
        index, answer = self.ask(*args), self.answer()
        assert answer is not None
        assert answer.index == index
        if answer.frames:
            return payload.BatchReader(answer.frames)[0]
        return self.outcome(index)

    def outcome(self, index: int) -> Any:
        while index not in (found := self.broker.outcomes_so_far(self.lease)):
            assert self.broker.pump(20 * PATIENCE)
        return found[index]

    def told(self) -> list[tuple[int, bool]]:
        """Return how far the worker has said that it has come."""
        said = [each.message for each in self.broker.received]
        reached = [one for one in said if isinstance(one, messages.LineReached)]
        return [(one.index, one.runs) for one in reached if one.lease == self.lease]

    def given_back(self) -> int:
        """Wait for the end of the loan; return the first input that did not run."""
        returned = self.broker.wait(messages.Returned, lambda m: m.lease == self.lease).message
        assert returned.start == returned.stop
        assert self.told()[-1] == (returned.start, False)
        return int(returned.start)

    def hang_up(self) -> None:
        assert self.end is not None
        self.end.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    directory = tempfile.TemporaryDirectory(prefix="nbx-b-", dir="/tmp")
    with directory as path, Broker(Path(path)) as broker:
        yield broker


@pytest.fixture(scope="module")
def worker(broker: Broker) -> Worker:
    return broker.start_worker(define(DOES))


@pytest.fixture
def client(broker: Broker, worker: Worker) -> Iterator[Client]:
    with Client(broker, worker) as client:
        yield client


def test_small_values_are_answered_on_the_line_and_told_of_at_its_end(client: Client) -> None:
    client.borrow("first")
    assert [client.call(number) for number in range(20)] == list(range(20))
    client.hang_up()
    assert client.given_back() == 21
    assert client.broker.outcomes_so_far(client.lease) == {0: "first"}
    assert client.worker.call("later") == "later"


def test_a_line_that_nobody_uses_is_given_back(client: Client) -> None:
    client.borrow("first")
    assert client.call(1) == 1
    assert client.answer() is None
    assert client.given_back() == 2


def test_failures_and_large_values_come_by_the_broker_and_the_line_goes_on(client: Client) -> None:
    client.borrow("first")
    assert client.call(1) == 1
    assert repr(client.call("raise")) == "KeyError('mine')"
    assert client.call("large") == bytes(100_000)
    assert client.call(4) == 4
    client.hang_up()
    assert client.given_back() == 5


@pytest.mark.clock
def test_what_takes_long_is_handed_over_while_it_runs(client: Client) -> None:
    client.borrow("first")
    client.call(1)
    index = client.ask("sleep", 0.5)
    asked = time.monotonic()
    answer = client.answer()
    assert time.monotonic() - asked < 0.4 * PATIENCE
    assert answer == line.Turn(index, ())
    assert client.outcome(index) == "sleep"
    assert client.told()[0] == (index, True)
    assert client.call(3) == 3


def test_output_comes_before_the_outcome_and_ends_the_loan(client: Client) -> None:
    client.borrow("first")
    assert client.call("print", 1) == "print"
    said = [type(each.message) for each in client.broker.received]
    of_both = [one for one in said if one in {messages.Output, messages.Done}]
    assert of_both[-2:] == [messages.Output, messages.Done]
    assert client.answer() is None
    assert client.given_back() == 2


def test_a_first_input_that_writes_or_cannot_be_prepared_has_no_line(client: Client) -> None:
    client.borrow("print", 0)
    assert client.answer() is None
    assert client.given_back() == 1


def test_a_worker_that_is_asked_back_ends_what_runs_and_reads_no_more(client: Client) -> None:
    client.borrow("first")
    index = client.ask("sleep", 0.3)
    assert client.answer() == line.Turn(index, ())
    client.worker.tell_host(messages.TakeBack(client.worker.id, client.lease))
    assert client.outcome(index) == "sleep"
    assert client.answer() is None
    assert client.given_back() == index + 1
    client.borrow("first")  # nothing runs when it is asked back
    client.worker.tell_host(messages.TakeBack(client.worker.id, client.lease))
    assert client.given_back() == 1


def test_a_cancellation_hits_what_runs_however_far_the_broker_knows(client: Client) -> None:
    client.borrow("first")
    for number in range(5):
        client.call(number)
    index = client.ask("sleep", 60)
    assert client.answer() == line.Turn(index, ())
    client.worker.tell_host(messages.Interrupt(client.worker.id, client.lease, 2))
    assert client.outcome(index) is Outcome.CANCELLED
    assert client.given_back() == index + 1
    assert client.worker.call("later") == "later"


def test_a_time_limit_holds_for_each_input(broker: Broker) -> None:
    limited = broker.start_worker(define(DOES), timeout_seconds=0.5)
    with Client(broker, limited) as client:
        client.borrow("first")
        assert client.call("sleep", 60) is Outcome.TIMED_OUT
        assert client.call(1) == 1


def test_each_input_begins_where_its_call_was_made(client: Client) -> None:
    here = os.path.realpath(client.broker.directory)
    client.borrow("first", context=CallContext(here))
    assert client.call("move") == "move"
    assert client.call("where") == here


def test_a_child_that_was_forked_does_not_keep_the_line_open(client: Client) -> None:
    client.borrow("first")
    child = client.call("fork")
    client.worker.tell_host(messages.TakeBack(client.worker.id, client.lease))
    assert client.answer() is None
    os.kill(child, 9)


def test_who_stands_at_a_breakpoint_is_handed_over_first(client: Client) -> None:
    client.borrow("first")
    index = client.ask("look")
    assert client.answer() == line.Turn(index, ())
    offer = client.broker.wait(messages.ConsoleOffered).message
    assert offer.index == index
    assert (index, True) in client.told()
    client.worker.tell_host(messages.ConsoleInput(client.worker.id, "refused"))
    assert client.outcome(index) == "look"


@pytest.mark.parametrize("data", [b"\xc1", line.encode((7, ()))], ids=["junk", "another index"])
def test_what_is_no_request_ends_the_loan_and_nothing_else(client: Client, data: bytes) -> None:
    client.borrow("first")
    assert client.end is not None
    client.end.send(data)
    assert client.answer() is None
    assert client.given_back() == 1
    assert client.worker.call("later") == "later"
    assert "the line of fc-lined-" in client.worker.output()


def test_who_hangs_up_before_the_answer_is_read_ends_the_loan_in_silence(broker: Broker) -> None:
    with Client(broker, broker.start_worker(define(DOES))) as client:
        client.borrow("first")
        client.ask("unread")
        assert client.end is not None
        assert client.end.recv(line.MAX_BYTES, socket.MSG_PEEK)  # an interrupt has come
        client.hang_up()
        assert client.given_back() == 2
        assert client.worker.call("later") == "later"
        assert client.worker.output() == ""


def test_frames_that_are_no_batch_fail_the_input(client: Client) -> None:
    client.borrow("first")
    assert client.end is not None
    client.end.send(line.encode((1, (b"junk",))))
    assert client.answer() == line.Turn(1, ())
    assert isinstance(client.outcome(1), Exception)


def test_where_nobody_listens_the_loan_is_over_at_once(client: Client) -> None:
    lease = client.worker.lease([("first",)], line="test-nobody")
    returned = client.broker.wait(messages.Returned, lambda m: m.lease == lease).message
    assert (returned.start, returned.stop) == (1, 1)


def test_a_lent_worker_that_is_to_end_does(broker: Broker) -> None:
    with Client(broker, broker.start_worker(define(DOES))) as client:
        client.borrow("first")
        client.worker.tell_host(messages.StopWorker(client.worker.id))
        assert client.worker.exited().position == -1
        assert client.given_back() == 1
