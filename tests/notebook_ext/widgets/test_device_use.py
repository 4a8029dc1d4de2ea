from __future__ import annotations

import msgspec
import pytest

from kernel_worker import gpus, rendezvous
from kernel_worker.model import Device, HostResources
from notebook_ext.widgets.device_use import DeviceUses, of_host
from tests import driver
from tests.notebook_ext.widgets.boards import status, worker

HERE = msgspec.structs.replace(status().hosts[0], machine=rendezvous.machine_id())
THERE = msgspec.structs.replace(HERE, host="ho-2", machine="elsewhere")


def test_what_devices_of_this_machine_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver.install(monkeypatch, {101: 2 * driver.GIB})
    shown = worker(1, "f", pid=101, devices=(0, 1, 5))
    uses = DeviceUses()
    uses.begin([HERE], [shown])
    assert uses.text(shown) == (
        "GPU 0 (41 %, 3.0 of 140.0 GiB, its own 2.0), GPU 1 (3.0 of 140.0 GiB), GPU 5"
    )
    monkeypatch.setattr(gpus, "uses", lambda _: pytest.fail("they were read just now"))
    uses.begin([HERE], [shown])


def test_of_other_machines_it_is_known_which_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "uses", lambda _: pytest.fail("there is none here"))
    far, without = worker(1, "f", host="ho-2", devices=(0,)), worker(2, "f")
    uses = DeviceUses()
    uses.begin([HERE, THERE], [far, without])
    assert (uses.text(far), uses.text(without)) == ("GPU 0", "")


def test_of_a_host_it_is_told_which_ones_others_use() -> None:
    resources = HostResources(2.0, 1000, (Device(0, "H200"), Device(1, "H200"), Device(2, "A100")))
    host = msgspec.structs.replace(HERE, resources=resources)
    assert of_host(host) == "2 H200, 1 A100"
    held = msgspec.structs.replace(host, held=(0, 2))
    assert of_host(held) == "2 H200, 1 A100 (other brokers use 0, 2)"
    assert of_host(msgspec.structs.replace(host, resources=HostResources(2.0, 1000))) == ""
