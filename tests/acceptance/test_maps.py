"""Maps: what may be mapped over, what one input can do to another, and what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_worker import rendezvous, settings
from tests.acceptance.cells import typed, value
from tests.plain_kernel import PlainKernel

GROWTH_LIMIT_BYTES = 60e6


@pytest.fixture(autouse=True)
def double(notebook: PlainKernel) -> None:
    typed(notebook, "@app.function()\ndef double(x):\n    return 2 * x")


def test_an_infinite_iterator_is_read_as_far_as_it_is_needed(notebook: PlainKernel) -> None:
    first = value(
        notebook,
        """
        import itertools
        pulled = []
        def endless():
            for number in itertools.count():
                pulled.append(number)
                yield number
        list(itertools.islice(double.map(endless()), 50))
        """,
    )
    assert first == [2 * number for number in range(50)]
    # Bounded: that it has stopped shows in two counts with other work between them.
    typed(notebook, "list(double.map(range(1_000)))")
    count = value(notebook, "len(pulled)")
    typed(notebook, "list(double.map(range(1_000)))")
    assert value(notebook, "len(pulled)") == count


def test_an_iterator_that_waits_for_results_gets_them(notebook: PlainKernel) -> None:
    got = value(
        notebook,
        """
        import queue
        box = queue.Queue()
        box.put(0)
        def waits():
            while (item := box.get()) is not None:
                yield item
        got = []
        for result in double.map(waits()):
            got.append(result)
            box.put(len(got) if len(got) < 10 else None)
        got
        """,
    )
    assert got == [2 * number for number in range(10)]


def test_no_input_sees_what_another_did_to_a_shared_object(notebook: PlainKernel) -> None:
    seen = value(
        notebook,
        """
        @app.function()
        def change(config):
            config['n'] += 1
            config['seen'].append(1)
            return config['n'], len(config['seen'])
        config = {'n': 0, 'seen': []}
        list(change.map([config] * 100)), config
        """,
    )
    assert seen == ([(1, 1)] * 100, {"n": 0, "seen": []})


def test_results_that_share_an_object_come_back_apart(notebook: PlainKernel) -> None:
    apart = value(
        notebook,
        """
        shared = [0]
        @app.function()
        def give(x): return shared
        results = list(give.map(range(20)))
        results[0].append(1)
        results[1:] == [[0]] * 19
        """,
    )
    assert apart is True


def test_random_numbers_differ_between_workers(notebook: PlainKernel) -> None:
    drawn = value(
        notebook,
        """
        import os, random, time
        import numpy as np
        @app.function(min_containers=2)
        def draw(x):
            time.sleep(0.001)
            return os.getpid(), float(np.random.rand()), random.random()
        draws = list(draw.map(range(1_000)))
        draw.keep_warm(0)
        [len({draw[column] for draw in draws}) for column in range(3)]
        """,
    )
    assert drawn[0] >= 2
    assert drawn[1:] == [1_000, 1_000]


def test_a_slow_first_input_keeps_order_and_memory(notebook: PlainKernel) -> None:
    typed(
        notebook,
        """
        import time
        @app.function()
        def slow_first(x):
            if x == 0:
                time.sleep(1.5)
            return x
        """,
    )
    pid = notebook.pid
    before = _reset_peak(pid)
    assert value(notebook, "list(slow_first.map(range(100_000))) == list(range(100_000))")
    assert _peak(pid) - before < GROWTH_LIMIT_BYTES


def test_an_iterator_that_raises_ends_the_map_there(notebook: PlainKernel) -> None:
    got = value(
        notebook,
        """
        def breaks(k):
            yield from range(k)
            raise LookupError(f'item {k}')
        got = []
        try:
            for result in double.map(breaks(7)):
                got.append(result)
        except LookupError as error:
            got.append(str(error))
        got
        """,
    )
    assert got == [0, 2, 4, 6, 8, 10, 12, "item 7"]


def test_the_first_failure_in_order_is_raised_with_its_input(notebook: PlainKernel) -> None:
    got = value(
        notebook,
        """
        @app.function()
        def fails_late(x):
            if x >= 5:
                raise ValueError(f'bad {x}')
            return x
        got = []
        try:
            for result in fails_late.map(range(100)):
                got.append(result)
        except ValueError as error:
            got += [str(error), ' '.join(error.__notes__)]
        got
        """,
    )
    assert got[:6] == [0, 1, 2, 3, 4, "bad 5"]
    assert "5" in got[6]


def test_a_million_inputs_cost_neither_client_nor_broker_memory(notebook: PlainKernel) -> None:
    typed(notebook, "double.remote(1)")
    broker = rendezvous.find(settings.load())
    assert broker is not None
    pids = {"client": notebook.pid, "broker": broker.pid}
    before = {who: _reset_peak(pid) for who, pid in pids.items()}
    total = value(notebook, "sum(double.map(range(1_000_000)))", timeout=60)
    growth = {who: _peak(pid) - before[who] for who, pid in pids.items()}
    assert total == 2 * sum(range(1_000_000))
    assert max(growth.values()) < GROWTH_LIMIT_BYTES, growth


ABANDONED = {
    "break": "for _ in leaves_mark.map(range(2_000)):\n    break",
    "exception": (
        "try:\n    for _ in leaves_mark.map(range(2_000)):\n        raise KeyError(1)\n"
        "except KeyError:\n    pass"
    ),
    "garbage": "import gc\nmapped = leaves_mark.map(range(2_000))\nnext(iter(mapped))\n"
    "del mapped\ngc.collect()",
    "failure": (
        "try:\n    list(leaves_mark.map([*range(20), -1, *range(20, 2_000)]))\n"
        "except ValueError:\n    pass"
    ),
}


@pytest.mark.parametrize("how", ABANDONED)
def test_an_abandoned_map_stops_its_inputs(notebook: PlainKernel, tmp_path: Path, how: str) -> None:
    marks = tmp_path / "marks"
    typed(
        notebook,
        f"""
        import os, time
        @app.function()
        def leaves_mark(x):
            if x == -1:
                raise ValueError(x)
            mark = os.open({str(marks)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(mark, b'.')
            os.close(mark)
            time.sleep(0.005)
        """,
    )
    typed(notebook, ABANDONED[how])
    # Work for the same workers: when it has been done, the abandoned inputs have had their chance.
    typed(notebook, "list(leaves_mark.map(range(40)))")
    count = marks.stat().st_size
    typed(notebook, "list(leaves_mark.map(range(100)))")
    assert marks.stat().st_size == count + 100
    assert count < 500


def test_long_inputs_at_the_end_are_shared_between_the_workers(notebook: PlainKernel) -> None:
    counts = value(
        notebook,
        """
        import collections, os, time
        @app.function(min_containers=2, max_containers=2)
        def takes(seconds):
            time.sleep(seconds)
            return os.getpid()
        takes.remote(0)
        pids = list(takes.map([0.001] * 980 + [0.05] * 20))
        takes.keep_warm(0)
        sorted(collections.Counter(pids[-20:]).values())
        """,
    )
    assert len(counts) == 2
    assert counts[0] >= 8


def test_a_map_of_nothing_is_empty_and_a_wrong_one_is_refused(notebook: PlainKernel) -> None:
    assert value(notebook, "list(double.map([]))") == []
    for wrong in ("double.map()", "double.map(3)"):
        error = notebook.run(wrong).error
        assert error is not None
        assert error.name == "InvalidError"


def _reset_peak(pid: int) -> int:
    """Set the peak of the process's memory back to what it uses now, and return that."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _peak(pid)


def _peak(pid: int) -> int:
    """Return the process's peak resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")
