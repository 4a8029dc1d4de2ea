"""An instance in a worker: made once, entered, its methods taken up by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from kernel_worker.errors import NotFoundError
from kernel_worker.model import CallContext, Digest, FunctionSpec
from kernel_worker.wire import messages
from kernel_worker.worker.binding import Binding
from kernel_worker.worker.instance import Instance
from notebook_ext.app import App
from notebook_ext.cls import Cls
from notebook_ext.package import Version
from tests.capture_kit import Notebook
from tests.worker.harness import Broker, Worker

HEAD = "import os\nimport notebook_ext as nb\napp = nb.App()\n"
MODEL = (
    HEAD
    + """
GREETING = "hello"
LEFT = os.devnull
@app.cls()
class Model:
    name: str = nb.parameter(default="base")
    @nb.enter(snap=True)
    def load(self):
        print("loading")
        self.loaded_in = os.getpid()
        self.log = ["snap"]
    @nb.enter()
    async def ready(self):
        print("entering")
        self.log.append("enter")
    @nb.exit()
    def close(self):
        print("leaving")
        open(LEFT, "w").write(self.name)
    @nb.method()
    def greet(self, whom):
        return f"{GREETING} {whom}, {self.name} {self.log}"
    @nb.method()
    async def where(self):
        return self.loaded_in, os.getpid()
"""
)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.module)
    return made


def started(broker: Broker, version: Version, captured: Any) -> Worker:
    for digest, content in version.objects.items():
        broker.send(broker.host, messages.StoreObject(digest), content)
    worker, _ = broker.ask_worker(captured, spec=version.spec)
    return worker


def call(worker: Worker, method: str, *args: Any) -> Any:
    lease = worker.lease([args], context=CallContext(method=method))
    (outcome,) = worker.broker.outcomes(lease, 1).values()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def read(cls: Cls, *args: Any) -> tuple[Version, Any]:
    version = cls(*args)._pool.read()
    return version, cls.definition._captured


def run_to_its_end(coroutine: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_an_instance_is_made_and_entered_once(notebook: Notebook) -> None:
    notebook.run(MODEL)
    version, captured = read(notebook["Model"], "mine")
    objects: dict[Digest, bytes] = dict(version.objects)
    spec: FunctionSpec = version.spec
    binding = Binding.load(objects[spec.code], as_main=False)
    instance = Instance(binding, objects[spec.parameters], objects[spec.initial])
    instance.make(run_to_its_end)
    instance.enter(run_to_its_end)
    instance.select("greet")
    assert instance.function("you") == "hello you, mine ['snap', 'enter']"
    assert not instance.is_async
    instance.select("where")
    assert instance.is_async
    with pytest.raises(NotFoundError, match="has no method 'load'"):
        instance.select("load")
    assert captured.snapshot == spec.initial


def test_workers_share_what_the_template_loaded(broker: Broker, notebook: Notebook) -> None:
    notebook.run(MODEL)
    version, captured = read(notebook["Model"])
    assert version.spec.snaps
    first = broker.ready(started(broker, version, captured))
    second = broker.ready(started(broker, version, captured))
    (template, pid), (also, other) = call(first, "where"), call(second, "where")
    assert template == also
    assert {pid, other} == {first.pid, second.pid}
    assert call(second, "greet", "you") == "hello you, base ['snap', 'enter']"


def test_what_hooks_write_is_of_the_first_input(broker: Broker, notebook: Notebook) -> None:
    notebook.run(MODEL)
    first = broker.ready(started(broker, *read(notebook["Model"])))
    call(first, "greet", "a")
    assert first.output() == "loading\nentering\n"
    second = broker.ready(started(broker, *read(notebook["Model"])))
    call(second, "greet", "a")
    call(second, "greet", "b")
    assert second.output() == "entering\n"


def test_exit_hooks_run_when_a_worker_is_stopped(
    tmp_path: Path, notebook: Notebook, broker: Broker
) -> None:
    notebook.run(f"{MODEL}\nLEFT = {str(tmp_path / 'left')!r}")
    worker = broker.ready(started(broker, *read(notebook["Model"], "mine")))
    call(worker, "greet", "a")
    worker.tell_host(messages.StopWorker(worker.id))
    assert worker.exited().cause == "stopped"
    assert (tmp_path / "left").read_text() == "mine"
    assert worker.output().endswith("leaving\n")


def test_exit_hooks_run_when_the_host_ends(tmp_path: Path, notebook: Notebook) -> None:
    notebook.run(f"{MODEL}\nLEFT = {str(tmp_path / 'left')!r}")
    folder = tmp_path / "b"
    folder.mkdir()
    with Broker(folder) as broker:
        broker.ready(started(broker, *read(notebook["Model"], "idle")))
    assert (tmp_path / "left").read_text() == "idle"


@pytest.mark.parametrize("snap", [False, True])
def test_a_hook_that_fails_is_a_failed_start(
    broker: Broker, notebook: Notebook, snap: bool
) -> None:
    notebook.run(
        HEAD
        + f"@app.cls()\nclass Bad:\n    @nb.enter(snap={snap})\n    def load(self):\n"
        + "        raise ValueError('no weights')\n"
    )
    worker = started(broker, *read(notebook["Bad"]))
    failed = broker.wait(messages.StartFailed, lambda m: m.worker == worker.id)
    assert failed.message.message == "ValueError: no weights"
    assert len(failed.frames) == 1


def test_a_snap_hook_that_leaves_threads_makes_workers_start_afresh(
    broker: Broker, notebook: Notebook
) -> None:
    notebook.run(
        HEAD
        + """
import threading
@app.cls()
class Threads:
    @nb.enter(snap=True)
    def load(self):
        self.stop = threading.Event()
        threading.Thread(target=self.stop.wait, name="mine", daemon=True).start()
        self.loaded_in = os.getpid()
    @nb.method()
    def where(self):
        return self.loaded_in
    def __getstate__(self):
        raise TypeError
"""
    )
    worker = broker.ready(started(broker, *read(notebook["Threads"])))
    assert worker.start == "fresh: enter(snap=True) started threads (mine)"
    assert call(worker, "where") == worker.pid != os.getpid()


def test_apps_are_told_their_classes(notebook: Notebook) -> None:
    notebook.run(MODEL)
    app: App = notebook["app"]
    assert list(app.registered_classes) == ["Model"]
