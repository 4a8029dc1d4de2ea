"""The tree of a call: `InputInfo`, `InputStatus`, and how the tree is made from what is known.

The broker sends what it knows as it keeps it: runs of inputs, open calls from its core, ended ones
from the journal. The tree is put together here: calls become lists of inputs, and each list hangs
below the input that made the call. No recursion: a chain of calls may be long.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from kernel_worker import records
from kernel_worker.model import CallId, Outcome, input_id
from kernel_worker.traces import TICKS_PER_SECOND, CallTrace, rows_of

if TYPE_CHECKING:
    from kernel_worker.wire.messages import Graph, TreeCall


class InputStatus(enum.IntEnum):
    """How an input stands."""

    PENDING = 0
    """It waits, or runs: then it has a `task_id`."""
    SUCCESS = 1
    FAILURE = 2
    """It raised, or the workers died that ran it."""
    INIT_FAILURE = 3
    TERMINATED = 4
    """It was cancelled."""
    TIMEOUT = 5


class InputInfo(msgspec.Struct, frozen=True):
    """One input in the tree of a call."""

    input_id: str
    function_call_id: str
    task_id: str
    """The worker that ran it last; empty where none has."""
    status: InputStatus
    function_name: str
    module_name: str
    children: list[InputInfo] = []
    """The inputs of the calls that were made inside it, by any of its attempts, in order."""
    attempt: int = 1
    started_at: float | None = None
    """Unix seconds, of the last attempt."""
    ended_at: float | None = None
    """Unix seconds."""


_STATUS = {
    Outcome.SUCCEEDED: InputStatus.SUCCESS,
    Outcome.FAILED: InputStatus.FAILURE,
    Outcome.CANCELLED: InputStatus.TERMINATED,
    Outcome.TIMED_OUT: InputStatus.TIMEOUT,
    Outcome.LOST: InputStatus.FAILURE,
    Outcome.INIT_FAILED: InputStatus.INIT_FAILURE,
}
_traces = msgspec.msgpack.Decoder(list[CallTrace])
_facts = msgspec.msgpack.Decoder(list[records.Record])


def read_graph(graph: Graph, frames: list[bytes]) -> list[InputInfo]:
    """Return the roots of the tree that a broker has told of."""
    return read_tree(graph, frames).roots()


def read_tree(graph: Graph, frames: list[bytes]) -> CallTree:
    """Return the calls of the tree that a broker has told of."""
    tree = CallTree()
    for known in graph.calls:
        tree.add(known)
    for trace in _traces.decode(frames[0]):
        tree.trace(trace)
    for frame in frames[1:]:
        for fact in _facts.decode(frame):
            tree.learn(fact)
    return tree


class Run:
    """Neighbours `[start, start + size)` that ended the same way, from `began` to `ended`."""

    __slots__ = ("attempt", "began", "ended", "size", "start", "status", "worker")

    def __init__(  # noqa: PLR0917  a row of a table
        self,
        start: int,
        size: int,
        worker: str,
        times: tuple[float, float],
        attempt: int,
        outcome: int,
    ) -> None:
        self.start = start
        self.size = size
        self.worker = worker
        self.began, self.ended = times
        self.attempt = attempt
        self.status = _STATUS[Outcome(outcome)]


class KnownCall:
    """What is known of one call."""

    def __init__(self, told: TreeCall | CallTrace) -> None:
        self.id = told.call
        self.parent = told.parent
        self.parent_index = told.parent_index
        self.name = told.name
        self.module = told.module
        self.submitted_at = told.submitted_at
        self.total = 0
        self.runs: list[Run] = []
        self.running: tuple[tuple[str, int, int, int, float], ...] = ()
        self.attempts: dict[int, int] = {}
        self.is_spawned = False

    def trace(self, told: CallTrace) -> None:
        """Take in how it stands, in place of what was known of that."""
        self.total = max(self.total, told.total)
        self.running = told.running
        self.attempts = dict(told.attempts)
        self.runs = []
        for row in rows_of(told.rows):
            ended = told.submitted_at + row.ended_ticks / TICKS_PER_SECOND
            worker = f"{told.workers}-{row.worker}" if row.worker else ""
            times = (ended - row.elapsed_seconds, ended)
            run = Run(row.start, row.size, worker, times, row.attempt, row.outcome)
            self.runs.append(run)

    def inputs(self) -> list[InputInfo]:
        """Return its inputs, without what was made inside them."""
        made: list[InputInfo | None] = [None] * self.total
        for run in self.runs:
            for offset in range(min(run.size, self.total - run.start)):
                made[run.start + offset] = self._in_run(run, offset)
        for worker, first, stop, attempt, since in self.running:
            for at in range(first, min(stop, self.total)):
                if made[at] is None:
                    began = since if at == first else None
                    made[at] = self._input(at, worker, InputStatus.PENDING, attempt, began)
        return [
            self._input(at, "", InputStatus.PENDING, self.attempts.get(at, 1))
            if one is None
            else one
            for at, one in enumerate(made)
        ]

    def input_at(self, index: int) -> InputInfo:
        """Return one of its inputs, without what was made inside it."""
        for run in reversed(self.runs):
            offset = index - run.start
            if 0 <= offset < run.size:
                return self._in_run(run, offset)
        for worker, first, stop, attempt, since in self.running:
            if first <= index < stop:
                began = since if index == first else None
                return self._input(index, worker, InputStatus.PENDING, attempt, began)
        return self._input(index, "", InputStatus.PENDING, self.attempts.get(index, 1))

    def _in_run(self, run: Run, offset: int) -> InputInfo:
        step = (run.ended - run.began) / run.size
        began = run.began + offset * step if run.worker else None
        # What an old journal holds does not say when.
        ended = run.began + (offset + 1) * step if run.ended else None
        at = run.start + offset
        return self._input(at, run.worker, run.status, run.attempt, began, ended)

    def _input(  # noqa: PLR0917  a row of a table
        self,
        at: int,
        worker: str,
        status: InputStatus,
        attempt: int,
        began: float | None = None,
        ended: float | None = None,
    ) -> InputInfo:
        return InputInfo(
            input_id(self.id, at),
            self.id,
            worker,
            status,
            self.name,
            self.module,
            [],
            attempt,
            began,
            ended,
        )


class CallTree:
    """The calls of a tree, while they become known."""

    def __init__(self) -> None:
        self.calls: dict[CallId, KnownCall] = {}

    def add(self, known: TreeCall) -> None:
        """Take a spawned call in."""
        call = self.calls[known.call] = KnownCall(known)
        call.is_spawned = True

    def trace(self, told: CallTrace) -> None:
        """Take in how a call stands."""
        call = self.calls.get(told.call)
        if call is None:
            call = self.calls[told.call] = KnownCall(told)
        call.trace(told)

    def learn(self, fact: records.Record) -> None:
        """Take in what the journal says; later facts are newer."""
        if isinstance(fact, records.AttachedCallEnded):
            self.trace(fact.trace)
            return
        call = self.calls.get(fact.call)
        if call is None:  # it was submitted after the calls were listed
            return
        match fact:
            case records.InputsAdded(start=start, count=count):
                call.total = max(call.total, start + count)
            case records.InputsClosed(total=total):
                call.total = max(call.total, total)
            case records.RangeSucceeded(start=start, stop=stop, worker=worker, attempt=attempt):
                times = (fact.began_at, fact.ended_at)
                run = Run(start, stop - start, worker, times, attempt, Outcome.SUCCEEDED)
                call.runs.append(run)
            case records.InputEnded(index=start, count=size, worker=worker, outcome=outcome):
                times = (fact.began_at, fact.ended_at)
                call.runs.append(Run(start, size, worker, times, fact.attempt, outcome))
            case records.AttemptFailed(index=index, attempt=attempt):
                call.attempts[index] = attempt + 1
            case _:
                pass

    def roots(self) -> list[InputInfo]:
        """Return the inputs of the calls that were made inside none of the others."""
        inputs = {call.id: call.inputs() for call in self.calls.values()}
        roots: list[InputInfo] = []
        for call in self.in_time():
            above = inputs.get(call.parent, ())
            below = above[call.parent_index].children if call.parent_index < len(above) else roots
            below += inputs[call.id]
        return roots

    def in_time(self) -> list[KnownCall]:
        """Return the calls in the order in which they were made."""
        return sorted(self.calls.values(), key=lambda call: call.submitted_at)
