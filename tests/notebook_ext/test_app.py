from __future__ import annotations

import operator
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError


def plain(x: int) -> int:
    return x


def test_bare_and_with_options() -> None:
    app = nb.App("a")
    bare, given = app.function(plain), app.function(timeout=5, name="other")(plain)
    assert (bare.name, given.name) == ("plain", "other")
    assert app.registered_functions == {"plain": bare, "other": given}
    assert bare.key.endswith("/a/plain")
    assert nb.App().function(plain).key.endswith("/-/plain")


def test_secrets_of_the_app_are_those_of_its_functions_and_classes_too() -> None:
    app = nb.App("a", secrets=[nb.Secret.from_dict({"A": "app", "B": "app"})])
    own = [nb.Secret.from_dict({"B": "own"})]

    class Kind:
        pass

    found: list[Any] = [
        app.function(plain),
        app.function(secrets=None, name="none")(plain),
        app.function(secrets=own, name="own")(plain),
        app.cls(secrets=own)(Kind),
    ]
    both = (("A", "app"), ("B", "own"))
    expected = [(("A", "app"), ("B", "app")), (), both, both]
    assert [each._options.secrets for each in found] == expected
    with pytest.raises(InvalidError, match="secrets=<dict>: allowed is a list of Secret"):
        nb.App(secrets={"A": "1"})  # type: ignore[arg-type]


def test_a_bad_option_is_seen_at_the_decorator() -> None:
    with pytest.raises(InvalidError, match="timeout=-1"):
        nb.App().function(timeout=-1)


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (5, "is a function"),
        (nb.App, "is a class"),
        (operator.itemgetter(1), "with a name"),
        (nb.App().function(plain), "already"),
    ],
)
def test_what_cannot_be_a_function(thing: Any, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        nb.App().function(thing)


def test_apps() -> None:
    app = nb.App("n")
    assert app.name == "n"
    assert repr(app) == "App('n')"
    assert repr(nb.App()) == "App()"
    with app.run() as running:
        assert running is app
    assert pickle.loads(pickle.dumps(app)).name == "n"
    for name in ("", "a/b"):
        with pytest.raises(InvalidError, match="slash"):
            nb.App(name)


def test_entrypoints_stay_plain() -> None:
    app = nb.App()
    assert app.local_entrypoint()(plain) is plain
    assert app.local_entrypoint(plain, name="x") is plain
