import asyncio
from typing import Any

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError


@pytest.mark.parametrize(
    ("app", "given", "message"),
    [
        (nb.App(), {}, r"deploy\(name=None\): allowed is a non-empty str"),
        (nb.App("x"), {"name": "a/b"}, r"deploy\(name='a/b'\): allowed is"),
        (nb.App("x"), {"tag": 3}, r"deploy\(tag=3\): allowed is a str"),
        (nb.App("x"), {}, r"deploy\(name='x'\): the app has no functions"),
        (nb.App("x"), {"nmae": "y"}, "nmae='y': allowed in deploy"),
    ],
)
def test_what_cannot_be_deployed(app: nb.App, given: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        app.deploy(**given)


@pytest.mark.usefixtures("live")
def test_it_says_what_was_deployed(loop: asyncio.Runner) -> None:
    app = nb.App("said")

    @app.function
    def one() -> int:
        return 1

    @app.function(name="two")
    def other() -> int:
        return 1 + one.remote()

    first = app.deploy(show_progress=False)
    again = loop.run(app.deploy.aio(tag="again"))
    assert again.version == first.version + 1
    assert again.functions == (one.name, "two")
    assert again.tag == "again"
    assert repr(again) == f"<Deployment said v{again.version}: {one.name}, two>"
    assert nb.Function.from_name("said", "two").remote() == 2
    assert app.deploy(name="other name").app == "other name"


@pytest.mark.usefixtures("live")
def test_a_class_is_deployed_and_goes_along_with_the_functions_that_use_it() -> None:
    app = nb.App("with a class")

    @app.cls()
    class Model:
        name: str = nb.parameter(default="base")

        @nb.method()
        def size(self) -> int:
            return len(self.name)

    @app.function(name="size")
    def size(name: str) -> int:
        made: Any = Model
        found: int = made(name=name).size.remote()
        return found

    made: Any = Model
    assert app.deploy().functions == ("size", made.name)
    assert nb.Function.from_name("with a class", "size").remote("abc") == 3
    assert nb.Cls.from_name("with a class", made.name)("ab").size.remote() == 2


def test_a_name_is_a_function_or_a_class() -> None:
    app = nb.App("ambiguous")

    @app.function(name="Model")
    def model() -> None:
        """Do nothing."""

    app.cls()(type("Model", (), {}))
    with pytest.raises(InvalidError, match="'Model' is a function and a class of the app"):
        app.deploy()
