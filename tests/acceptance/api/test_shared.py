"""API.md section 2, shared arguments: `kwargs=`, captured globals, `nb.put`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import Lines

PUT = """
table = nb.put({'a': 1, 'b': [1, 2]})

@app.function(max_containers=2)
def look(x, *more, **named):
    return x
"""

WAYS = {
    "an argument": "look.remote(table) == {'a': 1, 'b': [1, 2]}",
    "in a container": "look.remote([table, (table,)])[1][0]['a'] == 1",
    "every input of a map": "[x['a'] for x in list(look.map([table] * 5))] == [1] * 5",
    "a call that runs here": "look.local(table)['a'] == look(x=table)['a'] == 1",
    "kwargs of a map": "list(with_table.map('aab', kwargs={'t': table})) == [1, 1, [1, 2]]",
    "a spawned call": "look.spawn(table).get()['a'] == 1",
    "a captured global": "captures.remote('a') == 1",
    "a captured global of a spawned call": "captures.spawn('b').get() == [1, 2]",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_put_arrives_as_the_object(lines: Lines, way: str) -> None:
    lines.run(
        PUT
        + """
@app.function
def with_table(key, t): return t[key]
@app.function
def captures(key): return table[key]
"""
    )
    lines.run(f"found = {WAYS[way]}")
    assert lines.value("found") is True


def test_no_input_sees_what_another_one_wrote(lines: Lines) -> None:
    lines.run(
        """
        import numpy as np
        zeros = nb.put(np.zeros(300_000))
        @app.function(max_containers=1)
        def count(array):
            array += 1
            return float(array.sum())
        found = list(count.map([zeros] * 4))
        """
    )
    assert lines.value("found") == [300_000.0] * 4


def test_it_is_sent_once_however_many_inputs_use_it(cells: Lines) -> None:
    cells.run(
        """
        import numpy as np
        from notebook_ext import process
        from kernel_worker.wire import messages
        big = nb.put(np.ones(1_100_000))  # like nothing that another test sends
        @app.function(max_containers=2)
        def total(array, x): return float(array.sum()) + x
        told = process.current()._conversation._told
        say, sizes = told._say, []
        def counting(message, frames=()):
            sizes.extend(map(len, frames))
            say(message, frames)
        told._say = counting
        try:
            found = list(total.starmap((big, x) for x in range(50)))
            again = total.remote(big, 1)
        finally:
            told._say = say
        large = [size for size in sizes if size >= 8_000_000]
        """
    )
    assert cells.value("found[:2], again, len(found), len(large)") == (
        [1_100_000.0, 1_100_001.0],
        1_100_001.0,
        50,
        1,
    )


def test_it_goes_with_its_handle(cells: Lines) -> None:
    cells.run(
        PUT
        + """
from notebook_ext import process
table = nb.put('nobody else has put this')
look.remote(table)
told = process.current()._conversation._told
digest = table.__stored_object__()[0]
known = digest in told._objects
del table
import time
until = time.monotonic() + 20
while digest in told._objects and time.monotonic() < until:
    time.sleep(0.01)
gone = digest not in told._objects
"""
    )
    assert cells.value("known, gone") == (True, True)


def test_a_handle_gives_a_copy_here(cells: Lines) -> None:
    cells.run(PUT)
    assert cells.value("table.get(), table.get() is table.get()") == (
        {"a": 1, "b": [1, 2]},
        False,
    )


def test_what_cannot_be_pickled_is_named(cells: Lines) -> None:
    failed = cells.fails("import threading\nnb.put({'k': threading.Lock()})")
    assert failed.name == "SerializationError"
    assert "['k'] (a _thread.lock)" in failed.message


def test_a_worker_can_put_too(lines: Lines) -> None:
    lines.run(
        """
        @app.function(max_containers=2)
        def inner(t): return sum(t)
        @app.function(max_containers=2)
        def outer():
            handle = nb.put([1, 2, 3])
            return inner.remote(handle) + inner.remote(handle)
        found = outer.remote()
        """
    )
    assert lines.value("found") == 12


HELD = {
    "in another object that was put": "look.remote(nb.put([table, 2]))[0]['a'] == 1",
    "in a result": "give.remote() == {'a': 1, 'b': [1, 2]}",
    "a parameter of a class": "Model(table).first.remote() == 1",
    "an argument of a method that runs here": "Model(1).same.local(table)['a'] == 1",
    "in an item of a generator": "[x['a'] for x in give_all.remote_gen()] == [1, 1]",
}


@pytest.mark.parametrize("way", HELD)
def test_a_handle_that_travels_in_something_else_is_the_object(lines: Lines, way: str) -> None:
    lines.run(
        PUT
        + """
@app.function
def give(): return nb.put({'a': 1, 'b': [1, 2]})
@app.function
def give_all():
    handle = nb.put({'a': 1})
    yield handle
    yield handle
@app.cls()
class Model:
    def __init__(self, weights): self.weights = weights
    @nb.method()
    def first(self): return self.weights['a']
    @nb.method()
    def same(self, x): return x
"""
    )
    lines.run(f"found = {HELD[way]}")
    assert lines.value("found") is True


def test_kwargs_that_all_inputs_share_are_sent_once(cells: Lines) -> None:
    cells.run(
        """
        import numpy as np
        @app.function(max_containers=2)
        def add(x, array): return float(array[x]) + x
        found = list(add.map(range(20), kwargs={'array': np.ones(1_000_000)}))
        """
    )
    assert cells.value("found[:3]") == [1.0, 2.0, 3.0]


SENT = """
from notebook_ext import process
told = process.current()._conversation._told
say, sizes = told._say, []
def counting(message, frames=()):
    sizes.extend(map(len, frames))
    say(message, frames)
told._say = counting
"""


def test_a_large_captured_global_is_sent_once_whatever_changes_beside_it(cells: Lines) -> None:
    cells.run(
        SENT
        + """
import numpy as np
big, small = np.ones(1_000_000), 1
@app.function(max_containers=1)
def total(): return float(big.sum()) + small
@app.function(max_containers=1)
def half(): return float(big.sum()) / 2
found = [total.remote(), total.remote(), half.remote()]
small = 2
found.append(total.remote())
told._say = say
large = [size for size in sizes if size >= 8_000_000]
"""
    )
    assert cells.value("found, len(large)") == (
        [1_000_001.0, 1_000_001.0, 500_000.0, 1_000_002.0],
        1,
    )


def test_a_large_captured_global_that_changes_in_place_is_seen(lines: Lines) -> None:
    lines.run(
        """
        import numpy as np
        big = np.zeros(300_000)
        many = ['a' * 1000] * 2_000
        @app.function(max_containers=1)
        def look(): return float(big.sum()), len(many), many[-1][:1]
        found = [look.remote()]
        big[5] = 3
        many.append('b')
        found += [look.remote(), look.spawn().get()]
        """
    )
    assert lines.value("found") == [(0.0, 2000, "a"), (3.0, 2001, "b"), (3.0, 2001, "b")]


def test_what_a_worker_wrote_to_a_large_captured_global_stays_there(lines: Lines) -> None:
    lines.run(
        """
        import numpy as np
        counts, step = np.zeros(300_000), 1
        @app.function(max_containers=1)
        def add():
            counts[0] += step
            return float(counts[0])
        found = [add.remote(), add.remote()]
        step = 10
        found += [add.remote(), float(counts[0])]
        """
    )
    assert lines.value("found") == [1.0, 2.0, 12.0, 0.0]


def test_a_class_captures_large_values_too(lines: Lines) -> None:
    lines.run(
        """
        import numpy as np
        big = np.ones(300_000)
        @app.cls(max_containers=1)
        class Model:
            @nb.enter(snap=True)
            def load(self): self.total = float(big.sum())
            @nb.method()
            def run(self, x): return self.total + float(big[x])
        found = Model().run.remote(3)
        """
    )
    assert lines.value("found") == 300_001.0


def test_one_notice_says_what_a_large_captured_global_costs(cells: Lines) -> None:
    cells.run(
        """
        import contextlib, io
        import numpy as np
        costly = np.ones(8_000_000)
        @app.function(max_containers=1)
        def f(): return float(costly[0])
        @app.function(max_containers=1)
        def g(): return float(costly[1])
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            found = [f.remote(), g.remote()]
            costly[0] = 2
            found.append(f.remote())
        """
    )
    assert cells.value("found") == [1.0, 1.0, 2.0]
    notice = cells.value("shown.getvalue()")
    assert notice.count("nb.put") == 1, notice
    assert "f captures global 'costly', 64 MB" in notice
    assert "costly = nb.put(costly)" in notice


@pytest.mark.parametrize("how", ["np.full(300_000, 2.5)", "nb.put(np.full(300_000, 3.5))"])
def test_a_nested_call_that_outlives_its_caller_keeps_what_it_needs(
    cells: Lines, tmp_path: Path, how: str
) -> None:
    cells.run(
        f"""
        import os, time
        import numpy as np
        gate, entered = {str(tmp_path / "gate")!r}, {str(tmp_path / "entered")!r}
        big = None
        @app.function(max_containers=1)
        def inner(waits=False):
            if waits:
                open(entered, 'w').close()
            while waits and not os.path.exists(gate):
                time.sleep(0.01)
            return None if big is None else float(big.sum())
        @app.function(max_containers=1)
        def outer(): return inner.spawn()
        before = inner.spawn(True)
        while not os.path.exists(entered):
            time.sleep(0.01)
        from notebook_ext import process
        told = process.current()._conversation._told
        known = set(told._objects)
        big = {how}
        call = outer.remote()
        large = [each for each, size in told._objects.items() if size > 2e6 and each not in known]
        big = None
        inner.version
        until = time.monotonic() + 20
        while any(digest in told._objects for digest in large) and time.monotonic() < until:
            time.sleep(0.01)
        gone = len(large), any(digest in told._objects for digest in large)
        open(gate, 'w').close()
        found = [before.get(), call.get()]
        """
    )
    total = 300_000 * (3.5 if "put" in how else 2.5)
    assert cells.value("gone, found") == ((1, False), [None, total])


def test_a_handle_that_a_function_captures_is_not_looked_at_again(cells: Lines) -> None:
    cells.run(
        """
        from notebook_ext.stored import Stored
        put = nb.put(bytes(3_000_000))
        among = [put]
        @app.function(max_containers=1)
        def sizes(): return len(put), len(among[0])
        pickled, rebuilt = [], Stored.__reduce__
        def reduce(self):
            made = rebuilt(self)
            pickled.append(max(len(part) for part in made[1]))
            return made
        found = [sizes.remote()]
        Stored.__reduce__ = reduce
        try:
            found.append(sizes.remote())
        finally:
            Stored.__reduce__ = rebuilt
        """
    )
    assert cells.value("found") == [(3_000_000, 3_000_000)] * 2
    assert cells.value("len(pickled), max(pickled) < 1_000") == (1, True)
