"""A host starts workers, or says why not."""

from __future__ import annotations

import time

import msgspec
import pytest

from kernel_worker.model import Digest, WorkerId
from kernel_worker.wire import failures, messages
from notebook_ext.capture import Capturer
from tests.worker.harness import Broker, define, spec_of

PID = """
import os
def f(x=None):
    return os.getpid()
"""


@pytest.mark.clock
def test_a_second_worker_and_a_redefinition_are_quick(broker: Broker) -> None:
    broker.start_worker(define(PID))
    start = time.monotonic()
    broker.start_worker(define(PID))
    assert time.monotonic() - start < 2
    start = time.monotonic()
    broker.start_worker(define(PID + "    # edited\n    pass\n"))
    assert time.monotonic() - start < 2


def test_a_worker_that_is_killed_before_it_started(broker: Broker) -> None:
    worker, _ = broker.ask_worker(define("import time\ntime.sleep(0)\ndef f(): pass\n"))
    worker.tell_host(messages.KillWorker(worker.id))
    assert "kill" in worker.exited().cause


def test_what_cannot_be_loaded_fails_the_start_with_its_exception(broker: Broker) -> None:
    captured = Capturer(define(PID)).read()
    broker.start_worker(captured)
    bad, broken = WorkerId("ta-bad"), Digest("b" * 32)
    broker.send(broker.host, messages.StoreObject(broken), b"no code at all")
    spec = msgspec.structs.replace(spec_of(captured), code=broken)
    broker.send(broker.host, messages.StartWorker(bad, spec))
    found = broker.wait(messages.StartFailed, lambda m: m.worker == bad)
    assert "DeserializationError" in found.message.message
    assert type(failures.rebuild(found.frames[0])).__name__ == "DeserializationError"


def test_a_spec_whose_objects_were_not_sent_fails_to_start(broker: Broker) -> None:
    captured = Capturer(define(PID)).read()
    broker.send(broker.host, messages.StartWorker(WorkerId("ta-x"), spec_of(captured)))
    found = broker.wait(messages.StartFailed)
    assert "was not sent" in found.message.message


def test_devices_of_a_worker_are_the_only_ones_it_sees(broker: Broker) -> None:
    f = define("""
    import os
    def f():
        return os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("JPY_PARENT_PID")
    """)
    assert broker.start_worker(f).call() == ("", None)
    assert broker.start_worker(f, devices=(2, 0)).call() == ("2,0", None)
