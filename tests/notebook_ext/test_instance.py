"""Instances as the client sees them: pools, local instances, methods, names."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError
from kernel_worker.model import digest_of, is_deployed
from notebook_ext.cls import Cls
from notebook_ext.constructor import Constructor, Shape
from notebook_ext.instance import Method
from tests.capture_kit import Notebook
from tests.notebook_ext.test_cls import SOURCE


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    made.run(SOURCE)
    return made


def test_a_local_instance_is_entered_once(notebook: Notebook) -> None:
    instance = notebook["Model"]("abc")
    assert (instance.run(2), instance.run.local(3), instance.plain()) == (4, 6, "plain")
    assert instance.title == "Abc1"
    assert asyncio.run(instance.later(1)) == 1
    assert instance.name == "abc"


def test_async_hooks_run_here_also_where_a_loop_runs(notebook: Notebook) -> None:
    notebook.run(
        "@app.cls()\nclass Later:\n    @nb.enter()\n    async def load(self): self.x = 1\n"
        "    @nb.method()\n    def get(self): return self.x\n"
        "@app.cls()\nclass Bad:\n    @nb.enter()\n    async def load(self): raise KeyError(1)\n"
        "    @nb.method()\n    def get(self): return self.x\n"
    )

    async def in_a_loop(kind: Any) -> Any:
        return kind().get()

    assert notebook["Later"]().get() == asyncio.run(in_a_loop(notebook["Later"])) == 1
    with pytest.raises(KeyError):
        notebook["Bad"]().get()
    with pytest.raises(KeyError):
        asyncio.run(in_a_loop(notebook["Bad"]))


def test_what_is_no_method_is_explained(notebook: Notebook) -> None:
    instance = notebook["Model"]()
    with pytest.raises(AttributeError, match=r"Model\.load is a hook: workers run it"):
        instance.load()
    with pytest.raises(AttributeError, match=r"no method 'nothing' .* \(there are: run, later\)"):
        instance.nothing()
    assert not hasattr(instance, "_private")


def test_the_pool_belongs_to_the_instance(notebook: Notebook) -> None:
    method = notebook["Model"]().run
    assert isinstance(method, Method)
    remedy = r"Model\.run\.{}: .* call it on the instance, Model\(\.\.\.\)\.{}\("
    for name in ("keep_warm", "update_autoscaler"):
        with pytest.raises(InvalidError, match=remedy.format(name, name)):
            getattr(method, name)(1)
    with pytest.raises(InvalidError, match=remedy.format("autoscaler", "autoscaler")):
        _ = method.autoscaler


def test_settings_outlive_the_instance(live: nb.App) -> None:
    @live.cls()
    class Model:
        @nb.method()
        def run(self) -> int:
            return 1

    Kept: Any = Model  # noqa: N806  as users see it
    changed = Kept().update_autoscaler(scaledown_window=5, max_containers=2)
    assert (changed.scaledown_window_seconds, changed.max_containers) == (5, 2)
    assert Kept().run.remote() == 1
    assert Kept().autoscaler.settings().max_containers == 2
    assert Kept().get_current_stats().num_total_runners == 1
    assert "run" in Kept().run.info().name


def test_methods_may_have_the_names_that_functions_have_for_themselves(live: nb.App) -> None:
    @live.cls()
    class Reader:
        @nb.method()
        def read(self, page: int) -> int:
            return page + 1

        @nb.method()
        def key(self) -> str:
            return "door"

        @nb.method()
        def has_code(self) -> bool:
            return False

    reader: Any = Reader()

    @live.function()
    def asks() -> Any:
        return reader.read.remote(1), reader.key.remote(), reader.has_code.remote()

    assert list(reader.read.map(range(3))) == [1, 2, 3]
    assert asks.remote() == (2, "door", False)


def test_an_instance_of_a_deployed_class_is_a_name_and_its_parameters() -> None:
    shape = Shape(Constructor("Model"), ("run", "items"), ("items",))
    found = nb.Cls.from_name("shop", "Model")
    instance: Any = Cls.reference(found.key, "Model", "deployed", shape).pool(
        Constructor("Model").bound((), {})
    )
    package = instance._package(None)
    (digest,) = package.objects
    assert digest == digest_of(instance.encoded)
    assert package.spec.pool == package.spec.key == f"deployed/shop/Model({digest})"
    assert is_deployed(instance.__remote_reference__())
    assert package.inherited
    assert instance._package(None) is package


def test_functions_among_the_parameters_are_referred_to(notebook: Notebook) -> None:
    notebook.run("@app.function()\ndef f(): pass")
    model, function = notebook["Model"], notebook["f"]
    made = model(name="x")
    assert made._pool.given() == []
    notebook.run(
        "@app.cls\nclass Asks:\n    f = nb.parameter(default=None)\n    @nb.method()\n"
        "    def run(self): return self.f.remote()"
    )
    asks = notebook["Asks"](f=[function, made])
    assert set(asks._pool.given()) == {function, made._pool, model.definition}
    before = asks._pool.read()
    assert before is asks._pool.read()
    assert function in before.references
    notebook.run("@app.function()\ndef f(): return 1")
    again = asks._pool.read()
    assert again is not before
    assert notebook["f"] in again.references
    assert again.spec == before.spec
