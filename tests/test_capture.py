"""What travels with a function: run in another process, and seen again when it changes."""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from kernel_worker.errors import SerializationError
from kernel_worker.model import Environment
from notebook_ext.capture import Captured, Capturer, tokens
from tests.capture_kit import Child, Notebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    return made


@pytest.fixture
def child() -> Iterator[Child]:
    with Child() as made:
        yield made


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(str(tmp_path)):
            del sys.modules[name]


def version(function: Callable[..., Any]) -> str:
    return Capturer(function).read().version


# ---- what runs ------------------------------------------------------------------------------

FOLDER = Path(__file__).parent


def sections(name: str) -> dict[str, str]:
    """Return the sections of a file of cells, by what follows their `# %%`."""
    parts = re.split(r"^# %% (.+)\n", (FOLDER / name).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def notes(cell: str, kind: str) -> list[Any]:
    """Return the literals in the comments of this kind."""
    return [ast.literal_eval(text) for text in re.findall(rf"^# {kind}: (.+)$", cell, re.MULTILINE)]


CASES = sections("capture_cells.txt")
CHANGES = sections("capture_changes.txt")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_elsewhere_as_here(case: str, notebook: Notebook, child: Child) -> None:
    (args,), (expected,) = notes(CASES[case], "call"), notes(CASES[case], "gives")
    notebook.run(CASES[case])
    captured = Capturer(notebook["f"]).read()
    assert child.call(captured, *args) == expected


@pytest.mark.parametrize("case", CASES, ids=str)
def test_running_a_cell_again_keeps_the_version(case: str, notebook: Notebook) -> None:
    notebook.run(CASES[case])
    first = version(notebook["f"])
    notebook.run(CASES[case])
    assert version(notebook["f"]) == first


def test_versions_agree_between_kernels(notebook: Notebook) -> None:
    here = {}
    for case, cell in CASES.items():
        there = Notebook(pid=1)
        sys.modules["__main__"] = there.module
        there.run(cell)
        here[case] = version(there["f"])
    script = (
        "import json, sys\nfrom notebook_ext.capture import Capturer\n"
        "from tests.capture_kit import Notebook\n"
        "out = {}\n"
        "for case, cell in json.load(sys.stdin).items():\n"
        "    n = Notebook(pid=99); sys.modules['__main__'] = n.module; n.run(cell)\n"
        "    out[case] = Capturer(n['f']).read().version\n"
        "print(json.dumps(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )
    assert json.loads(done.stdout) == here


def test_builtins_and_installed_functions(child: Child) -> None:
    assert child.call(Capturer(math.sqrt).read(), 4.0) == 2.0
    assert child.call(Capturer(len).read(), "abc") == 3
    assert child.call(Capturer(json.dumps).read(), [1]) == "[1]"
    assert child.call(Capturer(int).read(), "7") == 7


def test_function_made_by_exec(child: Child) -> None:
    names: dict[str, Any] = {"k": 2}
    exec("def g(x): return x * k\ndef f(x): return g(x) + 1", names)  # noqa: S102
    assert child.call(Capturer(names["f"]).read(), 3) == 7


def test_future_annotations_of_the_notebook(notebook: Notebook, child: Child) -> None:
    notebook.run("class C: pass\ndef f(x: C) -> Undefined: return f.__annotations__", future=True)
    assert child.call(Capturer(notebook["f"]).read(), 1) == {"x": "C", "return": "Undefined"}


def test_numpy_arrays_arrive_writable(notebook: Notebook, child: Child) -> None:
    pytest.importorskip("numpy")
    notebook.run(
        "import numpy as np\nbig = np.zeros(300_000)\nsmall = np.zeros(3)\n"
        "def f(x):\n    global big\n    big += 1\n    small[0] += 1\n    x += 1\n"
        "    return float(big.sum() + small.sum() + x.sum())"
    )
    captured = Capturer(notebook["f"]).read()
    assert captured.imports == ("numpy",)
    assert child.call(captured, notebook["np"].zeros(100_000)) == 400_001.0


# ---- identity -------------------------------------------------------------------------------


def test_instances_keep_their_class_both_ways(notebook: Notebook, child: Child) -> None:
    notebook.run(
        "class P:\n    count = 0\n    def __init__(self, x): self.x = x\n"
        "    def get(self): return self.x\n"
        "def f(p): return isinstance(p, P), P(p.x + 1), P"
    )
    kind = notebook["P"]
    methods = _attributes(kind)
    inside, back, kind_back = child.call(Capturer(notebook["f"]).read(), kind(1))
    assert inside
    assert type(back) is kind
    assert kind_back is kind
    assert back.get() == 2
    assert _attributes(kind) == methods, "the notebook's class was written to"


def _attributes(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if name != "__slotnames__"}


def test_using_a_class_keeps_the_version(notebook: Notebook) -> None:
    notebook.run("class P: pass\nclass Q(P):\n    x: int = 1\ndef f(): return P(), Q()")
    first = version(notebook["f"])
    pickle.dumps(notebook["P"]())
    typing.get_type_hints(notebook["P"])
    assert notebook["P"].__annotations__ == {}
    assert version(notebook["f"]) == first


def test_instances_keep_their_class_after_the_cell_ran_again(
    notebook: Notebook, child: Child
) -> None:
    cell = "class P: pass\ndef f(): return P()"
    notebook.run(cell)
    child.call(Capturer(notebook["f"]).read())
    notebook.run(cell)
    assert type(child.call(Capturer(notebook["f"]).read())) is notebook["P"]


def test_a_class_whose_methods_reach_what_cannot_leave_the_worker(
    notebook: Notebook, child: Child
) -> None:
    notebook.run(
        "import threading\nlock = None\nclass P:\n    def m(self): return lock\n"
        "def f():\n    global lock\n    lock = threading.Lock()\n    return P()"
    )
    assert type(child.call(Capturer(notebook["f"]).read())) is notebook["P"]


def test_an_argument_class_that_changes_is_seen(notebook: Notebook, child: Child) -> None:
    notebook.run("K = 1\nclass P:\n    def m(self): return K\ndef f(p): return p.m()")
    captured = Capturer(notebook["f"]).read()
    assert child.call(captured, notebook["P"]()) == 1
    notebook.names["K"] = 2
    assert child.call(captured, notebook["P"]()) == 2
    notebook.run("P.m = lambda self: 3")
    assert child.call(captured, notebook["P"]()) == 3


def test_a_class_that_only_the_arguments_know(notebook: Notebook, child: Child) -> None:
    notebook.run("class P:\n    def m(self): return 5\ndef f(p): return p, p.m()")
    back, five = child.call(Capturer(notebook["f"]).read(), notebook["P"]())
    assert type(back) is notebook["P"]
    assert five == 5


def test_remote_exception_is_caught_by_its_class(notebook: Notebook, child: Child) -> None:
    notebook.run(
        "class MyError(Exception):\n    def __init__(self, a, b):\n        super().__init__(a)\n"
        "        self.b = b\ndef f(x): raise MyError(x, 2)"
    )
    with pytest.raises(notebook["MyError"]) as caught:
        child.call(Capturer(notebook["f"]).read(), 1)
    assert caught.value.args == (1,)
    assert caught.value.b == 2


def test_enum_members_are_singletons_both_ways(notebook: Notebook, child: Child) -> None:
    notebook.run(
        "import enum\nclass C(enum.Enum):\n    A = 1\n    B = 2\ndef f(c): return c is C.A, C.B"
    )
    same, other = child.call(Capturer(notebook["f"]).read(), notebook["C"].A)
    assert same
    assert other is notebook["C"].B


# ---- what is seen at the next call ----------------------------------------------------------


def test_unchanged_is_the_same_object(notebook: Notebook) -> None:
    notebook.run("K = [1]\ndef g(): return K\ndef f(): return g()")
    capturer = Capturer(notebook["f"])
    assert capturer.read() is capturer.read()


@pytest.mark.parametrize("case", CHANGES, ids=str)
def test_change_is_seen_by_the_next_read(case: str, notebook: Notebook, child: Child) -> None:
    before, after = notes(CHANGES[case], "gives")
    cell, what, change = re.split(r"^# then: (\w+)\n", CHANGES[case], flags=re.MULTILINE)
    notebook.run(cell)
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    assert child.call(first) == before
    notebook.run(change)
    second = capturer.read()
    assert child.call(second) == after
    assert (second.version == first.version) is (what == "values")


def test_closure_value_is_seen(notebook: Notebook, child: Child) -> None:
    notebook.run(
        "def make():\n    n = 1\n    def f(): return n\n    def set_(v):\n        nonlocal n\n"
        "        n = v\n    return f, set_\nf, set_ = make()"
    )
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    assert child.call(first) == 1
    notebook["set_"](2)
    second = capturer.read()
    assert child.call(second) == 2
    assert first.version == second.version


def test_a_global_set_by_the_worker_survives_until_that_name_changes(
    notebook: Notebook, child: Child
) -> None:
    notebook.run(
        "model = None\nthreshold = 1\ndef load(): \n    global model\n    model = 'loaded'\n"
        "def f():\n    if model is None: load()\n    return model, threshold"
    )
    capturer = Capturer(notebook["f"])
    assert child.call(capturer.read()) == ("loaded", 1)
    notebook.names["threshold"] = 2
    notebook.run("def f2(): return model")
    assert child.call(capturer.read()) == ("loaded", 2)
    notebook.names["model"] = "mine"
    assert child.call(capturer.read()) == ("mine", 2)


def test_a_global_of_a_worker_survives(notebook: Notebook, child: Child) -> None:
    notebook.run("n = 0\nk = 1\ndef f():\n    global n\n    n += 1\n    return n * k")
    capturer = Capturer(notebook["f"])
    assert [child.call(capturer.read()) for _ in range(3)] == [1, 2, 3]
    notebook.names["k"] = 10
    assert child.call(capturer.read()) == 40


def test_a_name_that_is_defined_later(notebook: Notebook, child: Child) -> None:
    notebook.run("def f(): return later() + much_later")
    capturer = Capturer(notebook["f"])
    with pytest.raises(NameError, match="later"):
        child.call(capturer.read())
    notebook.run("def later(): return 1")
    with pytest.raises(NameError, match="much_later"):
        child.call(capturer.read())
    notebook.run("much_later = 2")
    assert child.call(capturer.read()) == 3


def test_a_deleted_name_is_gone(notebook: Notebook, child: Child) -> None:
    notebook.run("K = 1\ndef f(): return K")
    capturer = Capturer(notebook["f"])
    assert child.call(capturer.read()) == 1
    del notebook.names["K"]
    with pytest.raises(NameError):
        child.call(capturer.read())


def test_a_name_that_shadows_a_builtin_later(notebook: Notebook, child: Child) -> None:
    notebook.run("def f(): return len('ab')")
    capturer = Capturer(notebook["f"])
    assert child.call(capturer.read()) == 2
    notebook.run("def len(x): return 7")
    assert child.call(capturer.read()) == 7


def test_large_array_changed_in_place_is_seen_and_not_pickled_again(
    notebook: Notebook, child: Child
) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\nbig = np.zeros(400_000)\ndef f(): return float(big.sum())")
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    assert child.call(first) == 0.0
    assert capturer.read() is first
    notebook["big"][7] = 3
    assert child.call(capturer.read()) == 3.0


def test_a_large_value_is_an_object_of_its_own_for_all_who_capture_it(
    notebook: Notebook, child: Child
) -> None:
    notebook.run(
        "text, small = 'a' * 1_100_000, 1\n"
        "def f(): return text[-1], small\ndef g(): return text[:2]"
    )
    capturer = Capturer(notebook["f"])
    first, other = capturer.read(), Capturer(notebook["g"]).read()
    assert len(first.stored) == 1
    assert first.stored == other.stored
    assert len(first.objects[first.snapshot]) < 1_000
    notebook.run("small = 2")
    again = capturer.read()
    assert again.snapshot != first.snapshot
    assert again.handles == first.handles
    assert child.call(again) == ("a", 2)


def test_what_a_class_captures_stays_in_its_snapshot(notebook: Notebook) -> None:
    notebook.run("text = 'a' * 1_100_000\nclass C:\n    def f(self): return text")
    captured = Capturer(notebook["C"]).read()
    assert captured.stored == {}
    assert len(captured.objects[captured.snapshot]) > 1_000_000


def test_a_change_elsewhere_in_the_cell_keeps_the_version(notebook: Notebook) -> None:
    notebook.run("def f(): return 1\n# a comment")
    first = version(notebook["f"])
    notebook.run("def f(): return 1\n# another")
    assert version(notebook["f"]) == first


def test_options_make_another_version(notebook: Notebook) -> None:
    notebook.run("def f(): return 1")
    plain, other = Capturer(notebook["f"]), Capturer(notebook["f"], b"image")
    assert plain.read().version != other.read().version


# ---- modules --------------------------------------------------------------------------------


def test_local_modules_travel_and_edits_run_next(
    module_folder: Path, notebook: Notebook, child: Child
) -> None:
    package = module_folder / "mylib"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from .core import go\n")
    (package / "core.py").write_text("from .deep import tail\ndef go(): return 'one' + tail.END\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "tail.py").write_text("END = '!'\n")
    notebook.run("import mylib\ndef f(): return mylib.go(), mylib.core.__file__")
    capturer = Capturer(notebook["f"])
    with Child(cwd=Path("/")) as elsewhere:
        first = capturer.read()
        assert elsewhere.call(first) == ("one!", str(package / "core.py"))
    (package / "deep" / "tail.py").write_text("END = '??'\n")
    second = capturer.read()
    assert child.call(second)[0] == "one??"
    assert first.version != second.version
    assert "mylib" not in second.imports


def test_a_module_imported_only_inside_the_function(
    module_folder: Path, notebook: Notebook
) -> None:
    (module_folder / "lazy_one.py").write_text("import json\nV = 6\n")
    notebook.run("def f():\n    from lazy_one import V\n    return V")
    captured = Capturer(notebook["f"]).read()
    with Child(cwd=Path("/")) as elsewhere:
        assert elsewhere.call(captured) == 6


def test_a_module_that_is_written_later(
    module_folder: Path, notebook: Notebook, child: Child
) -> None:
    notebook.run("def f():\n    import late_one\n    return late_one.V")
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    for text in ("V = 6\n", "V = 66\n"):
        (module_folder / "late_one.py").write_text(text)
        later = capturer.read()
        assert later is not first
        assert f"V = {child.call(later)}\n" == text


def test_function_of_a_local_module_is_by_reference(module_folder: Path, child: Child) -> None:
    path = module_folder / "local_fn.py"
    path.write_text("K = 1\ndef g(): return K\ndef f(): return g()\n")
    module = importlib.import_module("local_fn")
    capturer = Capturer(module.f)
    assert child.call(capturer.read()) == 1
    path.write_text("K = 20\ndef g(): return K + 2\ndef f(): return g()\n")
    with Child() as second:
        assert second.call(capturer.read()) == 22


def test_decorated_function_of_a_local_module(module_folder: Path, child: Child) -> None:
    path = module_folder / "decorated_fn.py"
    path.write_text(
        "class Remote:\n"
        "    def __init__(self, raw): self.raw = raw\n"
        "    def get_raw_f(self): return self.raw\n"
        "    def __remote_reference__(self): return 'key'\n"
        "@Remote\n"
        "def f(): return 5\n"
    )
    module = importlib.import_module("decorated_fn")
    captured = Capturer(module.f.raw).read()
    assert child.call(captured) == 5
    path.write_text(path.read_text().replace("5", "6"))
    with Child() as second:
        assert second.call(Capturer(module.f.raw).read()) == 6


def test_a_local_module_that_cannot_be_parsed_says_so_there(
    module_folder: Path, notebook: Notebook, child: Child
) -> None:
    (module_folder / "broken_one.py").write_text("def (:\n")
    notebook.run("def f():\n    import broken_one")
    with pytest.raises(SyntaxError):
        child.call(Capturer(notebook["f"]).read())


def test_imports_are_installed_modules(notebook: Notebook) -> None:
    pytest.importorskip("sklearn")
    notebook.run(
        "import json\nimport sklearn.svm\nfrom sklearn import tree\nimport numpy as np\n"
        "def f():\n    import msgspec.msgpack\n    import not_there\n"
        "    return json, sklearn.svm.SVC, tree, np"
    )
    found = Capturer(notebook["f"]).read().imports
    assert set(found) >= {"sklearn", "sklearn.svm", "sklearn.tree", "numpy", "msgspec"}
    assert not {"json", "not_there"} & set(found)
    assert found == tuple(sorted(found))


# ---- references, errors, environment --------------------------------------------------------


class Remote:
    """Stands for a remote function."""

    def __init__(self, raw: Callable[..., Any]) -> None:
        self.raw = raw

    def get_raw_f(self) -> Callable[..., Any]:
        return self.raw

    def __remote_reference__(self) -> str:
        return "key"

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("key",)


def test_remote_functions_are_references(notebook: Notebook, child: Child) -> None:
    notebook.names["remote"] = Remote
    notebook.run(
        "lock = __import__('threading').Lock()\n@remote\ndef g(): return lock\n"
        "table = {'g': g}\n@remote\ndef f(): return [str(g), table['g'], str(f)]"
    )
    captured = Capturer(notebook["f"].raw).read()
    assert set(captured.references) == {notebook["f"], notebook["g"]}
    assert child.call(captured) == ["key", "key", "key"]


UNPICKLABLE = {
    "class C: pass\nclient = C()\nclient._lock = Lock()\ndef f(): return client": (
        r"^global 'client'\._lock \(a _thread\.lock\) cannot be pickled"
    ),
    "table = {'a': [1, Lock()]}\ndef f(): return table": (
        r"^global 'table'\['a'\]\[1\] \(a _thread\.lock\)"
    ),
    "def make(x):\n    def f(): return x\n    return f\nf = make(Lock())": (
        r"^closure variable 'x' of make\.<locals>\.f \(a _thread\.lock\)"
    ),
    "def f(x=Lock()): return x": r"^default of f \(a _thread\.lock\)",
}


@pytest.mark.parametrize("cell", UNPICKLABLE)
def test_what_cannot_be_pickled_is_named(cell: str, notebook: Notebook) -> None:
    notebook.names["Lock"] = threading.Lock
    notebook.run(cell)
    with pytest.raises(SerializationError, match=UNPICKLABLE[cell]):
        Capturer(notebook["f"]).read()


def test_what_became_picklable_is_read(notebook: Notebook, child: Child) -> None:
    notebook.names["client"] = threading.Lock()
    notebook.run("def f(): return client")
    capturer = Capturer(notebook["f"])
    with pytest.raises(SerializationError):
        capturer.read()
    notebook.names["client"] = 4
    assert child.call(capturer.read()) == 4


def test_environment_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = Capturer(math.sqrt).read()
    found = msgspec.msgpack.decode(captured.objects[captured.environment], type=Environment)
    assert found.python == sys.executable
    assert "" not in found.path
    assert "JPY_PARENT_PID" not in found.variables
    monkeypatch.syspath_prepend("/somewhere/else")
    assert Capturer(math.sqrt).read().environment != captured.environment


def test_objects_are_under_their_digests(notebook: Notebook) -> None:
    notebook.run("K = 1\ndef f(): return K")
    captured = Capturer(notebook["f"]).read()
    assert set(captured.objects) == {captured.code, captured.environment, captured.snapshot}


def test_capturer_keeps_no_garbage_alive_after_a_change(notebook: Notebook) -> None:
    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

        def __reduce__(self) -> tuple[Any, ...]:
            return int, ()

    notebook.run("def f(): return K")
    notebook.names["K"] = Big()
    capturer = Capturer(notebook["f"])
    capturer.read()
    notebook.names["K"] = 1
    capturer.read()
    gc.collect()
    assert Big.alive == 0


def test_warm_read_is_quick(notebook: Notebook) -> None:
    notebook.run(
        "import math\nA, B, C = 1, 'x', 2.5\ndef g(x): return math.sqrt(x) + A\n"
        "def h(x): return g(x) * C\ndef f(x): return h(x), B"
    )
    capturer = Capturer(notebook["f"])
    capturer.read()
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            capturer.read()
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 40e-6, f"{best * 1e6:.1f} µs"


def test_read_from_many_threads(notebook: Notebook) -> None:
    notebook.run("K = 1\ndef f(): return K")
    capturer = Capturer(notebook["f"])
    found: list[Captured] = []
    threads = [threading.Thread(target=lambda: found.append(capturer.read())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


def test_partial_of_a_method_keeps_kind() -> None:
    async def coroutine(x: int) -> int:
        return x

    captured = Capturer(functools.partial(coroutine, 1)).read()
    from kernel_worker.wire.bundle import Bundle

    assert msgspec.msgpack.decode(captured.objects[captured.code], type=Bundle).is_async


def test_function_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script_one.py"
    (tmp_path / "beside.py").write_text("V = 5\n")
    script.write_text(
        "import sys\nfrom notebook_ext.capture import Capturer\n"
        "from tests.capture_kit import Child\n"
        "from beside import V\nclass C:\n    def __init__(self, x): self.x = x\n"
        "def g(x): return C(x + V)\ndef f(x): return g(x), __name__, __file__\n"
        "if __name__ == '__main__':\n    with Child() as child:\n"
        "        c, name, file = child.call(Capturer(f).read(), 1)\n"
        "    assert type(c) is C and c.x == 6 and name == '__main__' and file == sys.argv[0]\n"
        "    print('fine')\n"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout == "fine\n"


def test_function_of_a_doctest(child: Child) -> None:
    import doctest

    names: dict[str, Any] = {"__name__": "json"}
    text = ">>> k = 2\n>>> def g(x): return x * k\n>>> def f(x): return g(x)\n"
    test = doctest.DocTestParser().get_doctest(text, names, "t", None, None)
    doctest.DocTestRunner().run(test, clear_globs=False)
    assert child.call(Capturer(test.globs["f"]).read(), 4) == 8


IPYTHON = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from kernel_worker.wire import failures
from notebook_ext.capture import Capturer
from tests.capture_kit import Child

shell = InteractiveShell.instance(colors="nocolor")
child = Child()
shell.user_ns["remote"] = lambda f, *a: child.call(Capturer(f).read(), *a)
for cell in sys.stdin.read().split("# %%\\n")[1:]:
    shell.run_cell(cell, store_history=True)
child.__exit__()
"""


def test_ipython_shows_the_line_of_the_cell() -> None:
    cells = (
        "# %%\ndef helper(x):\n    y = x\n    return int(y + 'p')\n"
        "# %%\nclass MyError(Exception): pass\n\ndef f(x):\n    try:\n        return helper(x)\n"
        "    except ValueError as e:\n        raise MyError('oh') from e\n"
        "# %%\nremote(f, 'k')\n"
        "# %%\ntry: remote(f, 'k')\nexcept MyError as e: print('caught', type(e) is MyError)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IPYTHON], input=cells, capture_output=True, text=True, check=True
    )
    text = done.stdout
    assert "Cell In[1], line 3, in helper(" in text, text + done.stderr
    assert "----> 3 return int(y + 'p')" in text
    assert "Cell In[2], line 7, in f(" in text
    assert "raise MyError('oh') from e" in text
    assert "ValueError: invalid literal for int() with base 10: 'kp'" in text
    assert "MyError: oh" in text
    assert "caught True" in text


def test_code_that_is_equal_to_python_is_known_by_its_columns() -> None:
    first, second = (compile(text, "<cell>", "exec") for text in ("x = a", "x  =  a"))
    assert tokens.code(first) != tokens.code(second)
    assert tokens.code(first) == tokens.code(compile("x = a", "<cell>", "exec"))
