"""Direct lines as the client sees them: asked for, used by one thread, given up when unsure."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.errors import ProtocolError
from kernel_worker.model import CallContext, CallId, Outcome
from kernel_worker.wire import line as wire_line
from kernel_worker.wire import messages, payload
from kernel_worker.wire.frames import FORM_VALUE
from notebook_ext import exception, process
from notebook_ext.lines import NO_LINE, Line, Lines, Refusal
from notebook_ext.output import CallOutput, Printer
from notebook_ext.submission import Ended, Submission
from notebook_ext.twin import Ready, Waiting
from tests.notebook_ext.talk import Heard, inputs, package, submission
from tests.waiting import PATIENCE, wait_until

PACKAGE = package()
HERE = CallContext("/here")


class Session:
    """What lines need of a session, which writes down what it is told."""

    is_far = False

    def __init__(self) -> None:
        self.printer = Printer()
        self.shown: list[tuple[Any, ...]] = []
        self.told: list[tuple[Any, ...]] = []

    def output_in(self, context: Context, name: str) -> CallOutput:
        output = CallOutput(self.printer, context, name)
        output.write = lambda *said: self.shown.append(said)  # type: ignore[method-assign]
        return output

    def forget_line(self, call: CallId) -> None:
        self.told.append(("forget", call))

    def cancel_line(self, call: CallId, reached: int) -> None:
        self.told.append(("cancel", call, reached))


class Talk:
    """Lines, and the worker's end of the one that is open."""

    def __init__(self) -> None:
        self.session = Session()
        self.lines = Lines(self.session)  # type: ignore[arg-type]
        self.worker: socket.socket | None = None
        self.said: Submission | None = None

    @property
    def line(self) -> Line:
        assert self.said is not None
        line = self.said.line_receiver
        assert isinstance(line, Line)
        return line

    def call(self, value: int = 0, context: CallContext = HERE, of: Any = PACKAGE) -> Any:
        found = self.lines.call(of, context, inputs(value))
        if isinstance(found, Ready):
            return found.value
        return found.result() if isinstance(found, Waiting) else found

    def ask(self, call: str = "fc-1", *, dials: bool = True) -> None:
        """Make a call that asks for a line, which a worker gives if it `dials`."""
        refusal = self.call()
        if not refusal.address:
            refusal = self.call()
        assert refusal.address
        self.said = submission(call, Heard(), package=PACKAGE, context=HERE)
        settled = self.lines.asked_by(self.said, refusal.address)
        assert self.said.line == refusal.address
        self.worker = wire_line.dial(refusal.address, call) if dials else None
        settled()

    def request(self) -> wire_line.Turn:
        assert self.worker is not None
        return wire_line.decode(self.worker.recv(wire_line.MAX_BYTES))

    def answer(self, index: int, *values: object) -> None:
        assert self.worker is not None
        frames = tuple(map(bytes, payload.encode_batch(values, FORM_VALUE))) if values else ()
        self.worker.send(wire_line.encode(wire_line.Turn(index, frames)))

    def calling(self, *values: int) -> list[Waiting[Any]]:
        """Call in a thread of each; return what their results will be had from."""
        return [_in_thread(partial(self.call, value)) for value in values]


def _in_thread(act: Any) -> Waiting[Any]:
    waiting: Waiting[Any] = Waiting()

    def run() -> None:
        try:
            value = act()
        except Exception as error:  # noqa: BLE001  the test looks at it
            found = error
            waiting.complete(lambda: found)
        else:
            waiting.complete(lambda: value)

    threading.Thread(target=run, daemon=True).start()
    return waiting


def result(waiting: Waiting[Any]) -> Any:
    assert waiting.wait(20 * PATIENCE)
    return waiting.result()


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.lines.close()
    if talk.worker is not None:
        talk.worker.close()


@pytest.fixture
def lined(talk: Talk) -> Talk:
    """Return lines of which one is open."""
    talk.ask()
    assert talk.lines.count == 1
    return talk


def test_a_call_asks_for_a_line_where_another_one_has_just_ended(talk: Talk) -> None:
    assert talk.call() == NO_LINE
    assert talk.call().address
    assert talk.call(of=package("v2")) == NO_LINE


def test_a_value_comes_by_the_line(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    request = lined.request()
    assert request.index == 1
    assert payload.BatchReader(request.frames)[0] == (7,)
    lined.answer(1, "seven")
    assert result(asked) == "seven"


def test_what_is_handed_over_comes_by_the_broker(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    lined.request()
    lined.answer(1)
    frames = [bytes(frame) for frame in payload.encode_batch(["seven"], FORM_VALUE)]
    lined.line.wrote(1, "stdout", b"said")
    lined.line.wrote(99, "stdout", b"nobody's")
    lined.line.succeeded(1, 1, 0, frames)
    assert result(asked) == "seven"
    assert lined.session.shown == [(0, "stdout", b"said", 0)]  # it is a call of its own
    assert lined.lines.count == 1


def test_what_failed_raises_as_the_first_input_of_a_call(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    lined.answer(lined.request().index)
    lined.line.ended(Ended(1, 1, Outcome.TIMED_OUT, 1, "input 0 of f ran longer", None))
    assert isinstance(result(asked), exception.FunctionTimeoutError)


def test_one_whose_worker_died_is_called_anew_and_says_so(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    lined.request()
    assert lined.worker is not None
    lined.worker.close()
    lined.line.ended(Ended(1, 1, Outcome.LOST, 1, "its worker died", None))
    lined.line.over()
    assert result(asked) == Refusal(deaths=1)
    assert lined.lines.count == 0


def test_one_that_was_not_read_is_called_anew(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    wait_until(lambda: lined.line.next == 2, what="it is asked")
    lined.line.over()
    assert result(asked) == NO_LINE
    assert lined.lines.count == 0
    assert lined.call(8) == NO_LINE


def test_one_for_which_there_will_be_no_broker_raises_why(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    lined.request()
    lined.line.rejected("ConnectionError", "it was stopped")
    found = result(asked)
    assert isinstance(found, exception.ConnectionError)
    assert str(found) == "it was stopped"
    assert lined.lines.count == 0


def test_the_end_of_a_line_wakes_who_waits_whoever_else_holds_it_open(lined: Talk) -> None:
    assert lined.worker is not None
    held = lined.worker.dup()  # as a child that the worker has forked does
    (asked,) = lined.calling(7)
    lined.request()
    lined.line.over()
    assert result(asked) == NO_LINE
    held.close()


def test_an_answer_that_came_before_the_end_counts(lined: Talk) -> None:
    lined.answer(1, "seven")
    lined.line.shut()
    assert lined.line.end is not None
    assert wire_line.decode(lined.line.end.recv(wire_line.MAX_BYTES)).index == 1


def test_a_line_that_is_over_is_not_used(lined: Talk) -> None:
    lined.line.is_over = True
    assert lined.call(7) == NO_LINE
    assert lined.lines.count == 0


def test_one_thread_at_a_time_uses_a_line(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    request = lined.request()
    assert lined.call(8) == NO_LINE
    assert lined.lines.count == 1
    lined.answer(request.index, "seven")
    assert result(asked) == "seven"
    with lined.line.in_use:  # whoever had it was interrupted on its way out
        lined.line.over()
        assert lined.call(9) == NO_LINE
    assert lined.lines.count == 0
    lined.line.hang_up()


def test_another_version_other_surroundings_and_large_arguments_go_by_the_broker(
    talk: Talk,
) -> None:
    talk.ask()
    large = [b"x" * wire_line.MAX_BYTES]
    assert talk.lines.call(PACKAGE, HERE, large) == NO_LINE
    assert talk.lines.count == 1
    assert talk.call(context=CallContext("/there")) == NO_LINE
    assert talk.lines.count == 0
    assert talk.worker is not None
    assert talk.worker.recv(10) == b""
    assert talk.call() == NO_LINE  # it was of little use: it rests


def test_nobody_asks_for_a_line_across_machines(talk: Talk) -> None:
    talk.session.is_far = True
    assert [talk.call() for _ in range(3)] == [NO_LINE] * 3


def test_what_got_no_line_does_not_ask_again_at_once(talk: Talk) -> None:
    talk.ask(dials=False)
    assert talk.session.told == [("forget", "fc-1")]
    assert [talk.call(), talk.call()] == [NO_LINE, NO_LINE]
    wait_until(lambda: bool(talk.call().address), what="it asks again after a while")


def test_an_interrupt_discards_the_line_and_cancels_what_runs(lined: Talk) -> None:
    expect, lined.line.expect = lined.line.expect, lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        lined.call(6)
    assert lined.session.told == []  # nothing had been sent
    lined.line.expect = expect  # type: ignore[method-assign]
    (asked,) = lined.calling(7)
    lined.request()
    assert lined.worker is not None
    lined.worker.send(b"\xc1")
    assert isinstance(result(asked), ProtocolError)
    assert lined.session.told == [("cancel", "fc-1", 1)]
    assert lined.lines.count == 0


def test_a_breakpoint_is_offered_to_who_waits(lined: Talk) -> None:
    assert not lined.line.offered(lambda _: None)
    (asked,) = lined.calling(7)
    lined.request()
    looked: list[bool] = []
    assert lined.line.offered(looked.append)
    lined.answer(1)
    wait_until(lambda: looked == [True], what="the caller looks")
    frames = [bytes(frame) for frame in payload.encode_batch(["seven"], FORM_VALUE)]
    lined.line.succeeded(1, 1, 0, frames)
    assert result(asked) == "seven"
    assert not lined.line.offered(looked.append)


def test_who_gives_up_the_call_that_asked_needs_no_line(talk: Talk) -> None:
    talk.call()
    address = talk.call().address
    said = submission("fc-1", Heard(), package=PACKAGE, context=HERE)
    talk.lines.asked_by(said, address)
    talk.lines.given_up(said.call)
    talk.lines.given_up(said.call)
    assert talk.session.told == [("forget", "fc-1")]


def test_the_second_of_two_lines_is_hung_up_and_so_is_what_nobody_asked_for(lined: Talk) -> None:
    said = submission("fc-2", Heard(), package=PACKAGE, context=HERE)
    settled = lined.lines.asked_by(said, lined.said.line)  # type: ignore[union-attr]
    worker, stranger = (wire_line.dial(said.line, call) for call in ("fc-2", "fc-9"))
    assert worker is not None
    assert stranger is not None
    settled()
    assert worker.recv(10) == stranger.recv(10) == b""
    assert lined.lines.count == 1
    worker.close()
    stranger.close()


def test_threads_that_ask_for_the_first_line_at_once_listen_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = Talk().lines
    listen, together = wire_line.listen, threading.Barrier(2, timeout=2)

    def listen_slowly(name: str) -> socket.socket:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()  # a second thread that came here would be let through with the first
        return listen(name)

    monkeypatch.setattr(wire_line, "listen", listen_slowly)
    asked: list[Any] = []

    def ask() -> None:  # the second one comes soon after
        asked.extend(lines.call(PACKAGE, HERE, inputs(0)) for _ in range(2))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(asked) == 4
    assert {each.address for each in asked} <= {"", lines._name}
    lines.close()


def test_who_calls_while_the_session_closes_gets_no_line(talk: Talk) -> None:
    talk.call()
    talk.lines.close()
    assert talk.call() is NO_LINE
    assert talk.lines._listener is None, "nobody would close it"
    asking, closed = Talk(), Talk()
    for each in (asking, closed):
        each.call()
        each.said = submission("fc-1", Heard(), package=PACKAGE, context=HERE)
        address = each.call().address
        settled = each.lines.asked_by(each.said, address)
        each.worker = wire_line.dial(address, "fc-1")
        if each is closed:
            with each.lines._lock:
                each.lines._is_closed = True  # it is being closed just now
        settled()
        assert each.worker is not None
        assert each.lines.count == (each is asking)
        each.lines.close()
        assert each.worker.recv(10) == b""
        each.worker.close()


def test_a_line_that_is_over_while_it_answers_is_hung_up(lined: Talk) -> None:
    (asked,) = lined.calling(7)
    lined.request()
    lined.line.is_over = True  # the broker has said so, to whom it was in use
    assert lined.call() is NO_LINE
    lined.answer(1, "seven")
    assert result(asked) == "seven"
    wait_until(lambda: lined.line.end is None, what="who had used it hangs up")


def test_functions_that_are_called_in_turn_ask_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Talk().lines
    other = package("v2", "g")
    asked = [lines.call(each, HERE, inputs(0)) for each in (PACKAGE, other) * 2]
    addresses = [isinstance(each, Refusal) and bool(each.address) for each in asked]
    assert addresses == [False, False, True, True]
    for number in range(200):
        lines.call(package(f"w{number}"), HERE, inputs(0))
    monkeypatch.setattr("notebook_ext.lines._SOON_SECONDS", 0.0)
    lines.call(PACKAGE, HERE, inputs(0))
    assert len(lines._last) < 10, "what was called long ago is forgotten"
    lines.close()


def test_where_nobody_can_listen_calls_go_by_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def listen(name: str) -> socket.socket:
        raise OSError(errno.EMFILE, name)

    monkeypatch.setattr(wire_line, "listen", listen)
    lines = Talk().lines
    assert [lines.call(PACKAGE, HERE, inputs(0)) for _ in range(3)] == [NO_LINE] * 3


def test_what_does_not_concern_a_line(lined: Talk) -> None:
    line = lined.line
    line.accepted()
    line.yielded(0, 1, [])
    line.progressed(messages.CallProgress(line.call, 1, 0, 1))
    for index in range(1, 100):
        line.expect(index, copy_context(), [])
    assert len(line._outputs) == 64
    line.rejected("ClientClosed", "closed")
    assert line.is_over


def test_calls_in_a_row_have_a_line_and_one_that_closes_ends_them(live: nb.App) -> None:
    @live.function
    def twice(x: int) -> int:
        return 2 * x

    def one(x: int) -> bool:
        assert twice.remote(x) == 2 * x
        return process.current().lines.count == 1

    numbers = iter(range(1_000_000))
    wait_until(lambda: one(next(numbers)), what="there is a line")
    handle: Any = nb.put(21)
    assert twice.remote(handle) == 42
    process.close()
    assert twice.remote(4) == 8
