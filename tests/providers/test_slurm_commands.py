from __future__ import annotations

from pathlib import Path

import pytest

from kernel_worker.errors import ConnectionError  # noqa: A004  ours
from kernel_worker.model import Device, HostResources
from kernel_worker.providers.slurm_commands import (
    Job,
    jobs,
    machines,
    read_devices,
    read_jobs,
    shapes,
)


def test_machines_have_what_sinfo_says() -> None:
    said = "cpu*|8|16000|(null)\ngpu|64|512000|gpu:a100:2(S:0-1),shard:8\nold|4|900|gpu:1\n"
    assert shapes(said, only_default=False) == [
        HostResources(8.0, 16_000, ()),
        HostResources(64.0, 512_000, (Device(0, "a100"), Device(1, "a100"))),
        HostResources(4.0, 900, (Device(0, ""),)),
    ]
    assert shapes(said, only_default=True) == [HostResources(8.0, 16_000, ())]
    mixed = "gpu*|64|512000|tmpdisk:9,gpu:a100:1(S:0),gpu:h100:1(S:1)"
    (machine,) = shapes(mixed, only_default=True)
    assert machine.devices == (Device(0, "a100"), Device(1, "h100"))


def test_jobs_are_those_of_a_prefix() -> None:
    said = (
        "17|slurm-a-1.1764.5|RUNNING|n1|None|name=slurm-a-1&cpus=1\n"
        "18|slurm-a-2.1764.6|PENDING||Nodes required are DOWN, DRAINED|a|b\n"
        "19|other.sh|RUNNING|n2|None|(null)\n"
        "slurm_load_jobs: something else\n"
    )
    assert read_jobs(said, "slurm-a-") == [
        Job("17", "slurm-a-1.1764.5", "RUNNING", "n1", "None", "name=slurm-a-1&cpus=1"),
        Job("18", "slurm-a-2.1764.6", "PENDING", "", "Nodes required are DOWN, DRAINED", "a|b"),
    ]


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ("JOB_GRES=gpu:h200:1 Nodes=n2 CPU_IDs=1 GRES=gpu:h200:1(IDX:0) Min=0", ("0",)),
        ("Nodes=n2 GRES=gpu:4(IDX:0-1,6-7) MinCPUsNode=1", ("0", "1", "6", "7")),
        ("Nodes=n2 GRES= MinCPUsNode=1", ()),
    ],
)
def test_devices_are_indices(said: str, devices: tuple[str, ...]) -> None:
    assert read_devices(said) == devices


def test_where_slurms_commands_are_not_it_is_said_where_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConnectionError, match=r"no sinfo here.*login node.*provider start"):
        machines("gpu")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("squeue: fatal: Could not establish a configuration source", "controller answers at"),
        ("slurm_load_jobs error: Socket timed out on send", "controller answers at"),
        ("slurm_load_jobs error: Invalid user id", "squeue ended with 1: slurm_load_jobs error"),
    ],
)
def test_what_a_command_says_is_told(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConnectionError, match=told) as raised:
        jobs("t-")
    assert said in str(raised.value)
