"""API.md section 1, classes: `@app.cls`, `enter`, `exit`, `method`, `parameter`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import Lines, in_both_ways
from tests.acceptance.cells import typed, value
from tests.acceptance.conftest import HEAD, ScriptRunner
from tests.acceptance.places import Place
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

DEFINE = f"""
{HEAD}
import os
SCALE = 1

@app.cls(max_containers=2)
class Model:
    name: str = nb.parameter(default="base")
    size: int = nb.parameter(default=2)

    @nb.enter(snap=True)
    def load(self):
        self.loaded_in = os.getpid()

    @nb.enter()
    async def to_device(self):
        self.entered_in = os.getpid()

    @nb.method()
    def run(self, x):
        return SCALE * x * self.size

    @nb.method()
    async def describe(self):
        return f"{{self.name}}-{{self.size}}"

    @nb.method()
    def items(self, count):
        yield from range(self.size, self.size + count)

    @nb.method()
    async def items_async(self, count):
        for each in range(count):
            yield each

    @nb.method()
    def where(self):
        assert self.entered_in == os.getpid() != self.loaded_in
        return self.loaded_in

    @nb.method()
    def both(self, x):
        return self.run(x), self.run.remote(x), Model("inside", 7).run.remote(x)

@app.cls()
class Plain:
    def __init__(self, name, sizes=()):
        self.name, self.sizes = name, sizes

    @nb.method()
    def get(self):
        return self.name, self.sizes

model = Model("mine", 3)
"""

LINES = {
    "Model(...).method.remote": ("model.run.remote(2) == 6", "await model.run.remote.aio(2) == 6"),
    "the method of a default instance": (
        "Model().run.remote(2) == 4",
        "await Model().describe.remote.aio() == 'base-2'",
    ),
    "positional arguments with parameters": (
        "Model('fine-tuned-model').describe.remote() == 'fine-tuned-model-2'",
        "await Model('x', size=9).describe.remote.aio() == 'x-9'",
    ),
    "a plain __init__ with picklable arguments": (
        "Plain('fine-tuned-model').get.remote() == ('fine-tuned-model', ())",
        "await Plain('x', sizes=[1, {'a': 2}]).get.remote.aio() == ('x', [1, {'a': 2}])",
    ),
    "one pool per distinct parameter set": (
        "model.where.remote() == Model('mine', 3).where.remote() != Model('b').where.remote()",
        "await model.where.remote.aio() == await Model(size=3, name='mine').where.remote.aio()",
    ),
    "method.map and method.starmap": (
        "[*model.run.map(range(3)), *model.run.starmap([(1,)])] == [0, 3, 6, 3]",
        "[each async for each in model.run.map.aio(range(3))] == [0, 3, 6]",
    ),
    "method.for_each": (
        "model.run.for_each([1, 2]) is None",
        "await model.run.for_each.aio([1, 2]) is None",
    ),
    "method.spawn": (
        "model.run.spawn(5).get() == 15",
        "await (await model.run.spawn.aio(5)).get.aio() == 15",
    ),
    "method.spawn_map": (
        "list(model.run.spawn_map([1, 2]).iter()) == [3, 6]",
        "[each async for each in model.run.spawn_map([1, 2]).iter.aio()] == [3, 6]",
    ),
    "method.remote_gen": (
        "[*model.items.remote_gen(2), *model.items_async.remote_gen(2)] == [3, 4, 0, 1]",
        "[each async for each in model.items.remote_gen.aio(2)] == [3, 4]",
    ),
    "method.spawn of a generator": (
        "list(model.items.spawn(2).get_gen()) == [3, 4]",
        "[each async for each in model.items_async.spawn(2).get_gen.aio()] == [0, 1]",
    ),
    "calling it runs it here; .local": (
        "(model.run(2), model.run.local(3)) == (6, 9)",
        "await model.describe() == await model.describe.local() == 'mine-3'",
    ),
    "self.other() and self.other.remote() in a method": (
        "model.both.remote(1) == (3, 3, 7)",
        "await model.both.remote.aio(1) == (3, 3, 7)",
    ),
    "keep_warm on an instance": (
        "model.keep_warm(1).min_containers == 1",
        "(await model.keep_warm.aio(0)).min_containers == 0",
    ),
    "update_autoscaler on an instance": (
        "model.update_autoscaler(max_containers=2).max_containers == 2",
        "(await model.update_autoscaler.aio(buffer_containers=0)).buffer_containers == 0",
    ),
    "get_current_stats on an instance": (
        "(model.run.remote(1), model.get_current_stats().num_total_runners >= 1) == (3, True)",
        "(await model.get_current_stats.aio()).backlog == 0",
    ),
    "Cls.with_options": (
        "Model.with_options(timeout=5)('o', 4).run.remote(1) == 4",
        "await Model.with_options(cpu=0.5)('o', 4).run.remote.aio(1) == 4",
    ),
}
of_each_line = pytest.mark.parametrize("line", LINES)


@pytest.fixture(scope="module")
def defined(notebook: PlainKernel) -> PlainKernel:
    """Return the kernel with the classes."""
    typed(notebook, DEFINE)
    return notebook


@of_each_line
def test_in_a_cell(defined: PlainKernel, line: str) -> None:
    blocking, awaited = LINES[line]
    typed(defined, f"assert {blocking}\nassert {awaited}")


def test_in_a_script(run_script: ScriptRunner) -> None:
    run_script(in_both_ways(DEFINE, LINES))


def test_instances_and_methods_as_captured_globals(defined: PlainKernel) -> None:
    """Inside a function that itself runs on a worker: classes, instances and methods."""
    typed(
        defined,
        """
        run = model.run
        @app.function()
        def outer(x):
            made_here = Model("made there", 4)
            return model.run.remote(x), run.remote(x), made_here.run.remote(x), made_here.run(x)
        assert outer.remote(1) == (3, 3, 4, 4)
        """,
    )


def test_instances_methods_and_classes_as_arguments(defined: PlainKernel) -> None:
    """Passing an instance, a method or a class to a function that does not name it works."""
    typed(
        defined,
        """
        @app.function()
        def apply(method, instance, kind, x):
            return method.remote(x), instance.run.remote(x), kind("there", 4).run.remote(x)
        assert apply.remote(model.run, model, Model, 1) == (3, 3, 4)
        assert list(apply.map([model.run], [model], [Model], [2])) == [(6, 6, 8)]
        assert apply.spawn(model.run, model, Model, 1).get() == (3, 3, 4)
        """,
    )


def test_an_instance_as_an_argument_keeps_its_changed_settings(defined: PlainKernel) -> None:
    """Where it arrives, only the settings of its class are known."""
    typed(defined, "@app.function()\ndef runs(one, x):\n    return one.run.remote(x)")
    typed(defined, "kept = Model('kept')\nchanged = kept.update_autoscaler(max_containers=1)")
    assert value(defined, "runs.remote(kept, 1)") == 2
    in_force = "kept._pool.pool_stats().join().settings.max_containers"
    assert value(defined, f"changed.max_containers, {in_force}") == (1, 1)


def test_a_changed_global_of_a_method_reloads_nothing(defined: PlainKernel) -> None:
    """`enter` runs again only if something that it or the parameters reach has changed."""
    typed(
        defined,
        """
        HOOK, METHOD = 1, 1
        @app.cls(max_containers=1)
        class Counting:
            @nb.enter()
            def load(self):
                self.hook, self.pid = HOOK, os.getpid()
            @nb.method()
            def run(self):
                return self.hook, METHOD, self.pid
        first = Counting().run.remote()
        METHOD = 2
        second = Counting().run.remote()
        assert second == (1, 2, first[2])
        HOOK = 2
        third = Counting().run.remote()
        assert third[:2] == (2, 2) and third[2] != first[2]
        """,
    )


def test_inheritance_and_super(defined: PlainKernel) -> None:
    """Inheritance, `super()`, properties, static and class methods, hooks base classes first."""
    typed(
        defined,
        """
        class Loads:
            @nb.enter()
            def load(self):
                self.log = ["base"]
            @staticmethod
            def double(x): return 2 * x
            @classmethod
            def kind(cls): return cls.__name__
            @property
            def shown(self): return "-".join(self.log)

        @app.cls()
        class First(Loads):
            @nb.enter()
            def more(self):
                self.log.append("first")
            @nb.method()
            def run(self, x):
                return self.double(x), self.kind(), self.shown

        @app.cls()
        class Second(First):
            @nb.enter()
            def load(self):
                super().load()
                self.log.append("second")
            @nb.method()
            def run(self, x):
                return "over", *super().run(x)

        assert First().run.remote(2) == (4, "First", "base-first")
        assert Second().run.remote(2) == ("over", 4, "Second", "base-second-first")
        assert Second().run(2) == ("over", 4, "Second", "base-second-first")
        """,
    )


@pytest.mark.parametrize("snap", [False, True])
def test_a_failing_enter_is_the_inputs_exception(defined: PlainKernel, snap: bool) -> None:
    """`INIT_FAILURE`: the inputs get that exception; no endless crash loop."""
    cell = defined.run(
        textwrap.dedent(
            f"""
            @app.cls()
            class Broken:
                @nb.enter(snap={snap})
                def load(self):
                    raise OSError("no weights")
                @nb.method()
                def run(self): pass
            Broken().run.remote()
            """
        )
    )
    assert cell.error is not None
    assert (cell.error.name, cell.error.value) == ("OSError", "no weights")
    assert 'raise OSError("no weights")' in cell.error.traceback


def test_startup_timeout_covers_enter(defined: PlainKernel) -> None:
    """`startup_timeout`: seconds for imports and `enter`."""
    cell = defined.run(
        textwrap.dedent(
            """
            import time
            @app.cls(startup_timeout=0.5)
            class Slow:
                @nb.enter()
                def load(self):
                    time.sleep(60)
                @nb.method()
                def run(self): pass
            Slow().run.remote()
            """
        )
    )
    assert cell.error is not None
    assert cell.error.name == "TimeoutError"
    assert "did not start within 0.5 s" in cell.error.value


def test_what_enter_prints_is_shown(defined: PlainKernel) -> None:
    """What hooks write appears below the cell of the first call."""
    cell = typed(
        defined,
        """
        @app.cls()
        class Talking:
            @nb.enter()
            def load(self):
                print("loading")
            @nb.method()
            def run(self): print("running")
        Talking().run.remote()
        """,
    )
    assert cell.stdout.splitlines() == ["loading", "running"]


def test_exit_hooks_run_on_scale_down_and_when_a_version_is_drained(
    defined: PlainKernel, tmp_path: Path
) -> None:
    """`exit` hooks run on scale-down and when a version is drained."""
    source = f"""
        @app.cls(scaledown_window=WINDOW)
        class Closing:
            @nb.exit()
            def close(self):
                open({str(tmp_path)!r} + "/NAME", "w").write("closed")
            @nb.method()
            def run(self): return "NAME"
        assert Closing().run.remote() == "NAME"
    """
    source = textwrap.dedent(source)
    typed(defined, source.replace("WINDOW", "60").replace("NAME", "drained"))
    typed(defined, source.replace("WINDOW", "0.2").replace("NAME", "idle"))
    for name in ("drained", "idle"):
        wait_until((tmp_path / name).exists, 20, f"the exit hook has written {name}")


def test_exit_hooks_run_when_the_broker_ends(own_place: Place, tmp_path: Path) -> None:
    """`exit` hooks run at shutdown."""
    kernel = PlainKernel(tmp_path, own_place.variables)
    try:
        typed(
            kernel,
            f"""
            {HEAD.splitlines()[0]}
            {HEAD.splitlines()[1]}
            @app.cls()
            class Closing:
                @nb.exit()
                def close(self):
                    open({str(tmp_path / "closed")!r}, "w").write("closed")
                @nb.method()
                def run(self): return 1
            Closing().run.remote()
            """,
        )
    finally:
        kernel.close()
    wait_until((tmp_path / "closed").exists, 30, "the exit hook has run")


def test_a_spawned_method_survives_the_broker(own_place: Place, run_script: ScriptRunner) -> None:
    """`spawn`, durable from the moment it returns: parameters and all."""
    script = f"""
import signal, time
{DEFINE}
def main():
    from notebook_ext import process
    broker = process.current().status().join().pid
    calls = [Model("kept", size).run.spawn(2) for size in (5, 6)]
    os.kill(broker, signal.SIGKILL)
    assert nb.gather(*calls) == [10, 12]
    assert calls[0].get() == 10
main()
"""
    run_script(script, own_place.variables)


def test_a_deployed_function_takes_its_classes_along(
    own_place: Place, run_script: ScriptRunner
) -> None:
    """Instances and classes that a deployed function captures go with it."""
    run_script(
        f"""{DEFINE}
@app.function()
def outer(x):
    return model.run.remote(x), Model("there", 4).run.remote(x)
app.deploy()
""",
        own_place.variables,
    )
    run_script(
        "import notebook_ext as nb\n"
        "assert nb.Function.from_name('acceptance', 'outer').remote(1) == (3, 4)",
        own_place.variables,
    )


def test_keep_warm_on_a_method_says_where_it_belongs(defined: PlainKernel) -> None:
    """`keep_warm` on a method: `InvalidError` that says to call it on the instance."""
    cell = defined.run("model.run.keep_warm(2)")
    assert cell.error is not None
    assert cell.error.name == "InvalidError"
    assert "call it on the instance, Model(...).keep_warm(...)" in cell.error.value


def test_the_method_of_a_class_says_that_it_needs_an_instance(defined: PlainKernel) -> None:
    """`Model.method` without an instance: a helpful error."""
    cell = defined.run("Model.run.remote(1)")
    assert cell.error is not None
    assert cell.error.name == "InvalidError"
    assert "Model.run needs an instance" in cell.error.value


def test_parameters_are_values_of_the_instance(defined: PlainKernel) -> None:
    assert value(defined, "model.name, model.size") == ("mine", 3)


SCORED = """
@app.function()
def double(x):
    return 2 * x

@app.function()
def negative(x):
    return -x

@app.cls()
class Inner:
    @nb.method()
    def less(self, x):
        return x - 1

@app.cls(max_containers=2)
class Scored:
    scorer = nb.parameter(default=negative)

    @nb.method()
    def run(self, x):
        return self.scorer.remote(x)

@app.cls(max_containers=2)
class Several:
    def __init__(self, scorers, kind):
        self.scorers, self.kind = scorers, kind

    @nb.method()
    def run(self, x):
        return [each.remote(x) for each in self.scorers] + [self.kind().less.remote(x)]

@app.function()
def asks(one, x):
    return one.run.remote(x), one.run.spawn(x).get()

@app.function()
def makes(scorer, x):
    return Scored(scorer=scorer).run.remote(x)
"""


def test_a_remote_function_is_a_parameter(lines: Lines) -> None:
    lines.run(SCORED)
    lines.run("scored = Scored(scorer=double)")
    assert lines.value("(scored.run.remote(3), Scored().run.remote(3))") == (6, -3)
    assert lines.value("(list(scored.run.map([1, 2])), scored.run.spawn(4).get())") == ([2, 4], 8)
    assert lines.value("Several([double, Inner().less, scored.run], Inner).run.remote(5)") == (
        [10, 4, 10, 4]
    )
    assert lines.value("(asks.remote(scored, 1), asks.remote(Scored(), 1))") == ((2, 2), (-1, -1))
    assert lines.value("(makes.remote(double, 7), scored.run.local(2))") == (14, 4)


def test_a_parameter_is_the_name_of_a_function(lines: Lines) -> None:
    lines.run(SCORED)
    lines.run("scored = Scored(scorer=double)")
    assert lines.value("scored.run.remote(3)") == 6
    lines.run("@app.function()\ndef double(x):\n    return 20 * x")
    assert lines.value("scored.run.remote(3)") == 60


def test_functions_are_parameters_of_deployed_classes(lines: Lines) -> None:
    lines.run("app = nb.App('scored')" + SCORED + "app.deploy()")
    lines.run("found = nb.Cls.from_name('scored', 'Scored')")
    assert lines.value("found().run.remote(3)") == -3
    deployed = "nb.Function.from_name('scored', 'double')"
    assert lines.value(f"found(scorer={deployed}).run.remote(3)") == 6
    failed = lines.fails("found(scorer=double)")
    assert failed.name == "InvalidError"
    assert "double is defined here, and Scored is deployed" in failed.traceback


HOOKED = """
import os
FACTOR = 2

@app.function()
def weights(x):
    return x * FACTOR

@app.function()
def more(x):
    return weights.remote(x) + 1

@app.cls(max_containers=1)
class Hooked:
    name: str = nb.parameter(default="base")

    @nb.enter()
    def load(self):
        self.loaded = weights.remote(len(self.name)), list(weights.map([1, 2])), weights(5)

    @nb.enter()
    async def later(self):
        self.more = await more.remote.aio(10)

    @nb.method()
    def get(self):
        return self.loaded, self.more

@app.function()
def makes(name):
    return Hooked(name).get.remote()

@app.cls()
class Snap:
    @nb.enter(snap=True)
    def load(self):
        weights.remote(1)

    @nb.method()
    def get(self):
        return 1

@app.cls()
class Itself:
    @nb.enter()
    def load(self):
        self.get.remote()

    @nb.method()
    def get(self):
        return 1
"""


def test_an_enter_hook_calls_remote_functions(lines: Lines) -> None:
    lines.run(HOOKED)
    found = ((6, [2, 4], 10), 21)
    assert lines.value("Hooked('abc').get.remote()") == found
    assert lines.value("Hooked('xyz').get.spawn().get()") == found
    assert lines.value("makes.remote('def')") == found


def test_a_kept_warm_instance_calls_functions_before_anybody_calls_it(lines: Lines) -> None:
    lines.run(HOOKED)
    lines.run("warm = Hooked('abc'); settings = warm.keep_warm(1)")
    lines.run("import time\nwhile warm.get_current_stats().num_total_runners < 1: time.sleep(0.01)")
    assert lines.value("warm.get.remote()") == ((6, [2, 4], 10), 21)


def test_the_hooks_of_a_deployed_class_call_functions(lines: Lines) -> None:
    lines.run("app = nb.App('hooked')" + HOOKED + "app.deploy()")
    found = lines.value("nb.Cls.from_name('hooked', 'Hooked')('abc').get.remote()")
    assert found == ((6, [2, 4], 10), 21)


def test_a_hook_that_cannot_call_is_named(lines: Lines) -> None:
    lines.run(HOOKED)
    failed = lines.fails("Snap().get.remote()")
    assert failed.name == "InvalidError"
    assert "weights cannot be called in the hook Snap.load" in failed.traceback
    failed = lines.fails("Itself().get.remote()")
    assert failed.name == "InvalidError"
    assert "Itself calls itself in its own hook Itself.load" in failed.traceback
