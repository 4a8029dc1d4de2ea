"""Classes as the client sees them: pools, versions, local instances, references."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from kernel_worker.errors import InvalidError
from notebook_ext.cls import Cls, is_remote_by_nature
from notebook_ext.instance import Obj
from tests.capture_kit import Notebook

SOURCE = """
import notebook_ext as nb
app = nb.App()
SCALE = 1
FACTOR = 2
def weights(): return FACTOR
@app.cls(min_containers=0)
class Model:
    "Says things."
    kind = "model"
    name: str = nb.parameter(default="base")
    @nb.enter()
    def load(self):
        self.prepare()
        self.entered = getattr(self, "entered", 0) + 1
    def prepare(self):
        self.w = weights()
    @property
    def title(self): return self.name.title() + str(self.entered)
    def plain(self): return "plain"
    @staticmethod
    def static(): return "static"
    @classmethod
    def named(cls): return cls.__name__
    @nb.method()
    def run(self, x): return x * self.w * SCALE
    @nb.method()
    async def later(self, x): return x
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    made.run(SOURCE)
    return made


def pool(instance: Any) -> str:
    return str(instance._pool.read().spec.pool)


def test_equal_parameters_share_a_pool_and_others_do_not(notebook: Notebook) -> None:
    model = notebook["Model"]
    assert pool(model()) == pool(model("base")) == pool(model(name="base"))
    assert pool(model("other")) != pool(model())
    assert model("other")._pool.read().spec.key != model()._pool.read().spec.key


def test_a_variant_has_pools_of_its_own(notebook: Notebook) -> None:
    model = notebook["Model"]
    variant = model.with_options(cpu=2.0, max_containers=3)
    assert pool(variant()) != pool(model())
    spec = variant.with_options(max_containers=4)()._pool.read().spec
    assert (spec.resources.cpu, spec.settings.max_containers) == (2.0, 4)
    with pytest.raises(InvalidError, match=r"Model\.run\.with_options: .* on the class, Model\.wi"):
        model().run.with_options(cpu=1)


def test_what_only_methods_read_reloads_nothing(notebook: Notebook) -> None:
    instance = notebook["Model"]()
    before = instance._pool.read()
    notebook.run("SCALE = 10")
    after = instance._pool.read()
    assert after.snapshot != before.snapshot
    assert after.spec == before.spec
    assert set(after.spec.objects) <= after.objects.keys()


@pytest.mark.parametrize(
    "change",
    [
        "FACTOR = 3",
        "def weights(): return 5",
        "Model.get_raw_f().kind2 = 1; Model.get_raw_f().prepare = lambda self: Model.kind",
    ],
)
def test_what_the_hooks_reach_makes_a_new_version(notebook: Notebook, change: str) -> None:
    instance = notebook["Model"]()
    before = instance._pool.read().spec
    notebook.run(change)
    after = instance._pool.read().spec
    assert after.key == before.key
    assert after.version != before.version
    assert after.pool != before.pool


def test_a_changed_method_makes_a_new_version(notebook: Notebook) -> None:
    before = notebook["Model"]()._pool.read().spec
    notebook.run(SOURCE)
    again = notebook["Model"]()._pool.read().spec
    assert (again.pool, again.version, again.code) == (before.pool, before.version, before.code)
    notebook.run(SOURCE.replace("return x * self.w", "return x + self.w"))
    assert notebook["Model"]()._pool.read().spec.version != before.version


def test_the_class_is_a_class_to_its_readers(notebook: Notebook) -> None:
    model: Any = notebook["Model"]
    assert isinstance(model, Cls)
    assert (model.kind, model.static(), model.named()) == ("model", "static", "Model")
    assert (model.__name__, model.__doc__, model.name) == ("Model", "Says things.", "Model")
    assert (model().kind, model().static()) == ("model", "static")
    assert model.__instancecheck__(model())
    assert model.__instancecheck__(model.get_raw_f()())
    assert not model.__instancecheck__(model.with_options(cpu=2)())
    assert repr(model) == "<Cls __main__.Model>"
    assert repr(model()) == "<instance of Model>"
    assert repr(model().run) == "<method __main__.Model.run>"
    assert not hasattr(model, "_repr_html_")
    with pytest.raises(InvalidError, match=r"Model\.run needs an instance"):
        model.run.remote(1)


def test_a_subclass_inherits_methods_hooks_and_parameters(notebook: Notebook) -> None:
    notebook.run(
        "@app.cls()\nclass Derived(Model):\n    more: int = nb.parameter(default=1)\n"
        "    @nb.method()\n    def run(self, x): return super().run(x) + self.more\n"
    )
    derived = notebook["Derived"]
    assert derived.methods == ("run", "later")
    assert derived("n", 5).run(1) == 7
    assert derived("n", 5)._pool.read().spec.name == "Derived"


def test_references_lead_to_what_is_defined_here(notebook: Notebook) -> None:
    model = notebook["Model"]
    assert pickle.loads(pickle.dumps(model)) is model
    instance = pickle.loads(pickle.dumps(model("x")))
    assert isinstance(instance, Obj)
    assert instance._pool.read() is model("x")._pool.read()
    method = pickle.loads(pickle.dumps(instance.run))
    assert method.key == instance.__remote_reference__()
    assert pickle.loads(pickle.dumps(instance.run.remote)) is not None
    assert pickle.loads(pickle.dumps(instance.keep_warm)) is not None


def test_a_class_that_is_known_by_key_alone_makes_equal_instances(notebook: Notebook) -> None:
    model = notebook["Model"]
    _, arguments = model.__reduce__()
    elsewhere = Cls.reference(*arguments)
    assert elsewhere("x").__remote_reference__() == model("x").__remote_reference__()
    assert not elsewhere.has_code
    assert not elsewhere("x").run.has_code
    with pytest.raises(InvalidError, match="make variants where it is defined"):
        elsewhere.with_options(cpu=2)
    with pytest.raises(InvalidError, match="defined in another process"):
        elsewhere("x").run.remote(1)


MISTAKES = {
    "a function": ("def f(): pass\napp.cls()(f)", r"@app\.cls on f: allowed is a class; use @app"),
    "no class": ("app.cls('x')", r"@app\.cls on 'x': allowed is a class; options are given by"),
    "twice": ("app.cls()(Model)", r"Model is a remote class already; use \.with_options"),
    "@app.function on a method": (
        "class A:\n    @app.function()\n    def run(self): pass\napp.cls()(A)",
        r"A\.run has @app\.function\(\), .* use @nb\.method\(\)",
    ),
    "@app.function on a method, called": (
        "class A:\n    @app.function()\n    def run(self): pass\nA().run",
        r"run is a method, .* decorate it with @nb\.method\(\), and its class with @app\.cls\(\)",
    ),
    "a hook with an argument": (
        "class A:\n    @nb.enter()\n    def load(self, path, *more, k=1): pass\napp.cls()(A)",
        r"@nb\.enter\(\) on A\.load: .* needs path; allowed is self",
    ),
    "is_generator": (
        "app.cls(is_generator=True)",
        "is_generator=True: a class has none; leave",
    ),
    "a generator with retries": (
        "class A:\n    @nb.method()\n    def run(self): yield\napp.cls(retries=1)(A)",
        r"retries=1: A\.run is a generator",
    ),
    "a batched method beside another": (
        (
            "class A:\n    @nb.batched(max_batch_size=2, wait_ms=0)\n    def run(self, x): pass\n"
            "    @nb.method()\n    def also(self): pass\napp.cls()(A)"
        ),
        r"@batched\(max_batch_size=2\) on A\.run: a batched method is the only .* has run, also",
    ),
    "a batched hook": (
        (
            "class A:\n    @nb.batched(max_batch_size=2, wait_ms=0)\n    @nb.enter()\n"
            "    def load(self): pass\napp.cls()(A)"
        ),
        r"@batched\(max_batch_size=2\) on A\.load: it is a hook",
    ),
    "a batched generator": (
        (
            "class A:\n    @nb.batched(max_batch_size=2, wait_ms=0)\n    @nb.method()\n"
            "    def run(self, x): yield"
        ),
        r"@batched on .*run: it is a generator",
    ),
    "a batched concurrent class": (
        (
            "@nb.concurrent(max_inputs=2)\nclass A:\n    @nb.batched(max_batch_size=2, wait_ms=0)\n"
            "    def run(self, x): pass\napp.cls()(A)"
        ),
        r"max_inputs=2: a batched function \(max_batch_size=2\) runs one group at a time",
    ),
    "with_batching with several methods": (
        "Model.with_batching(max_batch_size=2, wait_ms=0)",
        r"Model\.with_batching\(\.\.\.\): a batched method .* this class has run, later",
    ),
    "with_concurrency of nothing": (
        "Model.with_concurrency(max_inputs=0)",
        "max_inputs=0: allowed is an int",
    ),
    "an unknown option": ("app.cls(gpus=1)", r"gpus is no option of a function"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(notebook: Notebook, mistake: str) -> None:
    source, message = MISTAKES[mistake]
    with pytest.raises(InvalidError, match=message):
        notebook.run(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Model.keep_warm(1)", r"keep_warm belongs to an instance.*: Model\(\.\.\.\)\.keep_warm"),
        ("Model().with_options(timeout=3)", r"with_options belongs to the class: Model\.with_opti"),
    ],
)
def test_what_is_looked_for_in_the_wrong_place_says_where_it_is(
    notebook: Notebook, source: str, message: str
) -> None:
    with pytest.raises(AttributeError, match=message):
        notebook.run(source)


def test_a_batched_method_needs_no_other_decorator(notebook: Notebook) -> None:
    notebook.run(
        "class A:\n    @nb.batched(max_batch_size=2, wait_ms=5)\n    def run(self, xs): return xs\n"
        "B = app.cls()(A)\nclass C(A): pass\nC = app.cls()(C)"
    )
    for name in ("B", "C"):
        made = notebook[name]
        assert made.methods == ("run",)
        spec = made()._pool.read().spec
        assert (spec.max_batch_size, spec.batch_wait_seconds) == (2, 0.005)
    assert is_remote_by_nature(notebook["A"])
    notebook.run("class D:\n    @nb.batched(max_batch_size=2, wait_ms=5)\n    def f(self, x): pass")
    assert is_remote_by_nature(notebook["D"])


def test_concurrency_and_batching_make_variants(notebook: Notebook) -> None:
    model = notebook["Model"]
    several = model.with_concurrency(max_inputs=4, target_inputs=2)
    spec = several()._pool.read().spec
    assert (spec.max_inputs, spec.target_inputs) == (4, 2)
    assert several.key != model.key
    notebook.run("@app.cls\nclass One:\n    @nb.method()\n    def run(self, x): return x")
    groups = notebook["One"].with_batching(max_batch_size=3, wait_ms=1)
    assert groups()._pool.read().spec.max_batch_size == 3


def test_the_decorator_may_be_bare(notebook: Notebook) -> None:
    notebook.run("@app.cls\nclass Bare:\n    pass")
    assert isinstance(notebook["Bare"], Cls)
