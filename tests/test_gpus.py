"""Which devices may be used, and what goes on on them."""

from __future__ import annotations

import pynvml
import pytest

from kernel_worker import gpus
from kernel_worker.errors import InvalidError
from kernel_worker.model import Device
from tests import driver

BOTH = (Device(0, "NVIDIA H200", 140 << 10), Device(1, "NVIDIA H200", 140 << 10))


def test_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    driver.install(monkeypatch)
    assert gpus.devices("none") == ()


def test_devices_can_be_named() -> None:
    assert gpus.devices("0:H200, 3:A100") == (Device(0, "H200"), Device(3, "A100"))


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, BOTH),
        ("1", BOTH[1:]),
        ("GPU-aaaa, 7", BOTH[:1]),
        ("", ()),
    ],
)
def test_all_are_found_but_those_that_cuda_programs_are_not_to_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: tuple[Device, ...]
) -> None:
    driver.install(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.devices() == gpus.devices("auto") == found


def test_those_that_are_named_are_taken_whatever_is_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.devices("1,0:H200") == (BOTH[1], Device(0, "H200"))
    with pytest.raises(InvalidError, match=r"no device 2 here \(there is: 0, 1\)"):
        gpus.devices("2")


def test_the_driver_has_names_for_those_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.names([]) == {}
    driver.install(monkeypatch)
    assert gpus.names([1, 7]) == {1: "GPU-bbbb"}


@pytest.mark.parametrize("spec", ["H200", "0;1", "999", "-1"])
def test_anything_else_is_refused(spec: str) -> None:
    with pytest.raises(InvalidError, match="gpus="):
        gpus.devices(spec)


def test_what_goes_on_is_told_as_far_as_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    driver.install(monkeypatch, {7: 2 * driver.GIB, 8: None})
    assert gpus.uses([0, 1, 9]) == {
        0: gpus.DeviceUse(3 << 10, 140 << 10, 41, {7: 2048, 8: 0}),
        1: gpus.DeviceUse(3 << 10, 140 << 10, None, {}),
    }


def test_a_driver_that_does_not_work_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    driver.install(monkeypatch)

    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    assert gpus.devices() == ()
    assert gpus.uses([0]) == {}


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_LIBRARY", "libnotebook-ext-none.so")
    assert gpus.devices() == ()
    assert gpus.uses([0]) == {}
