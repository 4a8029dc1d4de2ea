"""What the pickles of code call; that whole functions travel is shown in tests/test_capture.py."""

from __future__ import annotations

import enum
import json
import pickle
import sys
import threading
import types
from typing import Any

import pytest
from cloudpickle import cloudpickle

from kernel_worker.errors import DeserializationError
from kernel_worker.wire import bundle


def test_numbers_mean_an_assembly_while_it_is_in_use() -> None:
    assembly = bundle.Assembly([{"a": 1}], 2)
    assembly.items.append(len)
    numbers = (bundle.NamespaceNumber(0), bundle.CellNumber(1))
    pickled = pickle.dumps(numbers)
    with assembly.in_use():
        names, cell = pickle.loads(pickled)
        assert names is assembly.namespaces[0]
        assert cell is assembly.cells[1]
        assert bundle.item(0) is len
    with pytest.raises(DeserializationError, match="without it"):
        bundle.item(0)


def test_assemblies_nest_and_belong_to_a_thread() -> None:
    outer, inner = bundle.Assembly([], 0), bundle.Assembly([], 0)
    outer.items.append("outer")
    inner.items.append("inner")
    failed: list[bool] = []

    def elsewhere() -> None:
        with pytest.raises(DeserializationError):
            bundle.item(0)
        failed.append(True)

    with outer.in_use():
        with inner.in_use():
            assert bundle.item(0) == "inner"
        assert bundle.item(0) == "outer"
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert failed


def test_a_function_is_made_and_filled() -> None:
    cell = types.CellType(5)

    def template() -> Any:
        return cell

    made = bundle.make_function(template.__code__, {"k": 1}, (cell,))
    bundle.fill_function(made, {"__name__": "f", "__defaults__": (), "__dict__": {"x": 1}})
    assert made() == 5
    assert made.__name__ == "f"
    assert made.x == 1  # type: ignore[attr-defined]


class Plain:
    pass


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize("kind", [Plain, Color])
def test_classes_are_made_untracked(kind: type) -> None:
    make, arguments, state, *_, fill = bundle.untracked_class(
        cloudpickle._dynamic_class_reduce(kind)
    )
    made = make(*arguments)
    fill(made, state)
    assert made is not kind
    assert made.__qualname__ == kind.__qualname__
    assert made not in cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS
    assert bundle.untracked_class((len, ())) == (len, ())


def test_raw_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote:
        def get_raw_f(self) -> Any:
            return len

    module = types.ModuleType("some_module")
    vars(module).update(f=Remote(), g=Plain)
    monkeypatch.setitem(sys.modules, "some_module", module)
    assert bundle.raw_function("some_module", "f") is len
    assert bundle.raw_function("some_module", "f.get_raw_f")() is len
    assert bundle.raw_function("some_module", "g") is Plain


def test_what_stands_in_for_a_module_becomes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xml.dom.minicompat", raising=False)
    assert bundle.modules("json", "xml.dom.minicompat") is json
    assert "xml.dom.minicompat" in sys.modules
    assert bundle.member(json, "loads") is json.loads
    package = types.ModuleType("xml")
    assert bundle.member(package, "dom").__name__ == "xml.dom", "imported where it is not there"


def test_modules_that_may_be_missing() -> None:
    assert bundle.module_or_none("json") is json
    assert bundle.module_or_none("no_such_module") is None
