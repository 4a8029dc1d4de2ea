"""API.md sections 1 (`image`), 4 (`VersionError`) and 8 (`nb.Image`): packages of a worker's own.

The packages are wheels on disk, so that nothing is asked of any index.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.cells import begun, typed, value
from tests.acceptance.conftest import ScriptRunner
from tests.leftovers import processes
from tests.packages import site, wheel
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

PATIENT = 90.0


@pytest.fixture(scope="module")
def images(notebook: PlainKernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the notebook `flavour` 3.0, and two images that have others."""
    folder = tmp_path_factory.mktemp("packages")
    wheels = {version: str(wheel(folder, version)) for version in ("1.0", "2.0")}
    typed(
        notebook,
        f"""
        import sys
        sys.path.append({str(site(folder, "3.0"))!r})
        import flavour
        offline = "--no-index --no-deps"
        slim = nb.Image.debian_slim()
        one = slim.pip_install({wheels["1.0"]!r}, extra_options=offline).env({{"KIND": "one"}})
        two = slim.pip_install({wheels["2.0"]!r}, extra_options=offline)

        @app.function()
        def here():
            return flavour.NAME

        @app.function(image=one)
        def which():
            import importlib.metadata, os, sys
            return flavour.NAME, importlib.metadata.version("flavour"), os.environ.get("KIND")

        def of(call):
            try:
                return call()
            except Exception as error:
                return type(error).__name__, str(error), getattr(error, "__notes__", [])
        """,
    )
    return folder


def test_two_versions_of_a_package_beside_that_of_the_notebook(
    notebook: PlainKernel, images: Path
) -> None:
    first = typed(
        notebook,
        f"""
        anew = slim.pip_install({str(images)!r} + "/flavour-1.0-py3-none-any.whl",
                                extra_options=offline, force_build=True).env({{"KIND": "anew"}})
        fresh = which.with_options(image=anew)
        print(fresh.remote(), here.remote(), flavour.NAME)
        """,
        PATIENT,
    )
    assert "('flavour 1.0', '1.0', 'anew') flavour 3.0 flavour 3.0" in first.stdout
    assert "flavour-1.0-py3-none-any.whl" in first.stderr
    assert "The image is ready after" in first.stderr, "what the build says is below the cell"
    assert "Traceback" not in first.stderr
    other = typed(notebook, "print(which.with_options(image=two).remote()[0])", PATIENT)
    assert "flavour 2.0" in other.stdout
    again = typed(notebook, "print(fresh.remote(), here.remote())")
    assert "('flavour 1.0', '1.0', 'anew') flavour 3.0" in again.stdout
    assert again.stderr == ""


def test_classes_apps_magics_generators_and_nested_calls_have_it_too(
    notebook: PlainKernel, images: Path
) -> None:
    typed(
        notebook,
        """
        %load_ext notebook_ext
        imaged = nb.App("imaged", image=one)

        @imaged.cls()
        class Taster:
            @nb.enter()
            def taste(self):
                self.name = flavour.NAME
            @nb.method()
            def tell(self):
                return self.name, here.remote()

        @imaged.function()
        def give(n):
            for _ in range(n):
                yield flavour.NAME
        """,
    )
    typed(notebook, "%%remote --image two\ndef asked():\n    return flavour.NAME\n")
    told = value(notebook, "(Taster().tell.remote(), list(give.remote_gen(2)), asked.remote())", 60)
    assert told == (("flavour 1.0", "flavour 3.0"), ["flavour 1.0"] * 2, "flavour 2.0")
    cell = notebook.run("%%remote --image three\ndef asked():\n    return 1\n")
    assert "--image three: allowed is a variable that holds an nb.Image" in cell.stderr


def test_what_an_image_has_not_is_an_error_that_says_so(
    notebook: PlainKernel, images: Path
) -> None:
    told = value(
        notebook,
        """
        import rich, IPython

        @app.function(image=slim)
        def bare():
            return flavour.NAME

        def lists_of():
            @app.function(image=slim)
            def known():
                import importlib.util
                return [n for n in ("flavour", "matplotlib", "zmq") if importlib.util.find_spec(n)]
            return known.remote()

        of(bare.remote), of(lists_of)
        """,
        60,
    )
    (kind, text, notes), found = told
    assert (kind, text) == ("ModuleNotFoundError", "No module named 'flavour'")
    assert any(".pip_install('flavour')" in note for note in notes)
    assert found == ["zmq"], "of the notebook's packages, those that workers need"


def test_a_build_that_fails_is_said_once_to_all_inputs(notebook: PlainKernel, images: Path) -> None:
    (images / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    cell = typed(
        notebook,
        f"""
        broken = {str(images / "broken-1.0-py3-none-any.whl")!r}
        bad = slim.pip_install(broken, extra_options=offline)
        never = app.function(image=bad, name="never")(lambda x: x)
        for _ in range(2):
            mapped = never.map(range(4), return_exceptions=True, wrap_returned_exceptions=False)
            failed = list(mapped)
            print(len(failed), {{type(each).__name__ for each in failed}}, str(failed[0]))
        """,
        PATIENT,
    )
    assert cell.stdout.count("4 {'InvalidError'} the image (pip_install") == 2
    assert "cannot be built:" in cell.stdout
    assert "broken-1.0" in cell.stdout.split("cannot be built:")[1]
    # The second worker of the first call may be refused when the second call waits already.
    assert cell.stderr.count("Building an image") in {1, 2}, "at most once for each call"


def test_files_variables_functions_and_imports(
    notebook: PlainKernel, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("first")
    told = value(
        notebook,
        f"""
        def prepare(word):
            import pathlib, sys
            print("preparing", word)
            pathlib.Path(sys.prefix, "made.txt").write_text(word)

        full = (
            slim.env({{"A": "1"}})
            .run_function(prepare, args=("made",))
            .add_local_dir({str(tmp_path / "data")!r}, "assets")
            .workdir("assets")
        )

        with full.imports():
            import not_here_at_all
            from not_here_either import name as unused

        @app.function(image=full)
        def see():
            import os, pathlib, sys
            made = pathlib.Path(sys.prefix, "made.txt").read_text()
            return open("a.txt").read(), made, os.environ["A"]

        @app.function(image=full)
        def use():
            return not_here_at_all

        see.remote(), of(use.remote)[:2], of(lambda: not_here_at_all.x)[0]
        """,
        60,
    )
    missing = ("ModuleNotFoundError", "No module named 'not_here_at_all'")
    assert told == (("first", "made", "1"), missing, "ModuleNotFoundError")
    (tmp_path / "data" / "a.txt").write_text("second")
    again = typed(notebook, "print(see.remote())", 60)
    assert "('second', 'made', '1')" in again.stdout
    assert "Building" not in again.stderr, "nothing is installed anew for a file"


def test_a_build_dies_with_its_host_agent_and_leaves_nothing_half_used(
    notebook: PlainKernel, images: Path, own_directories: Path
) -> None:
    gate = images / "gate"
    cell = begun(
        notebook,
        f"""
        def slow():
            import pathlib, sys, time
            pathlib.Path(sys.prefix, "half").touch()
            pathlib.Path({str(gate)!r}).open("a").write("x")
            while pathlib.Path({str(gate)!r}).read_text() == "x":
                time.sleep(0.01)

        @app.function(image=slim.run_function(slow))
        def whole():
            import pathlib, sys
            return pathlib.Path(sys.prefix, "half").exists()
        print("started")
        print(whole.remote())
        """,
    )
    wait_until(gate.exists, 30, "the build has begun")
    commands = processes(own_directories)
    (builder,) = [
        pid for pid, command in commands.items() if "-m kernel_worker.worker.b" in command
    ]
    builders = [builder, *map(int, _children(builder).read_text().split())]
    assert len(builders) == 2, "the installer is another process"
    os.kill(int(Path(f"/proc/{builder}/stat").read_text().split()[3]), 9)
    notebook.finish(cell, 60)
    assert cell.error is None
    assert "True" in cell.stdout, "built anew by the next agent, to the end"
    assert gate.read_text() == "xx"
    assert not {*builders} & {*processes(own_directories)}


def _children(pid: int) -> Path:
    return Path(f"/proc/{pid}/task/{pid}/children")


def test_the_command_line_lists_and_removes_what_is_not_in_use(
    notebook: PlainKernel, images: Path, run_script: ScriptRunner
) -> None:
    typed(notebook, "which.remote()", PATIENT)
    said = run_script(
        "from notebook_ext.cli import main\n"
        "for words in (['image', 'list'], ['image', 'prune'], ['image', 'list']):\n"
        "    main(words, standalone_mode=False)\n"
    )
    assert "flavour-1.0-py3-none-any.whl" in said.split("removed,")[1], "in use"
