"""A console on a live worker: the messaging suite passes against it while it serves calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jupyter_kernel_test
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.acceptance.cells import begun, typed, value
from tests.plain_kernel import Cell, PlainKernel
from tests.waiting import PATIENCE, wait_until

# No other test has a function of this name: it is found by it among all workers of the broker.
SERVED = """
import os, time

@app.function(max_containers=1)
def attended(x):
    time.sleep(0.03)  # shorter ones in a row are over before anybody could name them
    return x * x
"""
SERVING = """
served = attended.remote(1)
print("started")
while not os.path.exists({stop!r}):
    assert attended.remote(served) == served ** 2
    served += 1
print(f"served {{served}}")
"""
OFFERED = """
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    found = get_ipython().Completer.completions("%remote_attach ", 15)
    offered = [each.text for each in found]
offered
"""


@pytest.fixture(scope="module")
def serving(notebook: PlainKernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """A cell that calls without a pause, all on one worker, until the file's tests are through."""
    stop = tmp_path_factory.mktemp("serving") / "stop"
    typed(notebook, SERVED)
    cell = begun(notebook, SERVING.format(stop=str(stop)))
    yield cell
    stop.touch()
    notebook.finish(cell, 30)
    assert cell.error is None, cell.error.traceback
    assert int(cell.stdout.split()[-1]) > 0


@pytest.fixture(scope="module")
def connection_file(serving: Cell, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `%remote_attach` says, typed into another terminal: the first notebook is busy."""
    other = PlainKernel(tmp_path_factory.mktemp("other"))
    try:
        typed(other, "%load_ext notebook_ext")
        status = typed(other, "%remote_status").result or ""
        worker = re.findall(r"(ta-\S+) +attended", status)[0]
        assert worker in value(other, OFFERED)
        wait_until(
            lambda: any(each.startswith("fc-") for each in value(other, OFFERED)),
            what="a call that runs at that moment",
        )
        shown = typed(other, f"%remote_attach {worker}", 60).result
    finally:
        other.close()
    assert shown is not None
    found = re.search(r"jupyter console --existing (\S+)", shown)
    assert found is not None, shown
    assert f"external_connection_dir={Path(found[1]).parent}" in shown
    return found[1]


def _patiently(get: Callable[..., Any]) -> Callable[..., Any]:
    """Let the suite's own deadlines, a tenth of a second among them, hold on a busy machine."""

    def patient(*args: Any, timeout: float | None = None, **more: Any) -> Any:
        return get(*args, timeout=None if timeout is None else timeout * 2 * PATIENCE, **more)

    return patient


class TestSuite(jupyter_kernel_test.KernelTests):  # type: ignore[misc]  # it has no annotations
    """`jupyter_kernel_test`, with samples for each of its tests."""

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: ClassVar = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples: ClassVar = ["1", "print('hello')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples: ClassVar = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples: ClassVar = ["import = 7q"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('no')"
    code_execute_result: ClassVar = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in (1, 2)]", "result": "[1, 4]"},
    ]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import HTML; display(HTML('<b>t</b>'))", "mime": "text/html"}
    ]
    code_history_pattern = "1?2*"
    # IPython numbers its present session 0 in a range, which the suite's "range" does not expect.
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        """Nothing is launched."""

    @classmethod
    def tearDownClass(cls) -> None:
        cls.kc.stop_channels()

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def attached(cls, connection_file: str) -> None:
        """Attach instead of launching."""
        cls.kc = BlockingKernelClient(connection_file=connection_file)
        cls.kc.load_connection_file()
        cls.kc.start_channels()
        cls.kc.wait_for_ready(timeout=20 * PATIENCE)
        cls.kc.iopub_channel.get_msg = _patiently(cls.kc.iopub_channel.get_msg)


def test_calls_are_served_meanwhile(serving: Cell, connection_file: str) -> None:
    client = BlockingKernelClient(connection_file=connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=20 * PATIENCE)

        def look() -> set[str]:
            shown: list[str] = []
            client.execute_interactive(
                "[one.locals['x'] for one in inputs()]",
                timeout=20 * PATIENCE,
                output_hook=lambda message: shown.append(str(message["content"].get("data"))),
            )
            seen.update(each for each in shown if any(map(str.isdigit, each)))
            return seen

        seen: set[str] = set()
        wait_until(lambda: len(look()) > 2, 60, f"other inputs run from look to look: {seen}")
    finally:
        client.stop_channels()
    assert not serving.finished
