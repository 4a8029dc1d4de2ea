"""API.md section 2, what a function reads: as it is when the function is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.api.surfaces import Lines

VALUES = {
    "a closure": (
        "def adder(n):\n    def add(x): return x + n\n    return add\nf = app.function(adder(5))",
        "f.remote(1)",
        6,
    ),
    "a lambda": ("f = app.function(name='double')(lambda x: 2 * x)", "f.remote(4)", 8),
    "a partial": (
        "import functools\nf = app.function()(functools.partial(max, 11))",
        "f.remote(1)",
        11,
    ),
    "a builtin": ("f = app.function()(len)", "f.remote([1, 2, 3])", 3),
    "a decorated function": (
        (
            "import functools\n"
            "def loud(g):\n    @functools.wraps(g)\n    def h(*a): return g(*a).upper()\n"
            "    return h\n"
            "@app.function\n@loud\ndef f(x): return x"
        ),
        "f.remote('abc')",
        "ABC",
    ),
    "a dataclass": (
        (
            "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
            "    y: int = 2\n"
            "@app.function\ndef f(p): return Point(p.y, p.x)"
        ),
        "f.remote(Point(1)) == Point(2, 1)",
        True,
    ),
    "a dataclass with slots": (
        (
            "from dataclasses import dataclass\n@dataclass(slots=True)\nclass Slim:\n    x: int\n"
            "    y: int = 2\n"
            "@app.function\ndef f(p): return Slim(p.y, p.x), hasattr(p, '__dict__')"
        ),
        "f.remote(Slim(1)) == (Slim(2, 1), False)",
        True,
    ),
    "an enumeration": (
        (
            "import enum\nclass Colour(enum.Enum):\n    RED = 1\n"
            "@app.function\ndef f(c): return c is Colour.RED and c"
        ),
        "f.remote(Colour.RED) is Colour.RED",
        True,
    ),
    "a named tuple": (
        (
            "from typing import NamedTuple\nclass Pair(NamedTuple):\n    a: int\n    b: int\n"
            "@app.function\ndef f(p): return Pair(p.b, p.a)"
        ),
        "f.remote(Pair(1, 2)) == Pair(2, 1) and type(f.remote(Pair(1, 2))) is Pair",
        True,
    ),
    "a generic class, a protocol, a typed dict and a new type": (
        (
            "from typing import Generic, NewType, Protocol, TypedDict, TypeVar\n"
            "T = TypeVar('T')\nId = NewType('Id', int)\n"
            "class Box(Generic[T]):\n    def __init__(self, v: T): self.v = v\n"
            "class Named(Protocol):\n    name: str\n"
            "class Row(TypedDict):\n    n: int\n"
            "@app.function\ndef f(b: Box[int], n: Named | None = None) -> Row:\n"
            "    return Row(n=Id(b.v))"
        ),
        "f.remote(Box(3))",
        {"n": 3},
    ),
    "a class with its base in another cell": (
        (
            "class Base:\n    def hi(self): return 'base'\n"
            "class Sub(Base):\n    def hi(self): return super().hi() + '+'\n"
            "@app.function\ndef f(): return Sub().hi()"
        ),
        "f.remote()",
        "base+",
    ),
    "a helper that calls a helper": (
        "def a(x): return b(x) + 1\ndef b(x): return x * 10\n@app.function\ndef f(x): return a(x)",
        "f.remote(2)",
        21,
    ),
    "a module under another name": (
        "import json as j\n@app.function\ndef f(x): return j.dumps(x)",
        "f.remote([1])",
        "[1]",
    ),
    "default values": (
        "table = {'a': 1}\n@app.function\ndef f(k, t=table): return t[k]",
        "f.remote('a')",
        1,
    ),
    "another function of the app": (
        "@app.function\ndef inner(x): return x + 1\n@app.function\ndef f(x): return inner.local(x)",
        "f.remote(1)",
        2,
    ),
}


@pytest.mark.parametrize("what", VALUES)
def test_what_a_function_reads_travels(lines: Lines, what: str) -> None:
    define, call, expected = VALUES[what]
    lines.run(f"{define}\nfound = {call}")
    assert lines.value("found") == expected


def test_an_object_of_a_notebooks_class_comes_back_as_that_class(lines: Lines) -> None:
    lines.run(
        """
        class Thing:
            def __init__(self, n): self.n = n
        @app.function
        def f(t):
            t.n += 1
            return t
        first = f.remote(Thing(1))
        second = f.remote(first)
        """
    )
    assert lines.value("type(first) is Thing, type(second) is Thing, second.n") == (True, True, 3)


def test_globals_are_read_when_the_function_is_called(lines: Lines) -> None:
    lines.run(
        """
        level = 1
        rows = []
        @app.function(max_containers=1)
        def f():
            import os
            return level, len(rows), os.getpid()
        first = f.remote()
        level = 2
        rows.append('in place')
        second = f.remote()
        """
    )
    assert lines.value("first[:2], second[:2], first[2] == second[2]") == ((1, 0), (2, 1), True)


def test_a_global_that_the_worker_set_itself_survives_until_the_notebook_changes_it(
    lines: Lines,
) -> None:
    lines.run(
        """
        model = None
        level = 1
        @app.function(max_containers=1)
        def f():
            global model
            model = (model or 0) + level
            return model
        found = [f.remote(), f.remote()]
        level = 10
        found.append(f.remote())
        model = 100
        found.append(f.remote())
        """
    )
    assert lines.value("found") == [1, 2, 12, 110]


def test_a_redefined_helper_is_what_runs_next(lines: Lines) -> None:
    lines.run("def helper(): return 'old'\n@app.function\ndef f(): return helper()")
    lines.run("old = f.remote()")
    lines.run("def helper(): return 'new'")
    lines.run("new = f.remote()")
    assert lines.value("old, new") == ("old", "new")


def test_a_name_that_is_defined_later_is_found(lines: Lines) -> None:
    lines.run("@app.function\ndef f(): return defined_later()")
    lines.run("def defined_later(): return 'here'")
    lines.run("found = f.remote()\ndel defined_later")
    assert lines.value("found") == "here"


def _package(directory: Path, name: str = "travelled") -> None:
    package = directory / name
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner import word\n")
    (package / "inner" / "__init__.py").write_text("from ..words import word\n")
    (package / "words.py").write_text("def word(): return 'first'\n")
    (package / "table.txt").write_text("a table\n")


def test_a_local_package_travels_and_its_edits_are_seen(lines: Lines, tmp_path: Path) -> None:
    _package(tmp_path)
    lines.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
    lines.run(
        """
        for name in [name for name in sys.modules if name.startswith('travelled')]:
            del sys.modules[name]
        import travelled
        @app.function
        def f(): return travelled.word()
        first = f.remote()
        """
    )
    (tmp_path / "travelled" / "words.py").write_text("def word(): return 'second, longer'\n")
    lines.run("second = f.remote()\nsys.path.pop(0)")
    assert lines.value("first, second") == ("first", "second, longer")


def test_a_module_that_is_imported_inside_the_function_travels(
    lines: Lines, tmp_path: Path
) -> None:
    _package(tmp_path, "inside")
    lines.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
    lines.run(
        """
        @app.function
        def f():
            from inside.words import word
            return word()
        found = f.remote()
        sys.path.pop(0)
        """
    )
    assert lines.value("found") == "first"


def test_the_data_files_of_a_package_are_found(lines: Lines, tmp_path: Path) -> None:
    _package(tmp_path, "with_data")
    lines.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
    lines.run(
        """
        @app.function
        def f():
            import importlib.resources, pathlib, with_data
            read = importlib.resources.files('with_data').joinpath('table.txt').read_text()
            return read, (pathlib.Path(with_data.__file__).parent / 'table.txt').read_text()
        found = f.remote()
        sys.path.pop(0)
        """
    )
    assert lines.value("found") == ("a table\n", "a table\n")


def test_a_warm_call_does_not_pickle_the_function_again(cells: Lines) -> None:
    cells.run(
        """
        import collections
        from cloudpickle import cloudpickle
        table = collections.OrderedDict(a=1)
        @app.function
        def f(x): return x + table['a']
        f.remote(1)
        dumps, times = cloudpickle.Pickler.dump, []
        def counting(self, thing):
            times.append(thing)
            return dumps(self, thing)
        cloudpickle.Pickler.dump = counting
        try:
            found = [f.remote(x) for x in range(20)]
        finally:
            cloudpickle.Pickler.dump = dumps
        kinds = [type(each).__name__ for each in times]
        """
    )
    assert cells.value("'function' in kinds or 'tuple' in kinds") is False
