from __future__ import annotations

import pytest

from kernel_worker.errors import InvalidError
from kernel_worker.providers.job import comment, devices, read_comment
from kernel_worker.providers.provider import HostSpec

SPEC = HostSpec("slurm-a1-2", 3, 4_000, 2, "NVIDIA H200", True)


def test_a_comment_says_what_the_host_is_and_what_became_of_it_in_one_word() -> None:
    assert read_comment(comment(SPEC)) == (SPEC, "")
    said = "exit code 1: it's no 'use' & costs 5 %; \"x\"\n$HOME|`y` ü"
    written = comment(SPEC, said)
    assert not set(" '\"$`|\n;") & set(written), "neither sbatch nor squeue takes it apart"
    assert read_comment(f"{written}\n") == (SPEC, said)
    assert read_comment(comment(SPEC, "x" * 9_000))[1] == "x" * 400


@pytest.mark.parametrize("text", ["", "(null)", "name=a", "name=a&cpus=many"])
def test_a_comment_that_somebody_has_changed_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|cpus"):
        read_comment(text)


def test_the_devices_are_those_that_the_job_sees_and_they_are_whole() -> None:
    both = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "2,3"}
    assert devices(SPEC, both) == ("0", "1")
    assert devices(SPEC, {"SLURM_JOB_GPUS": "2,3"}) == ("2", "3")
    assert devices(HostSpec("a", 1), both) == ()
    for seen in ({}, {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}):
        with pytest.raises(InvalidError, match="2 whole"):
            devices(SPEC, seen)
