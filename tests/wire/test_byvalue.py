"""Most of it is shown with real processes, in tests/test_capture.py."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from cloudpickle import cloudpickle

from kernel_worker.errors import DeserializationError
from kernel_worker.wire import byvalue
from tests.capture_kit import Notebook

LOAD = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read()))"


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    monkeypatch.setattr(byvalue, "_definers", [byvalue.define_once])
    return made


def shown_elsewhere(pickled: bytes) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD], input=pickled, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_a_process_that_does_not_know_the_class_makes_it(notebook: Notebook) -> None:
    notebook.run(
        "import enum\nclass A:\n    def __init__(self, x): self.x = x\n"
        "    def __repr__(self): return f'A({self.x})'\n"
        "class E(enum.Enum):\n    ONE = 1\n"
    )
    pickled = byvalue.dumps([notebook["A"](1), notebook["A"](2), notebook["E"].ONE, type(None)])
    assert shown_elsewhere(pickled) == "[A(1), A(2), <E.ONE: 1>, <class 'NoneType'>]"


def test_a_class_that_is_made_has_its_slots(notebook: Notebook) -> None:
    notebook.run(
        "from typing import NamedTuple\n"
        "class A:\n    __slots__ = ('x', '__y')\n"
        "    def __init__(self, x): self.x = self.__y = x\n"
        "    def __repr__(self): return f'{self.x}{self.__y}{hasattr(self, \"__dict__\")}'\n"
        "class B(A):\n    __slots__ = '__dict__'\n"
        "class T(NamedTuple):\n    a: int\n"
    )
    pickled = byvalue.dumps([notebook["A"](1), notebook["B"](2), notebook["T"](3)])
    assert shown_elsewhere(pickled) == "[11False, 22True, T(a=3)]"


def test_a_new_type_of_the_notebook_travels(notebook: Notebook) -> None:
    notebook.run("from typing import NewType\nId = NewType('Id', int)\n")
    assert shown_elsewhere(byvalue.dumps([notebook["Id"]])) == "[__main__.Id]"
    made = byvalue.make_new_type("Id", int, "__main__")
    assert (made.__module__, made.__qualname__, made.__supertype__) == ("__main__", "Id", int)


def test_code_knows_its_file_where_it_arrives(notebook: Notebook) -> None:
    notebook.run("def f(): return 1\n")
    arrived = pickle.loads(byvalue.dumps(notebook["f"]))
    assert arrived.__code__ is not notebook["f"].__code__
    assert arrived.__code__.co_filename == notebook["f"].__code__.co_filename


def test_a_forgotten_class_is_made_again(notebook: Notebook) -> None:
    notebook.run("import enum\nclass A: v = 1\nclass E(enum.Enum):\n    ONE = 1\n    a = A")
    pickled = byvalue.dumps(notebook["E"].ONE)
    for name in ("A", "E"):
        tracker = byvalue.tracker_of(notebook[name])
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop(tracker)
    made = pickle.loads(pickled)
    assert made is type(made).ONE
    assert type(made) is not notebook["E"]
    assert type(made).a.value.v == 1


def test_a_definer_of_ones_own(notebook: Notebook) -> None:
    notebook.run("class A: pass")
    asked: list[type] = []

    def definer(kind: type) -> byvalue.Definition:
        asked.append(kind)
        return byvalue.define(kind)

    byvalue.use_definer(definer)
    byvalue.dumps(notebook["A"]())
    assert asked == [notebook["A"]]


def test_filling_a_class_that_was_not_made_here_does_nothing() -> None:
    class Mine:
        v = 1

    byvalue.fill_class(Mine, ({"v": 2}, {}))
    assert Mine.v == 1


def test_known_classes_are_left_alone(notebook: Notebook) -> None:
    notebook.run("class A:\n    def m(self): return 1")
    kind = notebook["A"]
    back = pickle.loads(byvalue.dumps(kind()))
    method = vars(kind)["m"]
    assert type(back) is kind
    assert vars(kind)["m"] is method


def test_a_class_that_a_value_brought_follows_its_sender(notebook: Notebook) -> None:
    notebook.run("class A: v = 1")
    kind = notebook["A"]
    tracker = byvalue.tracker_of(kind)
    first = byvalue.dumps(kind())
    kind.v = 2
    second = byvalue.dumps(kind())
    byvalue.track(type("Other", (), {}), tracker)
    del kind, notebook.names["A"]
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop(tracker, None)
    made = type(pickle.loads(first))
    assert made.v == 1
    again: Any = pickle.loads(second)
    assert type(again) is made
    assert made.v == 2
    assert type(pickle.loads(second)) is made


def test_definitions_are_made_once_until_the_class_changes(notebook: Notebook) -> None:
    notebook.run("class A: v = 1")
    kind = notebook["A"]
    assert byvalue.define_once(kind) is byvalue.define_once(kind)
    before = byvalue.define_once(kind)
    kind.v = 2
    assert byvalue.define_once(kind) is not before


def test_a_class_that_cannot_be_defined(notebook: Notebook) -> None:
    notebook.names["lock"] = threading.Lock()
    notebook.run("class A:\n    def m(self): return lock")
    kind = notebook["A"]
    with pytest.raises(TypeError, match="lock"):
        byvalue.dumps(kind())
    byvalue.track(kind, "given-by-code")
    pickled = byvalue.dumps(kind())
    assert type(pickle.loads(pickled)) is kind
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop("given-by-code")
    with pytest.raises(DeserializationError, match="only the notebook"):
        pickle.loads(pickled)


def test_dataclass_sentinels_keep_their_identity() -> None:
    for thing in (dataclasses.MISSING, dataclasses.KW_ONLY):
        assert pickle.loads(byvalue.dumps(thing)) is thing


def test_lru_cache(notebook: Notebook) -> None:
    notebook.run(
        "import functools\n@functools.lru_cache(maxsize=3, typed=True)\ndef f(x): return x + 1"
    )
    back = pickle.loads(byvalue.dumps(notebook["f"]))
    assert back(1) == 2
    assert back.cache_parameters() == {"maxsize": 3, "typed": True}
    assert pickle.loads(byvalue.dumps(functools.lru_cache)) is functools.lru_cache


def test_the_shell_is_not_sent() -> None:
    from IPython.core.getipython import get_ipython

    class Shell:
        user_ns = ()

        def get_ipython(self) -> Shell:
            return self

    assert pickle.loads(byvalue.dumps(Shell().get_ipython)) is get_ipython


def test_a_definition_of_cloudpickles_other_kinds_is_left_as_it_is() -> None:
    assert byvalue.class_by_value((len, ("x",))) == (len, ("x",))


def test_objects_that_lie_about_their_type() -> None:
    assert not byvalue.is_class(io.StringIO())
    assert byvalue.is_class(io.StringIO)
