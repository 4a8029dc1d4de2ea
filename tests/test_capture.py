"""What travels with a function: run in another process, and seen again when it changes."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import math
import os
import pickle
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
from notebook_ext.capture import Captured, Capturer
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

CASES: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "plain": ("def f(x): return x + 1", (1,), 2),
    "helpers and globals": ("K = 3\ndef g(x): return x * K\ndef f(x): return g(x) + 1", (2,), 7),
    "recursion": ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)", (10,), 55),
    "mutual recursion": (
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\nf = odd",
        (7,),
        True,
    ),
    "lambda": ("k = 2\nf = lambda x: x * k", (4,), 8),
    "closure": ("def make(n):\n    def f(x): return x + n\n    return f\nf = make(5)", (1,), 6),
    "shared cell": (
        "def make():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n"
        "    def f(_):\n        up(); up()\n        return n\n    return f\nf = make()",
        (0,),
        2,
    ),
    "nested function": ("K = 2\ndef f(x):\n    def g(): return x * K\n    return g()", (3,), 6),
    "comprehension": ("K = 2\ndef f(n): return [i * K for i in range(n)]", (3,), [0, 2, 4]),
    "partial": (
        "import functools\ndef g(a, b): return a - b\nf = functools.partial(g, b=1)",
        (3,),
        2,
    ),
    "partial of a builtin": ("import functools\nf = functools.partial(pow, 2)", (5,), 32),
    "bound method": (
        "class C:\n    def __init__(self, k): self.k = k\n    def m(self, x): return x * self.k\n"
        "f = C(3).m",
        (2,),
        6,
    ),
    "callable object": ("class C:\n    def __call__(self, x): return x + 2\nf = C()", (1,), 3),
    "class as function": (
        "class C:\n    def __init__(self, x): self.x = x\nf = lambda x: C(x).x",
        (1,),
        1,
    ),
    "async": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1",
        (1,),
        2,
    ),
    "import inside": ("def f(x):\n    import math\n    return math.floor(x)", (1.5,), 1),
    "module global": ("import math as m\ndef f(x): return m.floor(x)", (1.5,), 1),
    "submodule by attribute": (
        "import concurrent.futures\ndef f(x): return concurrent.futures.Future.__name__",
        (1,),
        "Future",
    ),
    "imported function": ("from math import floor\ndef f(x): return floor(x)", (1.5,), 1),
    "defaults": ("def f(x, y=2, *, z=3): return x + y + z", (1,), 6),
    "mutable default": ("def f(x, seen=[]):\n    seen.append(x)\n    return seen", (1,), [1]),
    "sentinel default": (
        "MISSING = object()\ndef f(x, y=MISSING): return y is MISSING",
        (1,),
        True,
    ),
    "function attribute": ("def f(x): return x * f.k\nf.k = 4", (2,), 8),
    "decorated": (
        "import functools\ndef twice(g):\n    @functools.wraps(g)\n    def w(*a): return g(*a) * 2\n"
        "    return w\n@twice\ndef f(x): return x + 1",
        (1,),
        4,
    ),
    "lru_cache": (
        "import functools\n@functools.lru_cache\ndef fib(n): return n if n < 2 else fib(n-1) + fib(n-2)\n"
        "def f(n): return fib(n)",
        (20,),
        6765,
    ),
    "cached function itself": (
        "import functools\n@functools.cache\ndef f(n): return n + 1",
        (1,),
        2,
    ),
    "dispatch by a dict of functions": (
        "def a(x): return x + 1\ndef b(x): return x - 1\ntable = {'a': a, 'b': b}\n"
        "def f(k, x): return table[k](x)",
        ("b", 1),
        0,
    ),
    "method of a captured object": (
        "def h(x): return x * 10\nclass C:\n    def m(self, x): return h(x)\nobj = C()\n"
        "def f(x): return obj.m(x)",
        (2,),
        20,
    ),
    "function in an attribute": (
        "class C: pass\nc = C()\nc.f = lambda x: x + K\nK = 5\ndef f(x): return c.f(x)",
        (1,),
        6,
    ),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int\n    b: list ="
        " dataclasses.field(default_factory=list)\n    c: int = 3\n"
        "def f(x):\n    d = D(x); d.b.append(1)\n    return dataclasses.astuple(dataclasses.replace(d, c=4))",
        (1,),
        (1, [1], 4),
    ),
    "subclass of a dataclass made there": (
        "import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int\n"
        "def f(x):\n    @dataclasses.dataclass\n    class E(D):\n        b: int\n    return E(1, x).b",
        (2,),
        2,
    ),
    "enum": (
        "import enum\nclass Color(enum.Enum):\n    RED = 1\n    BLUE = 2\n    def other(self): return Color.BLUE\n"
        "def f(x): return Color(x).other() is Color['BLUE']",
        (1,),
        True,
    ),
    "flag": (
        "import enum\nclass P(enum.Flag):\n    R = 1\n    W = 2\ndef f(x): return (P.R | P.W).value",
        (1,),
        3,
    ),
    "namedtuple": (
        "import collections, typing\nA = collections.namedtuple('A', 'x y')\n"
        "class B(typing.NamedTuple):\n    x: int\n    y: int = 2\ndef f(x): return A(x, 1).x + B(x).y",
        (1,),
        3,
    ),
    "abstract class": (
        "import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def m(self): ...\n"
        "class B(A):\n    def m(self): return 1\n"
        "def f(x):\n    try: A()\n    except TypeError: return B().m()",
        (1,),
        1,
    ),
    "protocol": (
        "import typing\n@typing.runtime_checkable\nclass S(typing.Protocol):\n    def m(self) -> int: ...\n"
        "class C:\n    def m(self): return 1\ndef f(x): return isinstance(C(), S)",
        (1,),
        True,
    ),
    "generic class": (
        "import typing\nT = typing.TypeVar('T')\nclass Box(typing.Generic[T]):\n"
        "    def __init__(self, v: T) -> None: self.v = v\ndef f(x): return Box[int](x).v",
        (1,),
        1,
    ),
    "super, property, classmethod, staticmethod, slots": (
        "class A:\n    __slots__ = ('v',)\n    def __init__(self, v): self.v = v\n"
        "    @property\n    def p(self): return self.v\n    @classmethod\n    def c(cls, v): return cls(v)\n"
        "    @staticmethod\n    def s(v): return v + 1\n"
        "class B(A):\n    __slots__ = ()\n    def __init__(self, v): super().__init__(v * 2)\n"
        "def f(x): return B.c(B.s(x)).p",
        (1,),
        4,
    ),
    "init_subclass registry": (
        "class Base:\n    registry = {}\n    def __init_subclass__(cls): Base.registry[cls.__name__] = cls\n"
        "class One(Base): pass\ndef f(x): return sorted(Base.registry)",
        (1,),
        ["One"],
    ),
    "metaclass": (
        "class M(type):\n    def __call__(cls, x): return ('made', x)\nclass C(metaclass=M): pass\n"
        "def f(x): return C(x)",
        (1,),
        ("made", 1),
    ),
    "generator helper": (
        "def g(n):\n    yield from range(n)\ndef f(n): return list(g(n))",
        (3,),
        [0, 1, 2],
    ),
    "global that it sets": (
        "model = None\ndef f(x):\n    global model\n    if model is None: model = x\n    return model",
        (3,),
        3,
    ),
    "name of main": ("def f(x): return __name__", (1,), "__main__"),
    "pickle of a notebook class inside": (
        "import pickle\nclass C:\n    v = 1\ndef f(x): return pickle.loads(pickle.dumps(C())).v",
        (1,),
        1,
    ),
    "match": (
        "class P:\n    __match_args__ = ('x',)\n    def __init__(self, x): self.x = x\n"
        "def f(v):\n    match P(v):\n        case P(x): return x",
        (9,),
        9,
    ),
    "set constant": ("def f(x): return x in {'a', 'b', 'c'}", ("b",), True),
    "global statement in a class body": (
        "K = 4\ndef f(x):\n    class C:\n        k = K\n    return C.k",
        (1,),
        4,
    ),
    "string annotations": (
        "import typing\nclass C: pass\ndef f(x: 'C') -> 'C':\n    return typing.get_type_hints(f)['x'] is C",
        (1,),
        True,
    ),
    "logger": (
        "import logging\nlog = logging.getLogger('q')\ndef f(x): return log.name",
        (1,),
        "q",
    ),
    "regular expression": (
        "import re\nr = re.compile('a+')\ndef f(s): return r.match(s).end()",
        ("aab",),
        2,
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_elsewhere_as_here(case: str, notebook: Notebook, child: Child) -> None:
    cell, args, expected = CASES[case]
    notebook.run(cell)
    captured = Capturer(notebook["f"]).read()
    assert child.call(captured, *args) == expected


@pytest.mark.parametrize("case", CASES, ids=str)
def test_running_a_cell_again_keeps_the_version(case: str, notebook: Notebook) -> None:
    cell, _, _ = CASES[case]
    notebook.run(cell)
    first = version(notebook["f"])
    notebook.run(cell)
    assert version(notebook["f"]) == first


def test_versions_agree_between_kernels(notebook: Notebook) -> None:
    here = {}
    for case, (cell, _, _) in CASES.items():
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
        input=json.dumps({case: cell for case, (cell, _, _) in CASES.items()}),
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
        "class P:\n    count = 0\n    def __init__(self, x): self.x = x\n    def get(self): return self.x\n"
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


CHANGES = {
    "global": ("K = 1\ndef f(): return K", "K = 2", 1, 2, True),
    "list in place": ("K = [1]\ndef f(): return sum(K)", "K.append(5)", 1, 6, True),
    "nested dict in place": (
        "K = {'a': {'b': 1}}\ndef f(): return K['a']['b']",
        "K['a']['b'] = 2",
        1,
        2,
        True,
    ),
    "attribute of an object": (
        "class C: pass\nc = C()\nc.x = 1\ndef f(): return c.x",
        "c.x = 2",
        1,
        2,
        True,
    ),
    "class attribute": ("class C:\n    x = 1\ndef f(): return C.x", "C.x = 2", 1, 2, True),
    "function attribute": ("def f(): return f.k\nf.k = 1", "f.k = 2", 1, 2, True),
    "mutable default in place": (
        "def f(k=[1]): return k[0]",
        "f.__defaults__[0][0] = 2",
        1,
        2,
        True,
    ),
    "tuple with a list": ("K = ([1],)\ndef f(): return K[0][0]", "K[0][0] = 2", 1, 2, True),
    "bytearray": ("K = bytearray(b'a')\ndef f(): return K[0]", "K[0] = 98", 97, 98, True),
    "helper": ("def g(): return 1\ndef f(): return g()", "def g(): return 2", 1, 2, False),
    "helper of a helper": (
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def h(): return 2",
        1,
        2,
        False,
    ),
    "helper becomes a value": (
        "def g(): return 1\ndef f(): return g if g == 2 else g()",
        "g = 2",
        1,
        2,
        False,
    ),
    "code replaced in place": (
        "def g(): return 1\ndef f(): return g()",
        "g.__code__ = (lambda: 2).__code__",
        1,
        2,
        False,
    ),
    "method": (
        "class C:\n    def m(self): return 1\ndef f(): return C().m()",
        "C.m = lambda self: 2",
        1,
        2,
        False,
    ),
    "default": ("def g(k=1): return k\ndef f(): return g()", "g.__defaults__ = (2,)", 1, 2, False),
    "function in a list": (
        "def a(): return 1\ndef b(): return 2\nK = [a]\ndef f(): return K[0]()",
        "K[0] = b",
        1,
        2,
        False,
    ),
    "class redefined": (
        "class C:\n    def m(self): return 1\ndef f(): return C().m()",
        "class C:\n    def m(self): return 2",
        1,
        2,
        False,
    ),
}


@pytest.mark.parametrize("case", CHANGES, ids=str)
def test_change_is_seen_by_the_next_read(case: str, notebook: Notebook, child: Child) -> None:
    cell, change, before, after, same_version = CHANGES[case]
    notebook.run(cell)
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    assert child.call(first) == before
    notebook.run(change)
    second = capturer.read()
    assert child.call(second) == after
    assert (second.version == first.version) is same_version


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
    "table = {'a': [1, Lock()]}\ndef f(): return table": r"^global 'table'\['a'\]\[1\] \(a _thread\.lock\)",
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
    from kernel_worker.wire.bundle import Bundle  # noqa: PLC0415

    assert msgspec.msgpack.decode(captured.objects[captured.code], type=Bundle).is_async
