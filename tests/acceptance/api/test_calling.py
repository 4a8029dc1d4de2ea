"""API.md section 2: how a function is called, on every surface."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.api.surfaces import Lines

DEFINE = """
@app.function(max_containers=2)
def square(x, plus=0):
    return x * x + plus

@app.function(max_containers=2)
def add(x, y=0):
    return x + y

@app.function(max_containers=2)
def picky(x):
    if x == 2:
        raise KeyError('no two')
    return x
"""


def test_remote_returns_the_value(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = square.remote(3, plus=1)")
    assert lines.value("found") == 10


def test_local_and_a_direct_call_run_here(lines: Lines) -> None:
    lines.run("import os\n@app.function\ndef here(): return os.getpid()")
    assert lines.value("here() == here.local() == os.getpid()")
    lines.run("elsewhere = here.remote()")
    assert lines.value("elsewhere != os.getpid()")


def test_get_raw_f_is_the_plain_function(lines: Lines) -> None:
    lines.run(DEFINE)
    assert lines.value("type(square.get_raw_f()).__name__, square.get_raw_f()(4)") == (
        "function",
        16,
    )


def test_spawn_returns_a_call_to_get_later(lines: Lines) -> None:
    lines.run(DEFINE + "\ncall = square.spawn(5)\nfound = call.get()\nagain = call.get()")
    assert lines.value("found, again, call.object_id[:3]") == (25, 25, "fc-")


def test_map_zips_its_iterables_to_the_shortest(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = list(add.map([1, 2, 3], range(10, 100)))")
    assert lines.value("found") == [11, 13, 15]


def test_map_shares_kwargs(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = list(square.map(range(3), kwargs={'plus': 7}))")
    assert lines.value("found") == [7, 8, 11]


def test_map_of_nothing_gives_nothing(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = list(square.map([]))")
    assert lines.value("found") == []


def test_map_in_any_order_gives_the_same_results(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = sorted(square.map(range(40), order_outputs=False))")
    assert lines.value("found") == [x * x for x in range(40)]


def test_map_is_iterated_with_a_loop(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = []\nfor each in square.map(range(5)):\n    found.append(each)")
    assert lines.value("found") == [0, 1, 4, 9, 16]


def test_map_takes_a_generator_that_never_ends(lines: Lines) -> None:
    lines.run(
        DEFINE
        + """
import itertools
found = []
for each in square.map(itertools.count()):
    found.append(each)
    if len(found) == 5:
        break
"""
    )
    assert lines.value("found") == [0, 1, 4, 9, 16]


def test_starmap_spreads_tuples(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = list(add.starmap([(1, 2), (3, 4)]))")
    assert lines.value("found") == [3, 7]


def test_for_each_waits_and_keeps_nothing(lines: Lines, tmp_path: Path) -> None:
    lines.run(
        f"""
        import os
        place = {str(tmp_path)!r}
        @app.function
        def leave(name):
            open(os.path.join(place, str(name)), 'w').close()
        found = leave.for_each(range(4))
        """
    )
    assert lines.value("found, sorted(os.listdir(place))") == (None, ["0", "1", "2", "3"])


def test_for_each_raises_the_first_failure(lines: Lines) -> None:
    lines.run(DEFINE)
    assert lines.fails("picky.for_each(range(4))").name == "KeyError"


def test_for_each_ignores_exceptions_where_it_is_told_to(lines: Lines) -> None:
    lines.run(DEFINE + "\nfound = picky.for_each(range(4), ignore_exceptions=True)")
    assert lines.value("found") is None


def test_spawn_map_is_one_call_of_many_inputs(lines: Lines) -> None:
    lines.run(DEFINE + "\ncall = square.spawn_map(range(4))\nlast = call.get(index=3)")
    lines.run("count = call.num_inputs()")
    assert lines.value("last, count") == (9, 4)


def test_results_before_the_first_failure_come_first(lines: Lines) -> None:
    lines.run(
        DEFINE
        + """
found = []
try:
    for each in picky.map(range(6)):
        found.append(each)
except KeyError as error:
    notes = error.__notes__
"""
    )
    assert lines.value("found") == [0, 1]
    assert "2" in lines.value("notes")[0]


def test_return_exceptions_wraps_them_as_the_2024_page_shows(lines: Lines) -> None:
    lines.run(
        """
        @app.function
        def fails(a):
            if a == 2:
                raise Exception('ohno')
            return a
        found = list(fails.map(range(3), return_exceptions=True))
        bare = list(fails.map(range(3), return_exceptions=True, wrap_returned_exceptions=False))
        """
    )
    assert lines.run("print(found)") == "[0, 1, UserCodeException(Exception('ohno'))]\n"
    assert lines.run("print(repr(found[2].exc), bare)") == (
        "Exception('ohno') [0, 1, Exception('ohno')]\n"
    )


def test_map_without_iterables_is_refused_at_once(cells: Lines) -> None:
    cells.run(DEFINE)
    assert cells.fails("square.map()").name == "InvalidError"
    refused = cells.fails("square.map(7)")
    assert refused.name == "InvalidError"
    assert "7" in refused.message


def test_a_map_is_iterated_once(cells: Lines) -> None:
    cells.run(DEFINE + "\nsquares = square.map(range(3))\nlist(squares)")
    assert cells.fails("list(squares)").name == "InvalidError"


def test_a_map_that_was_never_iterated_warns(cells: Lines) -> None:
    cells.run(
        DEFINE
        + """
import time, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    square.map(range(3))
    until = time.monotonic() + 20
    while not caught and time.monotonic() < until:
        time.sleep(0.01)
print(caught[0].category.__name__, 'never iterated' in str(caught[0].message))
"""
    )


def test_keep_warm_and_update_autoscaler_are_the_same(lines: Lines) -> None:
    lines.run(
        DEFINE
        + """
warm = square.keep_warm(1)
settings = square.update_autoscaler(max_containers=3, scaledown_window=30)
"""
    )
    read = "settings.min_containers, settings.max_containers, settings.scaledown_window_seconds"
    assert lines.value(read) == (1, 3, 30.0)
    lines.run("square.keep_warm(0)")


def test_autoscaler_update_and_settings(cells: Lines) -> None:
    cells.run(DEFINE + "\nsquare.autoscaler.update(buffer_containers=1)")
    assert cells.value("square.autoscaler.settings().buffer_containers") == 1
    cells.run("square.autoscaler.update(buffer_containers=0)")


def test_get_current_stats(lines: Lines) -> None:
    lines.run(DEFINE + "\nsquare.remote(1)\nstats = square.get_current_stats()")
    assert lines.value("stats.backlog, stats.num_total_runners >= 1") == (0, True)


def test_with_options_is_a_variant_with_a_pool_of_its_own(lines: Lines) -> None:
    lines.run(
        """
        import os
        @app.function(max_containers=1)
        def who(): return os.getpid()
        other = who.with_options(max_containers=2).with_options(timeout=9)
        mine, its = who.remote(), other.remote()
        """
    )
    assert lines.value("mine != its")


def test_version_changes_with_the_code_only(cells: Lines) -> None:
    cells.run("@app.function\ndef f(x): return x\nfirst = f.version")
    cells.run("@app.function\ndef f(x): return x\nsame = f.version")
    cells.run("@app.function\ndef f(x): return x + 1\nother = f.version")
    assert cells.value("first == same, first == other") == (True, False)


def test_info_tells_signature_module_and_options(cells: Lines) -> None:
    cells.run(DEFINE)
    assert cells.value("square.info().signature") == "(x, plus=0)"
    assert cells.value("square.info().module") == "__main__"


def test_nested_calls_do_not_deadlock(lines: Lines) -> None:
    lines.run(
        """
        @app.function(max_containers=1)
        def down(n):
            return 0 if n == 0 else 1 + down.remote(n - 1)
        found = down.remote(6)
        """
    )
    assert lines.value("found") == 6


def test_ids_inside_a_worker(lines: Lines) -> None:
    lines.run(
        """
        @app.function
        def ids():
            return nb.current_function_call_id(), nb.current_input_id(), nb.is_local()
        inside = ids.remote()
        here = nb.current_function_call_id(), nb.current_input_id(), nb.is_local()
        """
    )
    call, given, local = lines.value("inside")
    assert call.startswith("fc-")
    assert given.startswith("in-")
    assert not local
    assert lines.value("here") == (None, None, True)


def test_with_app_run_is_accepted_everywhere(lines: Lines) -> None:
    lines.run(DEFINE + "\nwith app.run():\n    found = square.remote(2)")
    assert lines.value("found") == 4


def test_an_async_function_is_called_the_same_way(lines: Lines) -> None:
    lines.run(
        """
        import asyncio
        @app.function
        async def later(x):
            await asyncio.sleep(0)
            return -x
        one, many = later.remote(1), list(later.map(range(3)))
        """
    )
    assert lines.value("one, many") == (-1, [0, -1, -2])
