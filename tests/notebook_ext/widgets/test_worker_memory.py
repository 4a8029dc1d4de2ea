from __future__ import annotations

import os

import msgspec

from kernel_worker import rendezvous
from notebook_ext.widgets.worker_memory import WorkerMemory, proportional_mib
from tests.notebook_ext.widgets.boards import status, worker

HERE = msgspec.structs.replace(status().hosts[0], machine=rendezvous.machine_id())
THERE = msgspec.structs.replace(HERE, host="ho-2", machine="elsewhere")


def test_a_worker_of_this_machine_is_read() -> None:
    me = worker(1, "f", pid=os.getpid())
    memory = WorkerMemory()
    memory.begin([HERE, THERE], [me])
    used = memory.used_mib(me)
    assert used is not None
    assert used > 5
    memory.begin([HERE, THERE], [me])
    assert memory.used_mib(me) == used, "it is not read again at once"


def test_what_is_elsewhere_starting_or_gone_is_not_known() -> None:
    memory = WorkerMemory()
    gone = worker(1, "f", pid=2**30)
    others = [worker(2, "f", pid=os.getpid(), host="ho-2"), worker(3, "f", pid=0), gone]
    memory.begin([HERE, THERE], others)
    assert [memory.used_mib(each) for each in others] == [None, None, None]
    assert proportional_mib(2**30) is None
