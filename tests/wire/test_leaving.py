"""What a cell has left is the notebook's as if it had run there."""

import enum
import threading
import types
from typing import Any

from cloudpickle import cloudpickle

from kernel_worker.wire import byvalue
from kernel_worker.wire.cell import NoLast
from kernel_worker.wire.leaving import pack, unpack


def ran(source: str) -> dict[str, Any]:
    """Return the namespace of a cell that a worker has run."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)  # noqa: S102  the cell of a test
    return namespace


def moved(namespace: dict[str, Any], *names: str, here: dict[str, Any]) -> dict[str, Any]:
    found, refused, _ = pack({name: namespace[name] for name in names}, NoLast, namespace)
    assert refused == {}
    arrived, last = unpack(found.packed, here)
    assert last is NoLast
    return arrived


def test_functions_get_the_globals_of_where_they_arrive() -> None:
    worker = ran("x = 1\ndef f(y=2, *, z=3):\n    'doc'\n    return x, y, z\nf.mark = 4")
    here: dict[str, Any] = {"x": 10}
    f = moved(worker, "f", here=here)["f"]
    assert f() == (10, 2, 3)
    assert f.__globals__ is here
    assert (f.__doc__, f.mark, f.__module__) == ("doc", 4, "__main__")


def test_closures_are_shared_and_may_refer_to_themselves() -> None:
    worker = ran(
        "def make():\n    n = 0\n"
        "    def up():\n        nonlocal n\n        n += 1\n        return n\n"
        "    def get(): return n\n    def again(k): return again(k - 1) if k else 'end'\n"
        "    def later(): return empty\n    if n: empty = 1\n"
        "    return up, get, again, later\nup, get, again, later = make()"
    )
    names = moved(worker, "up", "get", "again", "later", here={})
    assert (names["up"](), names["get"](), names["again"](3)) == (1, 1, "end")


def test_classes_are_of_the_notebook_and_stay_as_they_are() -> None:
    worker = ran("k = 1\nclass A:\n    def m(self): return k\na = A()\nb = A()")
    here: dict[str, Any] = {"k": 10}
    tracker = byvalue.tracker_of(worker["A"])
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop(tracker)  # as in another process
    names = moved(worker, "A", "a", here=here)
    kind = names["A"]
    assert kind is not worker["A"]
    assert type(names["a"]) is kind
    assert names["a"].m() == 10
    kind.m = lambda self: "mine"
    again = moved(worker, "A", "b", here=here)
    assert again["A"] is kind
    assert again["b"].m() == "mine"


def test_enumerations_arrive() -> None:
    worker = ran("import enum\nclass Color(enum.Enum):\n    RED = 1\nred = Color.RED")
    tracker = byvalue.tracker_of(worker["Color"])
    cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.pop(tracker)
    names = moved(worker, "Color", "red", here={})
    assert names["Color"] is not worker["Color"]
    assert names["red"] is names["Color"].RED
    assert isinstance(names["Color"], enum.EnumMeta)


def test_what_has_a_name_elsewhere_is_found_there() -> None:
    worker = ran("import threading\nfrom textwrap import dedent\nT = threading.Thread\nn = int")
    names = moved(worker, "threading", "dedent", "T", "n", here={})
    assert names["threading"] is threading
    assert names["T"] is threading.Thread
    assert names["n"] is int
    assert isinstance(names["dedent"], types.FunctionType)


def test_functions_of_other_namespaces_travel_by_value() -> None:
    other = ran("y = 5\ndef g(): return y")
    worker = ran("")
    worker["g"] = other["g"]
    assert moved(worker, "g", here={"y": 6})["g"]() == 5


def test_objects_that_two_names_share_stay_one() -> None:
    worker = ran("a = []\nb = a")
    names = moved(worker, "a", "b", here={})
    assert names["a"] is names["b"]


def test_what_cannot_travel_is_named_and_the_rest_does() -> None:
    worker = ran("import threading\nlock = threading.Lock()\nd = {'k': [lock]}\nx = 1")
    wanted = {name: worker[name] for name in ("lock", "d", "x")}
    found, refused, travels = pack(wanted, worker["lock"], worker)
    assert sorted(refused) == ["d", "lock"]
    assert "TypeError: cannot pickle '_thread.lock' object" in refused["lock"]
    assert refused["d"].startswith("d['k'][0]")
    assert not travels
    assert unpack(found.packed, {}) == ({"x": 1}, NoLast)
    assert found.packed.kept == ("lock", "d")


def test_a_value_travels_beside_a_name_that_does_not() -> None:
    lock = threading.Lock()
    found, refused, travels = pack({"lock": lock}, 7, {})
    assert list(refused) == ["lock"]
    assert travels
    assert unpack(found.packed, {}) == ({}, 7)


def test_a_name_that_cannot_travel_is_named_where_there_is_no_value() -> None:
    found, refused, travels = pack({"lock": threading.Lock(), "x": 1}, NoLast, {})
    assert list(refused) == ["lock"]
    assert not travels
    assert unpack(found.packed, {}) == ({"x": 1}, NoLast)
