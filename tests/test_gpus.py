"""Which devices may be used."""

from __future__ import annotations

import pytest

from kernel_worker import gpus
from kernel_worker.errors import InvalidError
from kernel_worker.model import Device


def test_none_is_none() -> None:
    assert gpus.devices("none") == ()


def test_devices_can_be_named() -> None:
    assert gpus.devices("0:H200, 3:A100") == (Device(0, "H200"), Device(3, "A100"))


@pytest.mark.parametrize("spec", ["H200", "0;1", "999", "-1"])
def test_anything_else_is_refused(spec: str) -> None:
    with pytest.raises(InvalidError, match="gpus="):
        gpus.devices(spec)
