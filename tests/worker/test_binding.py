"""Loading code and binding values in this process; the rest is in tests/test_capture.py."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from kernel_worker.errors import DeserializationError, VersionError
from kernel_worker.wire import failures
from kernel_worker.wire.bundle import Bundle, Snapshot
from kernel_worker.worker.binding import Binding, compared
from notebook_ext.capture import Captured, Capturer
from tests.capture_kit import Child, Notebook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    return made


def read(function: Callable[..., Any]) -> Captured:
    return Capturer(function).read()


def load(captured: Captured) -> Binding:
    return Binding.load(captured.objects[captured.code], as_main=False)


def bound(captured: Captured) -> Binding:
    binding = load(captured)
    binding.bind(captured.objects[captured.snapshot])
    return binding


def test_kind_and_name(notebook: Notebook) -> None:
    notebook.run("async def a(): pass\ndef g(): yield\nasync def ag(): yield\ndef f(): pass")
    found = {n: load(read(notebook[n])) for n in ("a", "g", "ag", "f")}
    assert [(b.name, b.is_async, b.is_generator) for b in found.values()] == [
        ("a", True, False),
        ("g", False, True),
        ("ag", False, True),
        ("f", False, False),
    ]


def test_a_function_is_there_before_its_snapshot(notebook: Notebook) -> None:
    notebook.run("def f(): return 1")
    assert load(read(notebook["f"])).function() == 1


def test_a_partial_needs_its_snapshot(notebook: Notebook) -> None:
    notebook.run("import functools\ndef g(x): return x\nf = functools.partial(g, 3)")
    captured = read(notebook["f"])
    binding = load(captured)
    with pytest.raises(DeserializationError, match="not bound"):
        _ = binding.function
    binding.bind(captured.objects[captured.snapshot])
    assert binding.function() == 3


def test_functions_share_one_namespace(notebook: Notebook) -> None:
    notebook.run("n = 0\ndef g():\n    global n\n    n += 1\ndef f():\n    g()\n    return n")
    assert bound(read(notebook["f"])).function() == 1


def test_a_snapshot_bound_again_changes_nothing(notebook: Notebook) -> None:
    notebook.run("K = [1]\ndef f():\n    K.append(2)\n    return len(K)")
    captured = read(notebook["f"])
    binding = bound(captured)
    assert binding.function() == 2
    binding.bind(captured.objects[captured.snapshot])
    assert binding.function() == 3


def test_going_back_to_an_old_value_binds_it(notebook: Notebook) -> None:
    notebook.run("K = 1\ndef f(): return K")
    capturer = Capturer(notebook["f"])
    first = capturer.read()
    binding = bound(first)
    notebook.names["K"] = 2
    second = capturer.read()
    binding.bind(second.objects[second.snapshot])
    assert binding.function() == 2
    binding.bind(first.objects[first.snapshot])
    assert binding.function() == 1


def test_what_was_deleted_is_unbound(notebook: Notebook) -> None:
    notebook.run(
        "K = 1\ndef make():\n    c = 5\n    def f(): return c, K, f.k\n    def drop():\n"
        "        nonlocal c\n        del c\n    return f, drop\nf, drop = make()\nf.k = 2"
    )
    capturer = Capturer(notebook["f"])
    binding = bound(capturer.read())
    function = binding.function
    assert function() == (5, 1, 2)
    notebook["drop"]()
    del notebook.names["K"], notebook["f"].k
    captured = capturer.read()
    binding.bind(captured.objects[captured.snapshot])
    assert "K" not in function.__globals__
    assert not hasattr(function, "k")
    with pytest.raises(NameError, match="'c'"):
        function()


def test_one_object_under_two_names_is_one_there(notebook: Notebook) -> None:
    notebook.run("a = []\nb = a\ndef f(x=a): return a is b is x")
    assert bound(read(notebook["f"])).function()


def test_keyword_defaults(notebook: Notebook) -> None:
    notebook.run("def f(*, a=1, b=[2], c): return a, b, c")
    assert bound(read(notebook["f"])).function(c=3) == (1, [2], 3)


def test_main_is_the_notebook(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook.run("class C: pass\ndef f():\n    import __main__\n    return __main__.C is C")
    captured = read(notebook["f"])
    binding = Binding.load(captured.objects[captured.code])
    assert sys.modules["__main__"] is not notebook.module
    assert binding.function()


def test_it_survives_a_fork(notebook: Notebook) -> None:
    notebook.run("K = 2\nclass C: pass\ndef f(x): return x * K")
    captured = read(notebook["f"])
    binding = load(captured)
    child = os.fork()
    if not child:
        code = 1
        try:
            binding.bind(captured.objects[captured.snapshot])
            code = 0 if binding.function(4) == 8 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_sources_of_cells_are_there(notebook: Notebook) -> None:
    cell = "def f():\n    import inspect\n    return inspect.getsource(f)\n"
    notebook.run(cell)
    captured = read(notebook["f"])
    linecache.cache.pop(notebook.filename(cell))
    with Child() as child:
        assert child.call(captured) == cell


def test_errors_carry_the_present_name_of_the_cell(notebook: Notebook) -> None:
    old, new = (
        "def f():\n    raise ValueError(1)\n",
        "def f():\n    raise ValueError(1)\n# edited\n",
    )
    notebook.run(old)
    capturer = Capturer(notebook["f"])
    with Child() as child:
        with pytest.raises(ValueError, match="1"):
            child.call(capturer.read())
        notebook.run(new)
        with pytest.raises(ValueError, match="1") as caught:
            child.call(read(notebook["f"]))
    text = "".join(traceback.format_exception(caught.value))
    assert notebook.filename(new) in text
    assert notebook.filename(old) not in text
    assert "raise ValueError(1)" in text


def test_another_python_is_refused(notebook: Notebook) -> None:
    notebook.run("def f(): pass")
    captured = read(notebook["f"])
    found = msgspec.msgpack.decode(captured.objects[captured.code], type=Bundle)
    other = msgspec.msgpack.encode(msgspec.structs.replace(found, python=(3, 2)))
    with pytest.raises(
        VersionError, match=r"f was captured by Python 3\.2 .*this worker is Python"
    ):
        Binding.load(other)
    with pytest.raises(VersionError) as caught:
        compared(other, "box")
    assert re.fullmatch(r"box has Python 3\.\d+ \(format \d+\)", caught.value.lack)


def test_bytes_that_are_no_code_nor_snapshot(notebook: Notebook) -> None:
    notebook.run("def f(): pass")
    with pytest.raises(DeserializationError, match="no code"):
        Binding.load(b"\xc1")
    with pytest.raises(DeserializationError, match="no snapshot"):
        load(read(notebook["f"])).bind(b"\xc1")


def test_a_value_that_cannot_be_had_here_is_named(notebook: Notebook) -> None:
    notebook.run("K = [1]\ndef f(): return K")
    captured = read(notebook["f"])
    found = msgspec.msgpack.decode(captured.objects[captured.snapshot], type=Snapshot)
    broken = [msgspec.structs.replace(v, data=b"cno_module\nx\n.") for v in found.values]
    snapshot = msgspec.msgpack.encode(msgspec.structs.replace(found, values=tuple(broken)))
    with pytest.raises(DeserializationError, match=r"global 'K' cannot be unpickled.*no_module"):
        load(captured).bind(snapshot)


def test_an_import_that_fails_is_the_users_error(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "will_break.py").write_text("x = 1\n")
    notebook.run("import will_break\ndef f(): return will_break.x")
    (tmp_path / "will_break.py").write_text("raise RuntimeError('at import')\n")
    captured = read(notebook["f"])
    sys.modules.pop("will_break")
    with Child() as child, pytest.raises(RuntimeError, match="at import") as caught:
        child.call(captured)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].filename == str(tmp_path / "will_break.py")
    assert failures.__file__ not in {frame.filename for frame in frames[1:]}
