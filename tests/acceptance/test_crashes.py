"""A worker's death costs time and nothing else; an input that kills workers fails alone."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE


def _define_logged(notebook: PlainKernel, log: Path) -> None:
    """Define `logged(x)`, which appends `x pid` to `log` as it starts."""
    typed(
        notebook,
        f"""
        import os, signal, time

        @app.function(min_containers=2, max_containers=2)
        def logged(x):
            log = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f'{{x}} {{os.getpid()}}\\n'.encode())
            os.close(log)
            if x == -13:
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(0.002)
            return x, os.getpid()
        """,
    )


def _executions(log: Path) -> dict[int, list[int]]:
    """Return for each input the pids that started it, in order."""
    started = collections.defaultdict(list)
    for line in log.read_text().splitlines():
        index, pid = line.split()
        started[int(index)].append(int(pid))
    return started


def test_a_map_survives_kill_9_of_a_worker_and_reruns_only_what_it_had_started(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    _define_logged(notebook, log)
    killed, right = value(
        notebook,
        """
        results = []
        for result in logged.map(range(1_000)):
            results.append(result)
            if len(results) == 300:
                killed = result[1]
                os.kill(killed, signal.SIGKILL)
        logged.keep_warm(0)
        killed, [x for x, _ in results] == list(range(1_000))
        """,
    )
    assert right
    started = _executions(log)
    assert sorted(started) == list(range(1_000))
    again = {index: pids for index, pids in started.items() if len(pids) > 1}
    assert all(len(pids) == 2 and pids[0] == killed for pids in again.values()), again
    assert len(again) < 100


@pytest.mark.clock
def test_the_pool_is_whole_again_within_a_second(notebook: PlainKernel, tmp_path: Path) -> None:
    _define_logged(notebook, tmp_path / "log")
    seconds = value(
        notebook,
        """
        def living():
            return {pid for _, pid in logged.map(range(40))}
        while len(before := living()) < 2:
            pass
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        begun = time.perf_counter()
        while len(after := living() - {killed}) < 2:
            pass
        seconds = time.perf_counter() - begun
        logged.keep_warm(0)
        seconds
        """,
    )
    assert seconds < 1.0 * PATIENCE


def test_a_poison_input_fails_alone_after_three_attempts_and_is_named(
    notebook: PlainKernel, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    _define_logged(notebook, log)
    kind, message, others = value(
        notebook,
        """
        inputs = [-13 if x == 13 else x for x in range(40)]
        results = list(
            logged.map(inputs, return_exceptions=True, wrap_returned_exceptions=False))
        logged.keep_warm(0)
        failed = results.pop(13)
        type(failed).__name__, str(failed), [x for x, _ in results]
        """,
    )
    assert kind == "InternalFailure"
    assert "SIGSEGV" in message
    assert "13" in message
    assert others == [x for x in range(40) if x != 13]
    assert len(_executions(log)[-13]) == 3


def test_a_tree_of_calls_survives_workers_that_are_killed_again_and_again(
    notebook: PlainKernel,
) -> None:
    sums, kills = value(
        notebook,
        """
        import os, signal, time

        @app.function(max_containers=2)
        def inner(x):
            time.sleep(0.002)
            return x, os.getpid()

        @app.function(max_containers=2)
        def outer(x):
            return sum(y for y, _ in inner.map(range(20)))

        kills = 0
        for round in range(4):
            for number, (_, pid) in enumerate(inner.map(range(200))):
                if number == 100:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        list(outer.map(range(20))), kills
        """,
    )
    assert sums == [sum(range(20))] * 20
    assert kills == 4
