import asyncio
import pickle
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError, NotFoundError


def test_a_name_asks_nobody_and_travels() -> None:
    found = nb.Function.from_name("looked-up", "f")
    assert repr(found) == "<Function looked-up/f, deployed>"
    assert pickle.loads(pickle.dumps(found)).key == found.key == "deployed/looked-up/f"
    assert nb.Function.from_name("looked-up", tag="f", environment_name=None).key == found.key


def test_the_name_of_a_class_asks_nobody_and_travels() -> None:
    found = nb.Cls.from_name("looked-up", "Model")
    assert repr(found) == "<Cls looked-up/Model, deployed>"
    assert pickle.loads(pickle.dumps(found)).key == found.key == "deployed/looked-up/Model"
    assert nb.Cls.from_name("looked-up", tag="Model", environment_name=None).key == found.key
    with pytest.raises(InvalidError, match="name=3: allowed is"):
        nb.Cls.from_name("a", 3)


def test_a_class_of_a_user_may_use_the_names() -> None:
    class Model:
        @classmethod
        def from_name(cls, name: str) -> str:
            return name

        @classmethod
        def lookup(cls) -> str:
            return "found"

    made: Any = nb.App().cls()(Model)
    assert (made.from_name("x"), made.lookup()) == ("x", "found")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "f"), "app_name='': allowed is a non-empty str"),
        (("a/b", "f"), "app_name='a/b': allowed is"),
        (("a",), "name=None: allowed is"),
        (("a", 3), "name=3: allowed is"),
    ],
)
def test_what_is_no_name_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        nb.Function.from_name(*arguments)


def test_one_name_is_enough() -> None:
    with pytest.raises(InvalidError, match="tag='g': name='f' was given too; allowed is one"):
        nb.Function.from_name("a", "f", tag="g")
    with pytest.raises(InvalidError, match=r"nmae='f': allowed in Function\.from_name"):
        nb.Function.from_name("a", "f", nmae="f")


@pytest.mark.usefixtures("live")
def test_looking_up_asks_at_once(loop: asyncio.Runner) -> None:
    with pytest.raises(NotFoundError, match="no app 'nowhere' is deployed"):
        nb.Function.lookup("nowhere", "f")
    with pytest.raises(NotFoundError, match="no app 'nowhere' is deployed"):
        loop.run(nb.Function.lookup.aio("nowhere", "f"))
    with pytest.raises(NotFoundError, match="no app 'nowhere' is deployed"):
        nb.Cls.lookup("nowhere", "Model")
    with pytest.raises(NotFoundError, match="no app 'nowhere' is deployed"):
        loop.run(nb.Cls.lookup.aio("nowhere", "Model"))
