import asyncio
import pickle

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError, NotFoundError


def test_a_name_asks_nobody_and_travels() -> None:
    found = nb.Function.from_name("looked-up", "f")
    assert repr(found) == "<Function looked-up/f, deployed>"
    assert pickle.loads(pickle.dumps(found)).key == found.key == "deployed/looked-up/f"
    assert nb.Function.from_name("looked-up", tag="f", environment_name=None).key == found.key


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
