"""What is written inside a class, and what is said where it is written elsewhere."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError
from notebook_ext.hooks import MethodDefinition, is_hook

app: Any = nb.App()


def plain() -> None:
    """Is no method."""


class Slotted:
    __slots__ = ()

    @nb.method()
    def run(self, x: int) -> int:
        """Return twice `x`."""
        return 2 * x


MISTAKES = {
    "nb.method without parentheses": (
        lambda: nb.method(plain),
        r"@nb\.method on plain: write it with parentheses, @nb\.method\(\)",
    ),
    "nb.enter without parentheses": (
        lambda: nb.enter(plain),
        r"@nb\.enter on plain: write it with parentheses, @nb\.enter\(\)",
    ),
    "nb.exit without parentheses": (
        lambda: nb.exit(plain),
        r"@nb\.exit on plain: write it with parentheses, @nb\.exit\(\)",
    ),
    "an option by position": (lambda: nb.enter(1), r"@nb\.enter\(1\): options are given by name"),
    "snap is no bool": (lambda: nb.enter(snap="yes"), r"snap='yes'\): allowed is True or False"),  # type: ignore[arg-type]
    "a default by position": (
        lambda: nb.parameter("base"),
        r"nb\.parameter\('base'\): write nb\.parameter\(default='base'\)",
    ),
    "init is no bool": (lambda: nb.parameter(init=1), r"init=1\): allowed is True or False"),  # type: ignore[arg-type]
    "a static method": (
        lambda: nb.method()(staticmethod(plain)),
        r"@nb\.method\(\) on a staticmethod: allowed is a method with self",
    ),
    "a property": (lambda: nb.enter()(property(plain)), r"@nb\.enter\(\) on a property"),  # type: ignore[arg-type]
    "a class": (lambda: nb.method()(Slotted), r"on the class Slotted: use @app\.cls\(\)"),
    "a value": (lambda: nb.exit()(3), r"@nb\.exit\(\) on 3: allowed is a method"),  # type: ignore[arg-type]
    "a method that is a hook": (
        lambda: nb.method()(nb.enter()(lambda self: None)),
        "is a hook already",
    ),
    "a hook that is a method": (
        lambda: nb.enter()(nb.method()(plain)),
        r"plain has @nb\.method\(\), and a hook is not called by users",
    ),
    "@app.function on a method": (
        lambda: app.function()(nb.method()(plain)),
        r"plain is a method, and @app\.function is for plain functions",
    ),
    "@app.function on a hook": (
        lambda: app.function()(nb.enter()(lambda self: None)),
        "is a method, and @app.function is for plain functions",
    ),
    "@app.function on a class": (lambda: app.function()(Slotted), r"use @app\.cls\(\)"),
    "a method outside of a class": (
        lambda: nb.method()(plain).remote(),
        r"plain has @nb\.method\(\) and stands in no class: use @app\.function\(\)",
    ),
    "a method outside of a class, called": (nb.method()(plain), "stands in no class"),
    "a class without @app.cls": (
        lambda: Slotted().run.remote(1),
        r"Slotted\.run runs here only: the class Slotted is not decorated with @app\.cls\(\)",
    ),
    "a method of the plain class": (
        lambda: Slotted.run.remote(1),
        r"\.remote: Slotted\.run needs an instance, .*Slotted\(\.\.\.\)\.run",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(mistake: str) -> None:
    make, message = MISTAKES[mistake]
    with pytest.raises(InvalidError, match=message):
        make()


def test_a_hook_stays_the_function_that_it_is() -> None:
    def load(self: object) -> None:
        """Is a hook."""

    assert nb.enter(snap=True)(load) is load
    assert is_hook(load)
    assert not is_hook(plain)
    assert not is_hook(Slotted.run)


def test_a_method_of_an_instance_that_is_here_runs_here() -> None:
    instance = Slotted()
    assert (instance.run(2), instance.run.local(3)) == (4, 6)
    assert instance.run.get_raw_f()(instance, 1) == 2
    assert "Slotted.run of an instance" in repr(instance.run)
    assert not hasattr(instance.run, "__length_hint__")


def test_a_method_of_a_class_is_its_definition() -> None:
    definition: Any = Slotted.run
    assert isinstance(definition, MethodDefinition)
    assert (definition.__name__, definition.__doc__) == ("run", "Return twice `x`.")
    assert definition(Slotted(), 4) == 8
    assert repr(definition) == "<method Slotted.run>"
    assert not hasattr(definition, "_repr_html_")


def test_a_method_of_an_instance_travels_with_it() -> None:
    assert pickle.loads(pickle.dumps(Slotted().run))(5) == 10


def test_a_parameter_without_a_value_says_so() -> None:
    class Model:
        name: str = nb.parameter()

    with pytest.raises(AttributeError, match="the parameter 'name' has no value yet"):
        Model().name  # noqa: B018  asked for on purpose
    travelled: Any = pickle.loads(pickle.dumps(Model.name))
    assert type(travelled) is type(Model.name)
