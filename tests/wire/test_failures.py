from __future__ import annotations

import asyncio
import linecache
import threading
import traceback
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_worker.errors import ExecutionError, InvalidError
from kernel_worker.wire import failures, payload
from tests.capture_kit import Notebook


class TwoArguments(Exception):  # noqa: N818
    def __init__(self, what: object, detail: object) -> None:
        super().__init__(f"about {what}")
        self.detail = detail


class Doubling(Exception):  # noqa: N818
    def __init__(self, what: object) -> None:
        super().__init__(f"about {what}")


class NotPickled(Exception):  # noqa: N818
    def __init__(self, lock: Any) -> None:
        super().__init__("has a lock", lock)
        self.lock = lock


class Quarrelsome(Exception):  # noqa: N818
    def __new__(cls, *args: object) -> Any:
        if threading.current_thread().name == "other":
            raise ValueError("not here")
        return super().__new__(cls, *args)

    def __str__(self) -> str:
        raise ValueError("no text")


def sent(exc: BaseException) -> Any:
    return failures.rebuild(failures.capture(exc))


def raised(function: Any, *args: object) -> BaseException:
    try:
        function(*args)
    except BaseException as exc:  # noqa: BLE001
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x", 1),
        KeyError("k"),
        FileNotFoundError(2, "none", "/there"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(3),
        SystemExit(4),
        KeyboardInterrupt(),
        ImportError("no", name="n", path="p"),
        TwoArguments("a", {"b": 1}),
        Doubling("a"),
        SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)),
        InvalidError("ours"),
    ],
    ids=repr,
)
def test_same_kind_arguments_and_attributes(exc: BaseException) -> None:
    found = sent(exc)
    assert type(found) is type(exc)
    assert found.args == exc.args
    assert str(found) == str(exc)
    assert vars(found) == vars(exc)
    for name in ("filename", "errno", "start", "value", "code", "name", "path", "lineno"):
        assert getattr(found, name, None) == getattr(exc, name, None)


def test_notes() -> None:
    exc = ValueError(1)
    exc.add_note("one")
    found: Any = failures.rebuild(failures.capture(exc), "input 3")
    assert found.__notes__ == ["one", "input 3"]


def test_cause_context_and_suppression() -> None:
    def chain() -> None:
        try:
            raise KeyError("k")
        except KeyError as error:
            try:
                raise TypeError("t") from error
            except TypeError:
                raise ValueError("v") from None

    found = sent(raised(chain))
    assert found.__cause__ is None
    assert found.__suppress_context__
    context = found.__context__
    assert isinstance(context, TypeError)
    assert isinstance(context.__cause__, KeyError)
    assert context.__cause__ is context.__context__
    assert context.__traceback__ is not None


def test_a_group_whose_member_is_also_its_context() -> None:
    inner = ExceptionGroup("inner", [ValueError(1)])
    outer = ExceptionGroup("outer", [ExceptionGroup("middle", [inner])])
    outer.__context__ = inner
    found = sent(outer)
    assert isinstance(found, ExceptionGroup)
    middle = found.exceptions[0]
    assert isinstance(middle, ExceptionGroup)
    assert middle.exceptions[0] is found.__context__


def test_a_ring_of_contexts_ends() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__context__, two.__context__ = two, one
    found = sent(one)
    assert found.__context__ is not None
    assert found.__context__.__context__ is found


def test_a_long_chain_is_cut() -> None:
    top = exc = ValueError(0)
    for i in range(200):
        exc.__context__ = ValueError(i)
        exc = exc.__context__
    found: BaseException | None = sent(top)
    length = 0
    while found is not None:
        found, length = found.__context__, length + 1
    assert length == 64


class OwnGroup(ExceptionGroup[Exception]):
    pass


@pytest.mark.parametrize("kind", [ExceptionGroup, OwnGroup])
def test_groups_keep_members_with_their_frames(kind: type[ExceptionGroup[Exception]]) -> None:
    def member() -> None:
        raise ValueError("m")

    inner = kind("inner", [raised(member)])  # type: ignore[list-item]
    group = kind("outer", [inner, NotPickled(threading.Lock())])
    found = sent(group)
    assert type(found) is kind
    assert isinstance(found, ExceptionGroup)
    assert found.message == "outer"
    assert [type(one) for one in found.exceptions] == [kind, NotPickled]
    inside = found.exceptions[0]
    assert isinstance(inside, ExceptionGroup)
    (leaf,) = inside.exceptions
    assert "in member" in "".join(traceback.format_exception(leaf))


def test_what_cannot_be_pickled_in_it_becomes_text() -> None:
    found: Any = sent(NotPickled(threading.Lock()))
    assert type(found) is NotPickled
    assert found.args[0] == "has a lock"
    assert "lock" in found.lock
    notes: list[str] = found.__notes__
    assert any("lock (a _thread.lock) cannot be pickled" in note for note in notes)


def test_what_cannot_be_rebuilt_is_told() -> None:
    frame = failures.capture(raised(_raise, Quarrelsome("a")))
    found: list[BaseException] = []
    thread = threading.Thread(target=lambda: found.append(failures.rebuild(frame)), name="other")
    thread.start()
    thread.join()
    (exc,) = found
    assert isinstance(exc, ExecutionError)
    text = str(exc)
    assert "Quarrelsome: <no text: ValueError>" in text
    assert "ValueError: not here" in text
    assert "in _raise" in text
    assert "raise exc" in text


def test_a_class_that_cannot_travel_is_told() -> None:
    class Local(Exception):  # noqa: N818
        lock = threading.Lock()

    found = sent(Local("hello"))
    assert isinstance(found, ExecutionError)
    assert "Local: hello" in str(found)
    assert "cannot pickle '_thread.lock' object" in str(found)


def _raise(exc: BaseException) -> None:
    raise exc


def test_frames_of_which_little_is_known() -> None:
    frames = (failures.Frame("/no/such.py", 3, 0, "f"), failures.Frame("/no/such.py", 7, 9, "g"))
    told = failures.Described("m.E", "why not", frames=frames, why="of course")
    found = failures.rebuild(msgspec.msgpack.encode([told]))
    assert isinstance(found, ExecutionError)
    assert str(found).splitlines() == [
        "m.E: why not",
        "(the exception itself cannot be had here: of course)",
        "Remote traceback:",
        '  File "/no/such.py", line 3, in f',
        '  File "/no/such.py", line 7, in g',
    ]
    assert [line for _, line in traceback.walk_tb(found.__traceback__)] == [3, 7]


@given(st.binary(max_size=60))
def test_any_bytes_are_an_exception(frame: bytes) -> None:
    assert isinstance(failures.rebuild(frame), ExecutionError)


def test_frames_show_the_source_of_cells() -> None:
    notebook = Notebook()
    cell = (
        "def helper(x):\n    return [1 / (x - x)\n            for _ in range(1)]\n\n"
        "def f(x):\n    return 2 + helper(x) * 3\n"
    )
    notebook.run(cell)
    original = raised(notebook["f"], 1)
    assert original.__traceback__ is not None
    original.__traceback__ = original.__traceback__.tb_next
    found = sent(original)
    expected = "".join(traceback.format_exception(original))
    assert "".join(traceback.format_exception(found)) == expected
    assert "^^" in expected
    frames = [frame.f_code for frame, _ in traceback.walk_tb(found.__traceback__)]
    assert [code.co_filename for code in frames] == [notebook.filename(cell)] * len(frames)
    assert frames[0].co_qualname == "f"
    assert frames[0].co_firstlineno == 5


def test_frames_of_a_file_that_only_the_worker_has() -> None:
    notebook = Notebook(pid=77)
    cell = "def f(x):\n    return nothing_here\n"
    notebook.run(cell)
    frame = failures.capture(raised(notebook["f"], 1))
    linecache.cache.pop(notebook.filename(cell))
    found = failures.rebuild(frame)
    assert "    return nothing_here\n" in "".join(traceback.format_exception(found))


def test_a_file_shown_as_another() -> None:
    notebook = Notebook(pid=78)
    cell = "def f(x): return nothing"
    notebook.run(cell)
    failures.show_as(notebook.filename(cell), "/tmp/ipykernel_1/new.py")
    found = sent(raised(notebook["f"], 1))
    assert "/tmp/ipykernel_1/new.py" in "".join(traceback.format_exception(found))
    failures.show_as(notebook.filename(cell), notebook.filename(cell))
    found = sent(raised(notebook["f"], 1))
    assert notebook.filename(cell) in "".join(traceback.format_exception(found))


def test_our_frames_and_the_loops_between_are_hidden() -> None:
    notebook = Notebook(pid=79)
    notebook.run("async def f():\n    import asyncio\n    await asyncio.wait_for(g(), 5)\n")
    notebook.run("async def g(): raise ValueError(1)")
    ours = failures.__file__.replace("failures.py", "ours.py")
    scope: dict[str, Any] = {"asyncio": asyncio, "f": notebook["f"]}
    exec(compile("def go(): asyncio.run(f())", ours, "exec"), scope)  # noqa: S102
    found = sent(raised(scope["go"]))
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(found.__traceback__)]
    assert names == ["raised", "f", "wait_for", "g"]


def test_a_traceback_is_a_value_too() -> None:
    notebook = Notebook(pid=80)
    notebook.run("def risky():\n    raise ValueError(1)\n")
    here = raised(notebook["risky"]).__traceback__
    there: Any = payload.loads(payload.dumps([here]))
    *_, below = traceback.extract_tb(there[0])
    assert (below.name, below.line) == ("risky", "raise ValueError(1)")


def test_runaway_recursion_shows_its_ends() -> None:
    def run_away(n: int) -> int:
        return run_away(n + 1)

    found = sent(raised(run_away, 0))
    assert isinstance(found, RecursionError)
    assert len(list(traceback.walk_tb(found.__traceback__))) == 60


def test_an_exception_that_came_from_afar_goes_on() -> None:
    def f() -> None:
        raise ValueError(1)

    once = raised(f)
    once.__traceback__ = once.__traceback__ and once.__traceback__.tb_next
    twice = sent(sent(once))
    assert traceback.format_exception(twice) == traceback.format_exception(once)


def test_a_line_far_from_its_def() -> None:
    notebook = Notebook(pid=80)
    notebook.run("def f():\n" + "    x = 1\n" * 5000 + "    return " + "y" * 200 + "\n")
    found = sent(raised(notebook["f"]))
    assert found.__traceback__ is not None
    assert list(traceback.walk_tb(found.__traceback__))[-1][1] == 5002


def test_a_summary_unpickles_nothing() -> None:
    assert failures.summary(failures.capture(KeyError("a"))) == "KeyError: 'a'"
    assert failures.summary(failures.capture(ValueError())) == "ValueError"
    assert "cannot be read" in failures.summary(b"\xc1")


def test_a_call_that_does_not_fit_shows_the_definition() -> None:
    def called(x: int) -> int:
        return x

    def frames(exc: BaseException, function: object) -> list[traceback.FrameSummary]:
        rebuilt = failures.rebuild(failures.capture(exc, function))
        return list(traceback.extract_tb(rebuilt.__traceback__))

    (shown,) = frames(TypeError("1 is too many"), called)
    assert (shown.name, shown.line) == ("called", "def called(x: int) -> int:")
    assert shown.lineno == called.__code__.co_firstlineno
    assert frames(TypeError("no code"), len) == []
    assert frames(ExecutionError("ours"), called) == []
