"""API.md section 2: `app.deploy()`, `Function.from_name` and `Function.lookup`."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place
from tests.conftest import KernelStarter
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

SHOP = """
import notebook_ext as nb
app = nb.App("shop")
factor = 10

@app.function(max_containers=2)
def price(x):
    return factor * x

@app.function(name="total")
def add_up(xs):
    return sum(price.map(xs))

@app.function()
def apply(function, x):
    return function.remote(x)

@app.function()
def each(n):
    for at in range(n):
        yield factor * at

@app.function()
def first(n):
    return 0 if n == 0 else 1 + first.remote(n - 1)

@app.cls(max_containers=2)
class Model:
    name: str = nb.parameter(default="base")

    @nb.enter()
    def load(self):
        self.loaded = self.name.upper()

    @nb.method()
    def run(self, x):
        return self.loaded, factor * x

    @nb.method()
    def priced(self, x):
        return price.remote(x) + self.run.remote(x)[1]

    @nb.method()
    def items(self, n):
        yield from range(n)
"""
FIND = """
import notebook_ext as nb
price = nb.Function.from_name("shop", "price")
total = nb.Function.lookup("shop", tag="total")
Model = nb.Cls.from_name("shop", "Model")
model = Model("x")
"""
LINES = {
    "remote": ("price.remote(4) == 40", "await price.remote.aio(4) == 40"),
    "spawn": ("price.spawn(4).get() == 40", "await (await price.spawn.aio(4)) == 40"),
    "map": (
        "list(price.map([1, 2])) == [10, 20]",
        "[x async for x in price.map.aio([1, 2])] == [10, 20]",
    ),
    "starmap": (
        "list(price.starmap([(1,), (2,)])) == [10, 20]",
        "[x async for x in price.starmap.aio([(1,)])] == [10]",
    ),
    "for_each": ("price.for_each([1]) is None", "await price.for_each.aio([1]) is None"),
    "spawn_map": (
        "list(price.spawn_map([1, 2]).iter()) == [10, 20]",
        "(await price.spawn_map.aio([1])).num_inputs() == 1",
    ),
    "nested calls": ("total.remote([1, 2, 3]) == 60", "await total.remote.aio([5]) == 50"),
    "keep_warm and the settings in force": (
        "price.keep_warm(0).max_containers == price.autoscaler.settings().max_containers == 2",
        "(await price.keep_warm.aio(0)).max_containers == 2",
    ),
    "get_current_stats": (
        "price.get_current_stats().backlog == 0",
        "(await price.get_current_stats.aio()).backlog == 0",
    ),
    "local and get_raw_f": (
        "price.local(3) == price(3) == price.get_raw_f()(3) == 30",
        "price.local(1) == 10",
    ),
    "local of one that calls another": ("total.local([1, 2]) == 30", "total([5]) == 50"),
    "as an argument": (
        "nb.Function.from_name('shop', 'apply').remote(price, 2) == 20",
        "await nb.Function.from_name('shop', 'apply').remote.aio(total, [1, 2]) == 30",
    ),
    "version and info": (
        "price.info().version == price.version and price.info().signature == '(x)'",
        "price.info().name == 'price'",
    ),
    "remote_gen": (
        "list(nb.Function.from_name('shop', 'each').remote_gen(3)) == [0, 10, 20]",
        "[x async for x in nb.Function.from_name('shop', 'each').remote_gen.aio(2)] == [0, 10]",
    ),
    "a spawned generator": (
        "list(nb.Function.lookup('shop', 'each').spawn(2).get_gen()) == [0, 10]",
        "[x async for x in nb.Function.lookup('shop', 'each').spawn(2).get_gen.aio()] == [0, 10]",
    ),
    "lookup of the newest names": (
        "nb.Function.lookup('shop', 'first', environment_name=None).remote(3) == 3",
        "await (await nb.Function.lookup.aio('shop', 'first')).remote.aio(2) == 2",
    ),
    "a method of a class": (
        "Model('x').run.remote(1) == ('X', 10)",
        "await model.run.remote.aio(1) == ('X', 10)",
    ),
    "parameters have defaults, and are values": (
        "Model().run.remote(1) == ('BASE', 10) and model.name == 'x'",
        "await Model(name='n').run.remote.aio(2) == ('N', 20)",
    ),
    "a method that calls a function and another method": (
        "model.priced.remote(1) == 20",
        "await model.priced.remote.aio(2) == 40",
    ),
    "map, spawn and remote_gen of a method": (
        (
            "(list(model.run.map([1, 2])), model.run.spawn(1).get(),"
            " list(model.items.remote_gen(2)))"
            " == ([('X', 10), ('X', 20)], ('X', 10), [0, 1])"
        ),
        "[x async for x in model.items.remote_gen.aio(3)] == [0, 1, 2]",
    ),
    "local of a method": (
        "model.run.local(1) == model.run(1) == ('X', 10)",
        "model.run(0)[1] == 0",
    ),
    "keep_warm, the autoscaler and stats of an instance": (
        (
            "model.keep_warm(0).max_containers == model.autoscaler.settings().max_containers == 2"
            " and model.get_current_stats().backlog == 0"
        ),
        "(await model.keep_warm.aio(0)).max_containers == 2",
    ),
    "methods, instances and classes as arguments": (
        "nb.Function.from_name('shop', 'apply').remote(model.run, 2) == ('X', 20)",
        "await nb.Function.from_name('shop', 'apply').remote.aio(Model('y').run, 1) == ('Y', 10)",
    ),
    "lookup of a class": (
        "nb.Cls.lookup('shop', tag='Model', environment_name=None)('z').run.remote(0)[0] == 'Z'",
        "await (await nb.Cls.lookup.aio('shop', 'Model'))('z').run.remote.aio(0) == ('Z', 0)",
    ),
}
of_each_line = pytest.mark.parametrize("line", LINES)


@pytest.fixture(scope="module")
def finder(notebook: PlainKernel, tmp_path_factory: pytest.TempPathFactory) -> PlainKernel:
    """Return a kernel that has looked up what another kernel, which is gone, has deployed."""
    other = PlainKernel(tmp_path_factory.mktemp("deploying"))
    try:
        typed(other, SHOP)
        assert (
            typed(other, "app.deploy()").result
            == "<Deployment shop v1: price, total, apply, each, first, Model>"
        )
    finally:
        other.close()
    typed(notebook, FIND)
    return notebook


@of_each_line
def test_in_a_cell(finder: PlainKernel, line: str) -> None:
    assert value(finder, LINES[line][0]) is True


@of_each_line
def test_aio(finder: PlainKernel, line: str) -> None:
    assert value(finder, LINES[line][1]) is True


@pytest.mark.usefixtures("finder")
def test_in_a_script(run_script: ScriptRunner) -> None:
    checks = "\n".join(f"assert {sync}, {line!r}" for line, (sync, _) in LINES.items())
    assert run_script(f"{FIND}\n{checks}\nprint('all')") == "all\n"


def test_a_function_that_was_looked_up_travels_inside_another(finder: PlainKernel) -> None:
    typed(finder, "@app.function()\ndef twice(x):\n    return 2 * price.remote(x)")
    assert value(finder, "twice.remote(3)") == 60


def test_what_is_not_deployed_is_named_with_the_nearest(finder: PlainKernel) -> None:
    for line in ("nb.Function.lookup('shop', 'pice')", "price_.remote(1)"):
        typed(finder, "price_ = nb.Function.from_name('shop', 'pice')")
        error = finder.run(line).error
        assert error is not None
        assert error.name == "NotFoundError"
        assert "no function 'pice'" in error.value
        assert "nearest: price" in error.value
    error = finder.run("nb.Function.lookup('shp', 'x')").error
    assert error is not None
    assert "nearest: shop" in error.value


def test_a_class_that_is_not_there_is_named_with_the_nearest(finder: PlainKernel) -> None:
    lines = {
        "nb.Cls.lookup('shop', 'Modl')": ("NotFoundError", "no such class; nearest: Model"),
        "nb.Cls.from_name('shop', 'Modl')('x')": ("NotFoundError", "nearest: Model"),
        "nb.Cls.lookup('shp', 'Model')": ("NotFoundError", "nearest: shop"),
        "nb.Cls.lookup('shop', 'price')": ("InvalidError", "a function: use Function.from_name"),
        "nb.Function.lookup('shop', 'Model')": ("InvalidError", "is a class: use Cls.from_name"),
        "nb.Function.from_name('shop', 'Model').remote(1)": ("InvalidError", "Model is a class"),
        "nb.Function.from_name('shop', 'Model').keep_warm(1)": ("InvalidError", "Model is a class"),
        "Model(1, 2)": ("InvalidError", "Model has 1 parameters (name), and 2 were given"),
        "model.rum.remote(1)": ("AttributeError", "there are: run, priced, items"),
        "model.items.remote(1)": ("InvalidError", "items is a generator"),
        "Model.with_options(cpu=2)": ("InvalidError", "Model is deployed; make variants where"),
    }
    for line, (name, text) in lines.items():
        error = finder.run(line).error
        assert error is not None, line
        assert (error.name, text in error.value) == (name, True), error.value


def test_an_instance_that_was_looked_up_travels_inside_a_function(finder: PlainKernel) -> None:
    typed(
        finder, "@app.function()\ndef scored(x):\n    return model.run.remote(x), Model('q').name"
    )
    assert value(finder, "scored.remote(3)") == (("X", 30), "q")


def test_redeploying_a_class_drains_its_instances(
    start_kernel: KernelStarter, tmp_path: Path
) -> None:
    define = textwrap.dedent(
        """
        import notebook_ext as nb, time, pathlib
        app = nb.App("drained class")

        @app.cls(max_containers=1)
        class Which:
            {1}: str = nb.parameter(default="d")

            @nb.method()
            def which(self, flag=""):
                while flag and not pathlib.Path(flag).exists():
                    time.sleep(0.01)
                return {0}

        deployed = app.deploy()
        """
    )
    deploying, calling = start_kernel(), start_kernel()
    typed(deploying, define.format(1, "name"))
    typed(calling, "import notebook_ext as nb\nWhich = nb.Cls.from_name('drained class', 'Which')")
    typed(calling, "it = Which()\nother = Which('o')")
    assert value(calling, "it.which.remote(), other.which.remote(), other.keep_warm(1) and 0") == (
        (1, 1, 0)
    )
    flag = str(tmp_path / "flag")
    typed(calling, f"old = it.which.spawn({flag!r})")
    typed(deploying, define.format(2, "name"))
    assert value(calling, "it.which.remote(), Which('n').which.remote()") == (2, 2)
    typed(calling, f"open({flag!r}, 'w').close()")
    assert value(calling, "old.get(), it.which.remote()") == (1, 2)
    # The floor of the instance went with its version, and nobody has called it since.
    assert value(calling, "other.get_current_stats().num_total_runners") == 0
    typed(deploying, define.format(3, "label"))
    assert value(calling, "Which(label='l').which.remote()") == 3
    error = calling.run("Which(name='n')").error
    assert error is not None
    assert "name is no parameter. There are: label" in error.value


def test_a_generator_that_is_called_for_a_value_is_named_as_one(finder: PlainKernel) -> None:
    typed(finder, "each = nb.Function.from_name('shop', 'each')")
    for line in ("each.remote(1)", "each.spawn(1)", "list(each.map([1]))"):
        error = finder.run(line).error
        assert error is not None
        assert error.name == "InvalidError"
        assert "each is a generator" in error.value
        assert "call .remote_gen(...)" in error.value


def test_options_of_what_is_deployed_are_given_where_it_is_defined(finder: PlainKernel) -> None:
    error = finder.run("price.with_options(timeout=3)").error
    assert error is not None
    assert "price.with_options(timeout=3): price is deployed; give its options where" in error.value


def test_redeploying_drains_the_old_version_and_nobody_looks_up_again(
    start_kernel: KernelStarter, tmp_path: Path
) -> None:
    define = textwrap.dedent(
        """
        import notebook_ext as nb, time, pathlib
        app = nb.App("drained")

        @app.function(max_containers=1)
        def which(flag=""):
            while flag and not pathlib.Path(flag).exists():
                time.sleep(0.01)
            return {0}

        deployed = app.deploy(tag="{0}")
        """
    )
    deploying, calling = start_kernel(), start_kernel()
    typed(deploying, define.format(1))
    typed(calling, "import notebook_ext as nb\nwhich = nb.Function.from_name('drained', 'which')")
    assert value(calling, "which.remote()") == 1
    flag = str(tmp_path / "flag")
    typed(calling, f"old = which.spawn({flag!r})")
    typed(deploying, define.format(2))
    assert value(deploying, "deployed.version, deployed.tag") == (2, "2")
    assert value(calling, "which.remote()") == 2
    typed(calling, f"open({flag!r}, 'w').close()")
    assert value(calling, "old.get(), which.remote()") == (1, 2)


def test_the_same_name_in_two_notebooks_collides_only_where_it_is_deployed(
    start_kernel: KernelStarter,
) -> None:
    one, two = start_kernel(), start_kernel()
    for kernel, number in ((one, 1), (two, 2)):
        typed(kernel, f"import notebook_ext as nb\napp = nb.App('same')\nnumber = {number}")
        typed(kernel, "@app.function()\ndef f():\n    return number")
        typed(kernel, "app.deploy()")
    assert value(one, "f.remote(), nb.Function.from_name('same', 'f').remote()") == (1, 2)
    assert value(two, "f.remote(), nb.Function.from_name('same', 'f').remote()") == (2, 2)


def test_it_outlives_a_killed_broker_and_an_idle_exit(
    own_place: Place, run_script: ScriptRunner
) -> None:
    run_script(f"{SHOP}\napp.deploy()", own_place.variables)
    call = (
        f"{FIND}\nprint(price.remote(2), total.remote([1, 2]), price.keep_warm(0).min_containers)"
    )
    os.kill(own_place.broker_pid(), signal.SIGKILL)
    assert run_script(call, own_place.variables) == "20 30 0\n"
    of_class = f"{FIND}\nprint(model.run.remote(2), model.priced.remote(1))"
    assert run_script(of_class, own_place.variables) == "('X', 20) 20\n"
    # No floor: the broker leaves, and the next client starts one.
    wait_until(lambda: own_place.broker() is None, what="the idle broker leaves")
    assert run_script(call, own_place.variables) == "20 30 0\n"


def test_a_floor_belongs_to_the_deployment_and_comes_back_with_the_broker(
    own_place: Place, run_script: ScriptRunner
) -> None:
    run_script(f"{SHOP}\napp.deploy()", own_place.variables)
    run_script(f"{FIND}\nprice.keep_warm(1); model.keep_warm(1)", own_place.variables)
    pid = own_place.broker_pid()
    os.kill(pid, signal.SIGKILL)
    warm = f"""{FIND}
import time
for floor in (price, model):
    while floor.get_current_stats().num_total_runners < 1:
        time.sleep(0.01)
assert Model("other").autoscaler.settings().min_containers == 0
assert model.autoscaler.settings().min_containers == 1
print(price.autoscaler.settings().min_containers)
"""
    assert run_script(warm, own_place.variables) == "1\n"
    run_script(f"{SHOP}\napp.deploy()", own_place.variables)
    assert (
        run_script(
            f"{FIND}\nprint(price.autoscaler.settings().min_containers)", own_place.variables
        )
        == "0\n"
    )


def test_the_floor_of_a_class_is_kept_for_its_instance_without_arguments(
    own_place: Place, run_script: ScriptRunner
) -> None:
    define = """
import notebook_ext as nb
app = nb.App("floors")

@app.cls(min_containers=1)
class Ready:
    name: str = nb.parameter(default="base")

    @nb.method()
    def run(self):
        return self.name

@app.cls(min_containers=1)
class Needy:
    def __init__(self, name):
        pass

print(app.deploy().functions)
"""
    assert run_script(define, own_place.variables) == "('Ready', 'Needy')\n"
    find = """
import notebook_ext as nb, time
Ready = nb.Cls.from_name("floors", "Ready")
while Ready().get_current_stats().num_total_runners < 1:
    time.sleep(0.01)
print(Ready().run.remote())
"""
    assert run_script(find, own_place.variables) == "base\n"
