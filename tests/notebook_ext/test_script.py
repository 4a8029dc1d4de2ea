import sys
from pathlib import Path

import pytest

from notebook_ext import script
from notebook_ext.exception import InvalidError, NotFoundError

HEAD = "import notebook_ext as nb\napp = nb.App('shop')\n"
FUNCTION = "@app.function()\ndef {0}():\n    return 1\n"
POINT = "@app.local_entrypoint()\ndef {0}():\n    return 2\n"


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `__main__`, the arguments and the path back."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def loaded(path: Path, text: str, wanted: str = "") -> script.Script:
    file = path / "shop.py"
    file.write_text(text)
    return script.load(f"{file}::{wanted}" if wanted else str(file), ["--n", "3"])


def test_a_file_is_run_as_main_without_its_guard(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("number = 7\n")
    text = (
        "import sys, beside\nname = __name__\narguments = sys.argv[1:]\n"
        "if __name__ == '__main__':\n    raise SystemExit(3)\n"
        "if '__main__' == __name__:\n    raise SystemExit(4)\n"
        "def where():\n    return where.__module__, beside.number\n"
    )
    names = loaded(tmp_path, text).names
    assert (names["name"], names["arguments"]) == ("__main__", ["--n", "3"])
    assert names["where"]() == ("__main__", 7)
    assert vars(sys.modules["__main__"]) is names


def test_what_runs_is_the_entrypoint_else_the_one_function(tmp_path: Path) -> None:
    one = HEAD + FUNCTION.format("f")
    assert loaded(tmp_path, one).runnable().__name__ == "f"
    assert loaded(tmp_path, one + POINT.format("main")).runnable().__name__ == "main"
    both = one + FUNCTION.format("g") + POINT.format("main") + POINT.format("other")
    for wanted in ("f", "app.f", "g", "main", "other"):
        assert loaded(tmp_path, both, wanted).runnable().__name__ == wanted.removeprefix("app.")
    with pytest.raises(InvalidError, match=r"say which: .*shop.py::main, .*shop.py::other"):
        loaded(tmp_path, both).runnable()
    with pytest.raises(InvalidError, match=r"say which: .*shop.py::f, .*shop.py::g"):
        loaded(tmp_path, one + FUNCTION.format("g"), "app").runnable()
    with pytest.raises(NotFoundError, match=r"no entrypoint or function 'x'; there are: main, f\."):
        loaded(tmp_path, one + POINT.format("main"), "x").runnable()
    with pytest.raises(NotFoundError, match=r"nothing to run: write @app.local_entrypoint"):
        loaded(tmp_path, HEAD).runnable()


def test_the_app_that_is_meant(tmp_path: Path) -> None:
    two = HEAD + "again = app\nother = nb.App('stall')\n"
    for wanted, name in (("app", "shop"), ("shop", "shop"), ("other", "stall"), ("stall", "stall")):
        assert loaded(tmp_path, two, wanted).app().name == name
    assert loaded(tmp_path, HEAD).app().name == "shop"
    with pytest.raises(InvalidError, match=r"several apps; say which: .*::app, .*::other"):
        loaded(tmp_path, two).app()
    with pytest.raises(NotFoundError, match="no app 'x'; there are: app, other"):
        loaded(tmp_path, two, "x").app()
    with pytest.raises(NotFoundError, match="defines no app"):
        loaded(tmp_path, "x = 1\n").app()


def test_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_stall.py").write_text(HEAD + POINT.format("main"))
    (tmp_path / "a_broken.py").write_text("import nowhere_at_all\n")
    found = script.load("a_stall::main", is_module=True)
    assert found.runnable().__module__ == "a_stall"
    with pytest.raises(NotFoundError, match="there is no module a_missing"):
        script.load("a_missing", is_module=True)
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        script.load("a_broken", is_module=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"there is no file .*gone.py"):
        script.load(str(tmp_path / "gone.py"))
