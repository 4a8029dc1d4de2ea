"""Instances: parameters on the wire, hooks in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from kernel_worker.errors import DeserializationError, NotFoundError, SerializationError
from kernel_worker.wire import instances
from kernel_worker.wire.instances import ENTER, EXIT, ORDER, SNAP, Parameters


def marked(mark: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, mark, True)
        return function

    return decorate


class Remote:
    """What stands for a method that is called remotely."""

    def __init__(self, raw: Callable[..., Any]) -> None:
        self._raw = raw

    def get_raw_f(self) -> Callable[..., Any]:
        return self._raw


class Base:
    def __init__(self) -> None:
        self.log: list[str] = []

    @marked(ENTER)
    def zeta(self) -> None:
        self.log.append("zeta")

    @marked(ENTER)
    def alpha(self) -> None:
        self.log.append("alpha")

    @marked(ENTER)
    def gone(self) -> None:
        self.log.append("gone")

    @marked(EXIT)
    def close(self) -> None:
        self.log.append("close")


class Derived(Base):
    @marked(ENTER)
    async def beta(self) -> None:
        self.log.append("beta")

    @marked(ENTER)
    def zeta(self) -> None:
        super().zeta()
        self.log.append("zeta of Derived")

    def gone(self) -> None:
        """Is no hook here."""

    @Remote
    def run(self) -> str:
        return "ran"


def finished(coroutine: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_hooks_run_in_the_order_of_the_classes_base_first() -> None:
    assert instances.hooks(Base, ENTER) == ["zeta", "alpha", "gone"]
    assert instances.hooks(Derived, ENTER) == ["zeta", "alpha", "beta"]
    assert instances.hooks(Derived, SNAP) == []


def test_a_hook_with_a_place_of_its_own_runs_there() -> None:
    class Ordered:
        @marked(ENTER)
        def last(self) -> None: ...

        @marked(ENTER)
        def first(self) -> None: ...

        @marked(ENTER)
        def middle(self) -> None: ...

    vars(Ordered)["last"].__dict__[ORDER] = 1
    vars(Ordered)["first"].__dict__[ORDER] = -1
    assert instances.hooks(Ordered, ENTER) == ["first", "middle", "last"]


def test_an_async_hook_is_run_to_its_end() -> None:
    instance = Derived()
    instances.run_hooks(instance, [SNAP, ENTER], finished)
    instances.run_hooks(instance, [EXIT], finished)
    assert instance.log == ["zeta", "zeta of Derived", "alpha", "beta", "close"]


def test_a_method_is_found_behind_its_mark() -> None:
    assert instances.method(Derived, "run")(None) == "ran"
    with pytest.raises(NotFoundError, match=r"Derived has no method 'close' with @nb.method\(\)"):
        instances.method(Derived, "close")
    with pytest.raises(NotFoundError, match="'nothing'"):
        instances.method(Derived, "nothing")


class Made:
    a: object
    b: object

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.given = (args, kwargs)


def test_parameters_travel_and_make_the_same_instance() -> None:
    def pickled(value: object) -> bytes:
        return instances.pickled(value, "x")

    parameters = Parameters(
        (pickled(1),), (("k", pickled([2])),), (("a", pickled("3")), ("b", pickled(None)))
    )
    back = instances.decode(instances.encode(parameters))
    assert back == parameters
    made = instances.construct(Made, back)
    assert (made.given, made.a, made.b) == (((1,), {"k": [2]}), "3", None)


def test_what_is_no_parameters_is_refused() -> None:
    with pytest.raises(DeserializationError, match="no parameters"):
        instances.decode(msgspec.msgpack.encode({"a": 1}))
    with pytest.raises(DeserializationError, match="parameter k cannot be unpickled here"):
        instances.construct(Made, Parameters(kwargs=(("k", b"\x80"),)))


def test_a_parameter_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(SerializationError, match=r"Model\.lock\[0\] \(a _thread.lock\)"):
        instances.pickled([threading.Lock()], "Model.lock")


def test_what_the_main_module_defines_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Config", (), {"__module__": "__main__"})
    import __main__

    monkeypatch.setattr(__main__, "Config", kind, raising=False)
    data = instances.pickled(kind(), "config")
    assert b"cloudpickle" in data or b"defined_class" in data
