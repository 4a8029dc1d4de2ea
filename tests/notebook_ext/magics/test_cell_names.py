"""Cells, and what each needs from the notebook and leaves there: a table."""

import ast
import sys
from typing import NamedTuple

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from notebook_ext.magics import cell_names

TRANSFORMER = TransformerManager()  # type: ignore[no-untyped-call]
EXPORTS = {"math": ("pi", "sqrt"), "os.path": ("join",)}


class Case(NamedTuple):
    name: str
    cell: str
    needed: str = ""
    assigned: str = ""
    changed: str = ""
    deleted: str = ""


C = Case
TABLE = [
    C("an expression", "x + y", "x y"),
    C("an assignment", "x = 1", "", "x"),
    C("a name read before it is assigned", "y = x\nx = 2", "x", "y x"),
    C("a name read after it was assigned", "x = 2\ny = x", "", "x y"),
    C("the right side comes first", "x = x + 1", "x", "x"),
    C("swapped", "a, b = b, a", "b a", "a b"),
    C("unpacked", "(a, *b), c = pairs", "pairs", "a b c"),
    C("a chain of targets", "a = b = c", "c", "a b"),
    C("an augmented assignment", "n += 1", "n", "n"),
    C("an augmented assignment of what is there", "n = 0\nn += step", "step", "n"),
    C("builtins", "print(len(xs))", "xs"),
    C("a builtin that the cell shadows", "list = [1]\nprint(list)", "", "list"),
    C("a builtin read, then shadowed", "n = max(xs)\nmax = 3", "xs", "n max"),
    C("an attribute", "a.b.c(d).e", "a d"),
    C("an attribute that is assigned", "a.b = 1", "a", "", "a"),
    C("an item that is assigned", 'df["x"] = df.y * k', "df k", "", "df"),
    C("an item of an attribute", "a.b[i].c = 2", "a i", "", "a"),
    C("an item that is augmented", "counts[k] += 1", "counts k", "", "counts"),
    C("an item of what the cell has made", "d = {}\nd[k] = v", "k v", "d", ""),
    C("an item that is deleted", "del d[k]", "d k", "", "d"),
    C("an annotated assignment", "x: int = y", "y", "x"),
    C("an annotation alone", "x: Kind", "Kind"),
    C(
        "annotations that are not evaluated",
        "from __future__ import annotations\nx: Kind = 1",
        "",
        "annotations x",
    ),
    C("del", "del x", "x", "", "", "x"),
    C("del of the cell's own", "x = f()\ndel x", "f", "", "", "x"),
    C("del on one path", "x = 1\nif c:\n    del x", "c", "x", "", "x"),
    C("read after del", "del x\nx", "x", "", "", "x"),
    C("bound again after del", "del x\nx = 1\nx", "x", "x", "", "x"),
    C("an import", "import numpy", "", "numpy"),
    C("an import of a submodule", "import os.path\nos.getcwd()", "", "os"),
    C("an import under a name", "import a.b as c\nc.d", "", "c"),
    C("an import from", "from a import b as c, d\nb", "b", "c d"),
    C("a relative import", "from . import here", "", "here"),
    C("a star import", "from math import *\nsqrt(x) + pi", "x", "pi sqrt"),
    C("a star import of which nothing is known", "from other import *\nf(x)", "f x"),
    C("an import in a branch", "if c:\n    import m\nm.f()", "c m", "m"),
    C("a list comprehension", "[x * k for x in xs if x > low]", "xs low k"),
    C("its variable is its own", "x = [x for x in xs]\nx", "xs", "x"),
    C("its variable hides the notebook's", "[x for x in x]", "x"),
    C("read inside and outside", "[x for x in xs] + [x]", "xs x"),
    C("nested comprehensions", "[[y + z for y in x] for x in xss]", "xss z"),
    C("two loops in one", "[x + y for x in xs for y in x.ys(n)]", "xs n"),
    C("a dict comprehension", "{k: v for k, v in d.items()}", "d"),
    C("a generator expression", "sum(w * x for w, x in zip(ws, xs))", "ws xs"),
    C("a lambda in a comprehension", "[lambda: x + k for x in xs]", "xs k"),
    C("an async comprehension", "[x async for x in stream(n)]", "stream n"),
    C("walrus", "if (n := len(xs)) > 3:\n    print(n)", "xs", "n"),
    C("walrus in a call", "print(x := 1)\nx", "", "x"),
    C("walrus in a comprehension", "[y for x in xs if (y := f(x))]", "xs f", "y"),
    C("walrus in a comprehension, read after it", "any((y := x) for x in xs)\ny", "xs y", "y"),
    C("walrus behind and", "if a and (b := a.c):\n    b.d", "a", "b"),
    C("walrus behind and, read where it may not be", "a and (b := a.c)\nb", "a b", "b"),
    C("walrus behind or", "if not a or (b := f(a)) is None:\n    b", "a f b", "b"),
    C("walrus in while", "while chunk := read():\n    use(chunk)", "read use", "chunk"),
    C("a conditional expression", "(x := 1) if c else (x := 2)\nx", "c", "x"),
    C("assigned in one branch", "if c:\n    x = 1\nx", "c x", "x"),
    C("assigned in both branches", "if c:\n    x = 1\nelse:\n    x = 2\nx", "c", "x"),
    C("assigned, or raised", "if c:\n    x = 1\nelse:\n    raise E\nx", "c E", "x"),
    C("read in one branch only", "if c:\n    y", "c y"),
    C("elif", "if a:\n    x = 1\nelif b:\n    x = 2\nelse:\n    x = z\nx", "a b z", "x"),
    C("a branch that is never taken", "if False:\n    y\nif True:\n    x = 1\nx", "", "x"),
    C("for", "for i in range(n):\n    total += i", "n total", "total i"),
    C("the target of for, afterwards", "for i in xs:\n    pass\ni", "xs i", "i"),
    C("for with a tuple and an item", "for k, d[k] in xs:\n    pass", "xs d", "k", "d"),
    C("for and else", "for x in xs:\n    break\nelse:\n    x = 0\nx", "xs", "x"),
    C("read in the next round", "for x in xs:\n    print(last)\n    last = x", "xs last", "x last"),
    C("while that never ends by itself", "while True:\n    x = f()\n    break\nx", "f", "x"),
    C("while with a condition", "while c:\n    x = 1\n    c = x\nx", "c x", "x c"),
    C("continue",
      "while True:\n    x = f()\n    if x:\n        continue\n    y = x\n    break\ny", "f", "x y"),
    C("async for", "async for x in stream:\n    y = x", "stream", "x y"),
    C("await", "r = await fetch(url)", "fetch url", "r"),
    C("with", "with open(p) as f:\n    data = f.read()\ndata", "p", "f data"),
    C("with several", "with a() as x, b(x) as (y, z):\n    pass", "a b", "x y z"),
    C("async with", "async with lock as held:\n    pass", "lock", "held"),
    C("suppressed", "with suppress(E):\n    x = f()\nx", "suppress E f x", "x"),
    C("try", "try:\n    x = f()\nexcept E:\n    x = 0\nx", "f E", "x"),
    C("try, read after it may have failed",
      "try:\n    x = f()\nexcept E:\n    pass\nx", "f E x", "x"),
    C("except as", "try:\n    f()\nexcept E as e:\n    print(e)", "f E"),
    C("except as, afterwards", "e = 1\ntry:\n    f()\nexcept E as e:\n    g(e)\ne", "f E g", "e"),
    C("else of try", "try:\n    x = f()\nexcept E:\n    raise\nelse:\n    y = x", "f E", "x y"),
    C("finally", "try:\n    x = f()\nfinally:\n    y = 1\nx, y", "f", "x y"),
    C("read in finally", "try:\n    x = f()\nfinally:\n    print(x)", "f x", "x"),
    C("except*", "try:\n    f()\nexcept* E as group:\n    n = group", "f E", "n"),
    C("assert", "assert (n := f()), why\nn", "f why", "n"),
    C("raise", "raise Kind(x) from cause\nnever", "Kind x cause"),
    C("a function that reads", "def f(a):\n    return a + b", "b", "f"),
    C("its locals are its own", "def f(a):\n    b = a\n    return b", "", "f"),
    C("read by a function before it is assigned", "def f():\n    return x\nf()\nx = 1", "x", "f x"),
    C("assigned before the function is used", "def f():\n    return x\nx = 1\nf()", "", "f x"),
    C("assigned, the function is not used", "def f():\n    return x\nx = 1", "", "f x"),
    C("functions that call each other",
      "def f(): return g()\ndef g(): return f() + k\nf()", "k", "f g"),
    C("a function that calls a later one", "def f(): return g()\nf()\ndef g(): pass", "g", "f g"),
    C("nested functions",
      "def f(a):\n    def g(b):\n        return a + b + c\n    return g", "c", "f"),
    C("nonlocal",
      "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    return g",
      "", "f"),
    C("global", "def f():\n    global n\n    n = n + 1\nf()", "n", "f n"),
    C("global that is only set", "def f():\n    global n\n    n = 1\nf()", "", "f n"),
    C("global in a function that is not used", "def f():\n    global n\n    n = 1", "", "f"),
    C("defaults and decorators", "@deco(k)\ndef f(a=d, *, b=e): pass", "deco k d e", "f"),
    C("annotations of a function", "def f(a: A, *b: B) -> R:\n    c: C = a", "A B R", "f"),
    C("a decorated function may be called at once",
      "@run\ndef f():\n    return x\nx = 1", "run x", "f x"),
    C("recursion", "def f(n):\n    return f(n - 1) * k", "k", "f"),
    C("a comprehension in a function", "def f():\n    return [x * k for x in xs]", "k xs", "f"),
    C("a lambda", "f = lambda a, b=c: a + b + d", "c d", "f"),
    C("a lambda that is used after", "f = lambda: x\nx = 1\nf()", "", "f x"),
    C("a lambda in a call", "sorted(xs, key=lambda v: v - origin)", "xs origin"),
    C("an async function", "async def f():\n    await g(x)", "g x", "f"),
    C("a generator function", "def f():\n    yield from xs", "xs", "f"),
    C("a function in a branch",
      "if c:\n    def f(): return a\nelse:\n    def f(): return b\nf()", "c a b", "f"),
    C("a class",
      "class A(Base, metaclass=Meta):\n    size = n\n    def m(self):\n        return k",
      "Base Meta n k", "A"),
    C("names of a class",
      "class A:\n    a = 1\n    b = a\n    def m(self):\n        return a", "a", "A"),
    C("a class attribute is no variable", "class A:\n    x = 1\nx", "x", "A"),
    C("a class body reads the notebook, then its own", "class A:\n    x = x\n    y = x", "x", "A"),
    C("a comprehension in a class",
      "class A:\n    n = 2\n    xs = [n for _ in range(n)]", "n", "A"),
    C("methods with super and self",
      "class A(B):\n    def m(self):\n        return super().m() + self.k", "B", "A"),
    C("a method that makes its class",
      "class A:\n    def make(self):\n        return A(k)", "k", "A"),
    C("a class with a private global",
      "class A:\n    def m(self):\n        return __k", "_A__k", "A"),
    C("a nested class",
      "class A:\n    class B:\n        def m(self): return k\n    b = B()", "k", "A"),
    C("global in a class", "class A:\n    global n\n    n = 1\nn", "", "n A"),
    C("a dataclass",
      "@dataclass\nclass P:\n    x: float = zero\n    def n(self): return hypot(self.x)",
      "dataclass zero hypot", "P"),
    C("match",
      "match shape:\n    case Circle(radius=r):\n        a = pi * r\n    case [x, *rest]:\n"
      "        a = x\n    case _:\n        a = 0\na", "shape Circle pi", "r a x rest"),
    C("match that may not match",
      "match v:\n    case {'k': k, **others} if ok(k):\n        found = k\nfound",
      "v ok found", "k others found"),
    C("match on a constant by name",
      "match v:\n    case Color.RED | Color.BLUE as c:\n        c", "v Color", "c"),
    C("an f-string", "f'{x!r:>{width}} {y:.2f} {{z}}'", "x width y"),
    C("a nested f-string", "f\"{f'{x}'}\"", "x"),
    C("a type alias", "Vector = list[Element]", "Element", "Vector"),
    C("starred and double starred", "f(*args, **kwargs)", "f args kwargs"),
    C("slices", "xs[a:b, ::c]", "xs a b c"),
    C("nothing", ""),
    C("a docstring alone", "'about x'"),
    C("underscores", "_ = x\n_", "x", "_"),
    C("dunder names of a module", "__name__, __doc__"),
    # IPython's syntax
    C("a command", "!ls {folder} $HOME $$x", "folder HOME"),
    C("a command whose output is kept", "files = !ls {folder}/*.py", "folder", "files"),
    C("a command with an expression", "!echo {a + f(b)}", "a f b"),
    C("a magic that runs Python", "%timeit -n 10 f(x)", "f x"),
    C("a magic that runs an assignment", "%time y = f(x)\ny", "f x", "y"),
    C("a cell magic that runs Python", "%%time\ny = f(x)\nz = y", "f x", "y z"),
    C("a cell magic that keeps the output", "%%capture said\nprint(x)", "x", "said"),
    C("a cell magic of another language", "%%bash\necho x $y", "y"),
    C("a magic's value", "here = %pwd", "", "here"),
    C("help", "f?", "f"),
    C("the shell itself", "get_ipython().user_ns"),
]  # fmt: skip
if sys.version_info >= (3, 12):
    TABLE += [
        C("a type statement", "type Pair = tuple[Element, Element]", "Element", "Pair"),
        C("a generic function", "def f[T: Bound](x: T) -> T:\n    return k", "Bound k", "f"),
        C(
            "a generic class",
            "class A[T](Base[T]):\n    def m(self) -> T: return k",
            "Base T k",
            "A",
        ),
    ]


def parsed(text: str) -> ast.Module:
    return ast.parse(TRANSFORMER.transform_cell(text))


def names(cell: str, notebook: frozenset[str] = frozenset()) -> cell_names.CellNames:
    return cell_names.of(parsed(cell), exports=EXPORTS.get, parse=parsed, notebook=notebook)


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_what_a_cell_needs_and_leaves(case: Case) -> None:
    found = names(case.cell)
    assert sorted(found.needed) == sorted(case.needed.split())
    assert sorted(found.assigned) == sorted(case.assigned.split())
    assert sorted(found.changed) == sorted(case.changed.split())
    assert sorted(found.deleted) == sorted(case.deleted.split())


def test_the_table_is_long_and_has_no_case_twice() -> None:
    assert len(TABLE) >= 140
    assert len({case.name for case in TABLE}) == len({case.cell for case in TABLE}) == len(TABLE)


def test_names_come_in_the_order_of_the_cell() -> None:
    found = names("c = b + a\nd = c\na2 = f(e)")
    assert found.needed == ("b", "a", "f", "e")
    assert found.assigned == ("c", "d", "a2")


def test_a_builtin_that_the_notebook_has_redefined_is_needed() -> None:
    assert names("print(len(x))", frozenset({"len"})).needed == ("len", "x")


def test_stars_that_nobody_knows_are_told() -> None:
    assert names("from other import *").stars == ("other",)
    assert names("from math import *").stars == ()


def test_ipythons_syntax_is_told() -> None:
    assert names("!ls").uses_shell
    assert names("%time f()").uses_shell
    assert not names("ls = 1").uses_shell


def test_what_comes_back_is_what_was_assigned_or_changed() -> None:
    assert names("x = 1\nd[x] = 2\nx[0] = 3").coming_back == ("x", "d")
