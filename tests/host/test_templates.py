"""Templates: which share a parent, which must not be forked, which go."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

import kernel_worker
from kernel_worker.model import Digest, WorkerId, digest_of
from kernel_worker.wire import failures, messages
from notebook_ext.capture import Captured, Capturer
from tests.waiting import wait_until
from tests.worker.harness import Broker, define, environment_of, spec_of

SIMPLE = "def f():\n    return 1\n"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def with_environment(captured: Captured, **changes: object) -> Captured:
    """Return a capture as of another environment."""
    changed = msgspec.structs.replace(environment_of(captured), **changes)
    content = msgspec.msgpack.encode(changed)
    digest = digest_of(content)
    return Captured(
        version=captured.version,
        code=captured.code,
        environment=digest,
        imports=captured.imports,
        snapshot=captured.snapshot,
        objects={**captured.objects, digest: content},
        references=captured.references,
    )


def test_workers_of_one_function_share_a_template(broker: Broker) -> None:
    first, second = broker.start_worker(define(SIMPLE)), broker.start_worker(define(SIMPLE))
    assert parent_of(first.pid) == parent_of(second.pid)


def test_functions_of_equal_imports_share_the_imports(broker: Broker) -> None:
    one = broker.start_worker(define("import numpy\ndef f():\n    return float(numpy.pi)\n"))
    two = broker.start_worker(define("import numpy\ndef f():\n    return float(numpy.e)\n"))
    assert one.call() < 4
    assert parent_of(one.pid) != parent_of(two.pid)
    assert parent_of(parent_of(one.pid)) == parent_of(parent_of(two.pid))
    assert one.start == two.start == "forked"


@pytest.mark.parametrize("where", ["module", "library"])
def test_what_must_not_be_forked_starts_afresh_and_says_why(broker: Broker, where: str) -> None:
    folder = broker.directory / "path"
    folder.mkdir()
    (folder / "threaded.py").write_text(
        "import threading, time\n"
        "thread = threading.Thread(target=time.sleep, args=(1000,), name='mine', daemon=True)\n"
        "thread.start()\n"
    )
    captured = Capturer(
        define("def f():\n    import threaded\n    return threaded.thread.is_alive()\n")
    ).read()
    captured = with_environment(captured, path=(str(folder), *environment_of(captured).path))
    spec = spec_of(captured)
    if where == "library":
        spec = msgspec.structs.replace(spec, imports=("threaded",))
        worker, _ = broker.ask_worker(captured, spec=spec)
        broker.ready(worker)
        assert worker.start == "fresh: an import started threads (mine)"
    else:
        worker, _ = broker.ask_worker(captured, spec=spec)
        broker.ready(worker)
        assert worker.start == "forked"
    assert worker.call() is True


def test_the_environment_is_the_callers(broker: Broker) -> None:
    f = define("""
    import os, sys
    def f():
        return os.environ.get("NBX_HERE"), sys.path[0], os.environ.get("JPY_PARENT_PID")
    """)
    captured = Capturer(f).read()
    environment = environment_of(captured)
    variables = {**environment.variables, "NBX_HERE": "yes", "JPY_PARENT_PID": "1"}
    captured = with_environment(captured, variables=variables, path=("/nowhere", *environment.path))
    assert broker.start_worker(captured).call() == ("yes", "/nowhere", None)


def test_variables_that_count_at_start_get_an_interpreter_of_their_own(broker: Broker) -> None:
    f = define("import sys\ndef f():\n    return sys.flags.utf8_mode, sys.flags.dev_mode\n")
    captured = Capturer(f).read()
    environment = environment_of(captured)
    other = with_environment(captured, variables={**environment.variables, "PYTHONDEVMODE": "1"})
    assert broker.start_worker(captured).call()[1] is False
    assert broker.start_worker(other).call()[1] is True


def test_an_interpreter_that_is_not_there_fails_the_start(broker: Broker) -> None:
    captured = with_environment(Capturer(define(SIMPLE)).read(), python="/no/such/python")
    broker.ask_worker(captured)
    found = broker.wait(messages.StartFailed)
    assert "/no/such/python" in str(failures.rebuild(found.frames[0]))


def local_module(broker: Broker, text: str) -> Captured:
    """Capture a function that imports a module with this text at its top."""
    folder = broker.directory / "local"
    folder.mkdir()
    (folder / "nbx_local_module.py").write_text(text)
    sys.path.insert(0, str(folder))
    try:
        return Capturer(
            define("import nbx_local_module\ndef f():\n    return nbx_local_module.value\n")
        ).read()
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("nbx_local_module", None)


def crashing(broker: Broker, text: str) -> Captured:
    return local_module(
        broker, f"import os, time\nvalue = 1\nif os.getpid() != {os.getpid()}:\n    {text}\n"
    )


def test_an_import_that_raises_fails_the_start_with_its_exception(broker: Broker) -> None:
    broker.ask_worker(crashing(broker, "raise LookupError('at import')"))
    found = broker.wait(messages.StartFailed)
    error = failures.rebuild(found.frames[0])
    assert isinstance(error, LookupError)
    assert "at import" in str(error)


def test_an_import_that_crashes_fails_the_start(broker: Broker) -> None:
    broker.ask_worker(crashing(broker, "os.kill(os.getpid(), 11)"))
    found = broker.wait(messages.StartFailed)
    assert "killed by SIGSEGV" in str(failures.rebuild(found.frames[0]))


def test_an_import_that_is_killed_by_chance_is_done_again(broker: Broker) -> None:
    killed = broker.directory / "killed"
    dies = "os.kill(os.getpid(), 9)"
    text = f"if not os.path.exists({str(killed)!r}): open({str(killed)!r}, 'w'); {dies}"
    captured = local_module(
        broker, f"import os\nvalue = 1\nif os.getpid() != {os.getpid()}:\n    {text}\n"
    )
    worker, _ = broker.ask_worker(captured)
    assert broker.ready(worker).call() == 1
    assert killed.exists()


def test_an_import_that_is_always_killed_is_given_up(broker: Broker) -> None:
    worker, _ = broker.ask_worker(crashing(broker, "os.kill(os.getpid(), 9)"))
    found = broker.wait(messages.WorkerExited).message
    assert isinstance(found, messages.WorkerExited)
    assert found.worker == worker.id
    assert found.cause.endswith("the process that loads it died: killed by SIGKILL")


def test_an_import_that_hangs_fails_the_start_in_time(broker: Broker) -> None:
    captured = crashing(broker, "time.sleep(1000)")
    broker.ask_worker(captured, startup_timeout_seconds=0.5)
    found = broker.wait(messages.StartFailed)
    assert "within 0.5 s" in str(failures.rebuild(found.frames[0]))


def test_after_a_failure_the_next_start_tries_anew(broker: Broker) -> None:
    flag = broker.directory / "flag"
    captured = crashing(broker, f"assert os.path.exists({str(flag)!r}), 'not yet'")
    broker.ask_worker(captured)
    broker.wait(messages.StartFailed)
    flag.touch()
    assert broker.start_worker(captured).call() == 1


def test_a_template_that_is_killed_is_made_again_and_its_workers_live(broker: Broker) -> None:
    f = define(SIMPLE)
    worker = broker.start_worker(f)
    os.kill(parent_of(worker.pid), signal.SIGKILL)
    wait_until(lambda: parent_of(worker.pid) == broker.agent.pid)
    assert worker.call() == 1
    again = broker.start_worker(f)
    assert again.call() == 1
    os.kill(worker.pid, signal.SIGSEGV)
    assert worker.exited().cause == "killed by SIGSEGV"


def test_a_base_template_that_is_killed_is_made_again(broker: Broker) -> None:
    worker = broker.start_worker(define(SIMPLE))
    os.kill(parent_of(parent_of(worker.pid)), signal.SIGKILL)
    broker.pump(0.2)
    assert broker.start_worker(define("def f():\n    return 2\n")).call() == 2
    assert worker.call() == 1


def heard(broker: Broker) -> None:
    """Wait until the host agent has done all that it was told so far."""
    nobody = WorkerId("ta-nobody")
    before = len(broker.received)
    captured = Capturer(define(SIMPLE)).read()
    spec = msgspec.structs.replace(spec_of(captured), code=Digest("0" * 32))
    broker.send(broker.host, messages.StartWorker(nobody, spec))
    while not any(
        isinstance(each.message, messages.StartFailed) and each.message.worker == nobody
        for each in broker.received[before:]
    ):
        broker.pump(0.1)


def test_workers_that_a_template_was_asked_for_as_it_died_come_from_another(
    broker: Broker,
) -> None:
    f = define(SIMPLE)
    template = parent_of(broker.start_worker(f).pid)
    os.kill(template, signal.SIGSTOP)
    asked = [broker.ask_worker(f)[0] for _ in range(5)]
    heard(broker)
    os.kill(template, signal.SIGKILL)
    for worker in asked:
        assert broker.ready(worker).call() == 1
        assert parent_of(worker.pid) != template


def test_a_worker_that_a_dead_template_may_have_forked_is_given_up(broker: Broker) -> None:
    f = define("import os\ndef f():\n    os.system('setsid sleep 300 &')\n    return 1\n")
    first = broker.start_worker(f)
    first.call()  # leaves a process that could be the second worker, for all that the agent knows
    template = parent_of(first.pid)
    os.kill(template, signal.SIGSTOP)
    worker, _ = broker.ask_worker(f)
    heard(broker)
    os.kill(template, signal.SIGKILL)
    assert worker.exited() == messages.WorkerExited(worker.id, "its template died")
    assert broker.start_worker(f).call() == 1


def test_a_template_that_another_was_asked_for_as_it_died_comes_from_a_third(
    broker: Broker,
) -> None:
    base = parent_of(parent_of(broker.start_worker(define(SIMPLE)).pid))
    os.kill(base, signal.SIGSTOP)
    worker, _ = broker.ask_worker(define("def f():\n    return 2\n"))
    with_imports, _ = broker.ask_worker(define("import numpy\ndef f():\n    return numpy.e\n"))
    heard(broker)
    os.kill(base, signal.SIGKILL)
    assert broker.ready(worker).call() == 2
    assert broker.ready(with_imports).call() < 3


def test_a_template_that_is_dead_but_not_reaped_is_asked_no_more(broker: Broker) -> None:
    f = define(SIMPLE)
    template = parent_of(broker.start_worker(f).pid)
    base = parent_of(template)
    os.kill(base, signal.SIGSTOP)
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: state_of(template) == "Z")
    worker, _ = broker.ask_worker(f)
    heard(broker)
    os.kill(base, signal.SIGCONT)
    assert broker.ready(worker).call() == 1


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_where_this_package_lies_makes_no_interpreter_of_its_own(broker: Broker) -> None:
    home = str(Path(kernel_worker.__file__).parent.parent)
    captured = Capturer(define(SIMPLE)).read()
    variables = {**environment_of(captured).variables}
    known = [place for place in variables.get("PYTHONPATH", "").split(os.pathsep) if place]
    variables["PYTHONPATH"] = os.pathsep.join([home, *known])
    one = broker.start_worker(captured)
    other = broker.start_worker(with_environment(captured, variables=variables))
    assert parent_of(parent_of(one.pid)) == parent_of(parent_of(other.pid))
