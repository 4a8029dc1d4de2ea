import ast

import pytest

from notebook_ext.magics import shell_syntax
from notebook_ext.magics.shell_syntax import Magic


def read(source: str) -> Magic | None:
    expression = ast.parse(source, mode="eval").body
    assert isinstance(expression, ast.Call)
    return shell_syntax.read(expression)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("f(x)", None),
        ("get_ipython()", None),
        ("get_ipython().run_cell('x')", None),
        ("get_ipython().run_line_magic(name, 'x')", None),
        ("get_ipython().system('ls {d}')", Magic(expansions=("ls {d}",))),
        ("get_ipython().getoutput('ls')", Magic(expansions=("ls",))),
        (
            "get_ipython().run_line_magic('timeit', '-n 10 -r3 f(x)')",
            Magic(("f(x)",), ("-n 10 -r3 f(x)",)),
        ),
        ("get_ipython().run_line_magic('time', '-x')", Magic(("",), ("-x",))),
        ("get_ipython().run_line_magic('pinfo', 'f')", Magic(("f",), ("f",))),
        ("get_ipython().run_line_magic('cd', '{d}')", Magic((), ("{d}",))),
        ("get_ipython().run_cell_magic('time', '', 'x')", Magic(("", "x"), ("",))),
        ("get_ipython().run_cell_magic('bash', '', 'ls $d')", Magic((), ("", "ls $d"))),
        (
            "get_ipython().run_cell_magic('capture', '--no-stderr out', 'x')",
            Magic(("x",), ("--no-stderr out",), ("out",)),
        ),
    ],
)
def test_what_a_use_of_the_syntax_does(source: str, expected: Magic | None) -> None:
    assert read(source) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ls $a ${b} $$c", ["a", "b", "b"]),
        ("{a.b} {f(c):>3} {{d}}", ["a", "f", "c"]),
        ("awk '{print $x}'", ["x"]),
        ("{a b} {", []),
    ],
)
def test_what_is_put_into_its_text(text: str, names: list[str]) -> None:
    assert list(shell_syntax.expanded(text)) == names
