from __future__ import annotations

from kernel_worker.core.hosts import Host, describe
from kernel_worker.core.pools import Pool, Worker
from kernel_worker.model import HostId, Resources, WorkerId
from tests.core.simulation import make_resources, make_spec


def holding(host: Host, resources: Resources, devices: tuple[int, ...] = ()) -> Worker:
    spec = make_spec("held", resources=resources)
    worker = Worker(
        WorkerId(f"ta-{len(host.workers)}"), Pool(spec.pool, spec, spec.settings), host, devices, 0
    )
    host.workers[worker.id] = worker
    return worker


def test_whole_devices_are_exclusive_and_fractions_are_packed() -> None:
    host = Host(HostId("ho"), make_resources(gpus=3))
    half = Resources(gpu=0.5)
    assert host.place(half, ()) == (0,)
    holding(host, half, (1,))
    assert host.place(half, host.workers.values()) == (1,)
    assert host.place(Resources(gpu=2, gpu_kind="h200"), host.workers.values()) == (0, 2)
    assert host.place(Resources(gpu=3), host.workers.values()) is None
    assert host.place(Resources(gpu=1, gpu_kind="A100"), host.workers.values()) is None
    assert host.device_use() == {1: 0.5}


def test_what_others_of_the_machine_have_is_not_to_be_had_for_now() -> None:
    host = Host(HostId("ho"), make_resources(gpus=2))
    host.held = frozenset({0})
    assert host.place(Resources(gpu=1), ()) == (1,)
    assert host.place(Resources(gpu=0.5), ()) == (1,)
    assert host.place(Resources(gpu=2), ()) is None
    assert host.could_ever_fit(Resources(gpu=2))
    assert host.could_fit(Resources(gpu=2), ())
    assert not host.could_fit(Resources(gpu=2), [holding(host, Resources(gpu=1), (1,))])


def test_memory_is_reserved_and_cpu_is_not() -> None:
    host = Host(HostId("ho"), make_resources(2, 1000))
    assert host.place(Resources(memory_mib=600), [holding(host, Resources(memory_mib=500))]) is None
    assert host.place(Resources(cpu=2), host.workers.values()) == ()
    assert not host.could_ever_fit(Resources(cpu=2.5))
    assert host.slots(Resources(cpu=0.5)) == 4
    assert host.slots(Resources(cpu=0)) > 100


def test_descriptions_say_what_there_is() -> None:
    host = Host(HostId("ho"), make_resources(2, 1000, 2))
    assert describe([host]) == "2 CPUs, 1000 MiB of memory, 2 x NVIDIA H200"
    assert describe([]) == "no host"
