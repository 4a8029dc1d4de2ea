from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError, SerializationError
from kernel_worker.model import CallId
from kernel_worker.wire.messages import CallProgress
from notebook_ext.function import Function, referenced
from notebook_ext.receivers import SingleAnswer


def test_it_runs_there_and_here(add: nb.Function[..., int]) -> None:
    assert add.remote(1) == 2
    assert add.remote(1, b=5) == 6
    assert add(2) == add.local(2) == add.get_raw_f()(2) == 3


def test_it_looks_like_what_it_wraps(add: nb.Function[..., int]) -> None:
    assert vars(add)["__name__"] == "add"
    assert "add" in repr(add)
    info = add.info()
    assert info.signature.replace("'", "") == "(a: int, b: int = 1) -> int"
    assert info.version == add.version


def test_the_original_exception_comes_back(live: nb.App) -> None:
    @live.function
    def bad(x: int) -> int:
        raise KeyError(x)

    with pytest.raises(KeyError) as caught:
        bad.remote(3)
    assert caught.value.args == (3,)


def test_async_functions(live: nb.App, loop: Any) -> None:
    @live.function
    async def later(x: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert later.remote(1) == 2
    assert loop.run(_awaited(later.remote.aio(2))) == 3


async def _awaited(waiting: Any) -> Any:
    return await waiting


def test_a_signal_handler_may_call_it_while_it_is_being_called(live: nb.App) -> None:
    class Loud:
        """Its pickling is interrupted, as a call may be anywhere."""

        def __reduce__(self) -> tuple[Any, ...]:
            signal.raise_signal(signal.SIGUSR1)
            return int, (7,)

    loud = Loud()

    @live.function
    def plus(x: int) -> int:
        return x + cast("int", loud)

    def handle(*_: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        found.append(plus.remote(1))

    found: list[int] = []
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert plus.remote(2) == 9
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == [8]


def test_from_a_thread(add: nb.Function[..., int]) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(add.remote(1)))
    thread.start()
    thread.join()
    assert found == [2]


def test_what_cannot_travel_says_where(add: nb.Function[..., Any]) -> None:
    with pytest.raises(SerializationError, match=r"args\[0\]"):
        add.remote(threading.Lock())
    with pytest.raises(SerializationError, match="kwargs"):
        list(add.map([1], kwargs={"b": threading.Lock()}))


def test_redefinition_and_changed_captures(live: nb.App) -> None:
    box = {"n": 1}

    @live.function
    def f() -> int:
        return box["n"]

    first = f.version
    assert f.remote() == 1
    box["n"] = 2
    assert f.remote() == 2
    assert f.version == first

    @live.function(name=f.name)
    def g() -> int:
        return box["n"] * 10

    assert g.remote() == 20
    assert f.remote() == 2
    assert g.remote() == 20


def test_recursion_and_local_calls_in_a_worker(live: nb.App) -> None:
    @live.function(max_containers=2)
    def double(x: int) -> int:
        return x * 2

    @live.function(max_containers=1)
    def fib(n: int) -> int:
        return n if n < 2 else fib.remote(n - 1) + fib.remote(n - 2)

    @live.function
    def both(x: int) -> tuple[int, int, int, list[int]]:
        return double.remote(x), double.local(x), double(x), list(double.map([x, x + 1]))

    assert fib.remote(5) == 5
    assert both.remote(3) == (6, 6, 6, [6, 8])


def test_a_function_has_its_name_in_a_worker_too(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function
    def own() -> list[str]:
        names = [own.__name__, own.__qualname__, own.__module__]  # type: ignore[attr-defined]
        return [*names, add.__name__]  # type: ignore[attr-defined]

    assert own.remote() == own.local()


def test_a_long_wait_says_once_what_it_waits_for() -> None:
    said: list[str] = []

    class Output:
        notice = staticmethod(said.append)

    answer = SingleAnswer(cast("Any", Output()), "f")
    for reason in ("", "a worker is starting", "no free CPU"):
        answer.progressed(CallProgress(CallId("fc-1"), 0, 0, 0, reason))
    assert said == ["notebook_ext: waits: a worker is starting"]


def test_functions_travel_as_references(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function
    def give() -> Any:
        return add

    assert give.remote() is add
    unknown = referenced(add.key.__class__("x/y/z"), "z", "m")
    assert not unknown.has_code
    with pytest.raises(InvalidError, match="another process"):
        unknown.remote()
    with pytest.raises(InvalidError, match="another process"):
        unknown.get_raw_f()
    with pytest.raises(InvalidError, match="another process"):
        unknown.with_options(timeout=1)


def test_the_callers_surroundings(
    live: nb.App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @live.function(env={"FROM_OPTION": "o"})
    def look() -> tuple[str, str | None, str | None]:
        import os
        from pathlib import Path

        return str(Path.cwd()), os.environ.get("FROM_CALL"), os.environ.get("FROM_OPTION")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_CALL", "c")
    assert look.remote() == (str(tmp_path), "c", "o")
    monkeypatch.delenv("FROM_CALL")
    assert look.remote() == (str(tmp_path), None, "o")


def test_where_we_are(live: nb.App) -> None:
    @live.function
    def where() -> tuple[bool, str | None, str | None]:
        import notebook_ext as nb

        return nb.is_local(), nb.current_function_call_id(), nb.current_input_id()

    local, call, single = where.remote()
    assert not local
    assert call is not None
    assert single == f"in-{call.removeprefix('fc-')}-0"
    assert (nb.is_local(), nb.current_function_call_id(), nb.current_input_id()) == (
        True,
        None,
        None,
    )


def test_the_pool(live: nb.App) -> None:
    @live.function(scaledown_window=2)
    def warm(x: int) -> int:
        return x

    assert warm.keep_warm(2).min_containers == 2
    assert warm.get_current_stats().num_total_runners == 2
    settings = warm.update_autoscaler(max_containers=3, scaledown_window=5)
    assert (settings.min_containers, settings.max_containers) == (2, 3)
    assert warm.autoscaler.settings() == settings == warm.update_autoscaler()
    assert warm.autoscaler.update(min_containers=0).min_containers == 0
    with pytest.raises(InvalidError, match="min_containers"):
        warm.keep_warm(-1)


def test_variants_have_pools_of_their_own(add: nb.Function[..., int]) -> None:
    variant = add.with_options(timeout=5, retries=2)
    assert variant.remote(1) == 2
    assert variant.key != add.key
    assert variant.version == add.version
    assert variant.with_options(timeout=6).key != variant.key
    assert add.with_options(timeout=5, retries=2).key == variant.key


def test_functions_without_a_module(live: nb.App) -> None:
    scope: dict[str, Any] = {"live": live, "k": 4}
    exec("@live.function\ndef shifted(x):\n    return x + k\n", scope)  # noqa: S102
    assert scope["shifted"].remote(1) == 5
    assert live.function(str.upper).remote("a") == "A"


def test_variables_that_are_no_text_stay_here(
    live: nb.App, add: nb.Function[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    @live.function
    def read(name: str) -> str | None:
        import os

        return os.environ.get(name)

    monkeypatch.setenv("NOT_TEXT", "\udcff")
    monkeypatch.setenv("TEXT", "é")
    assert (add.remote(1), read.remote("NOT_TEXT"), read.remote("TEXT")) == (2, None, "é")


def test_methods_are_refused(live: nb.App) -> None:
    class Thing:
        @live.function
        def method(self) -> None: ...

    assert isinstance(Thing.method, Function)
    with pytest.raises(InvalidError, match="method"):
        _ = Thing().method


def test_arguments_of_a_spawned_call_are_as_they_were(live: nb.App) -> None:
    numpy = pytest.importorskip("numpy")

    @live.function
    def first(array: Any) -> int:
        return int(array[0])

    array = numpy.ones(100_000)
    call = first.spawn(array)
    array[:] = 7
    assert call.get() == 1


@pytest.mark.clock
def test_a_warm_call_is_quick(add: nb.Function[..., int]) -> None:
    add.remote(1)
    began = time.monotonic()
    for _ in range(50):
        add.remote(1)
    assert time.monotonic() - began < 5


def test_threads_of_an_input_belong_to_it(live: nb.App, add: nb.Function[..., int]) -> None:
    @live.function(max_containers=1)
    def fan(n: int) -> list[int]:
        from concurrent.futures import ThreadPoolExecutor

        if n == 0:
            return [1]
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(fan.remote, [n - 1] * 2))
        return [add.remote(sum(each), b=0) for each in found]

    assert fan.remote(3) == [4, 4]
