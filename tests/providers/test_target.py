from __future__ import annotations

import pytest

from kernel_worker.errors import InvalidError
from kernel_worker.providers.target import Target, parse


def test_an_address_says_engine_place_and_options_and_what_is_given_is_stronger() -> None:
    assert parse("ray://auto") == Target("ray", "auto")
    assert parse("ray://") == Target("ray", "")
    assert parse("ray://head.example") == Target("ray", "head.example")
    assert parse("dask://[::1]:8786/") == Target("dask", "[::1]:8786")
    found = parse("local://?max_hosts=2&gpus=H200:4&idle=5", {"gpus": 3, "cpus": 2, "memory": 10})
    assert found == Target("local", "", 2, 0, 5.0, 2, 3, "", 10)
    assert parse("local://", {"gpus": "A100:2", "min_hosts": None}).gpu_kind == "A100"
    assert parse("local://", {"min_hosts": "8"}).min_hosts == 8


def test_a_batch_system_has_options_of_its_own() -> None:
    found = parse(
        "slurm://gpu?account=physics&walltime=90",
        {"worker_init": "module load cuda", "python": "python3", "scheduler_options": "--nice"},
    )
    said = ("physics", 90, "--nice", "module load cuda", "python3")
    assert found == Target("slurm", "gpu", 8, 0, 60.0, 0, -1, "", 0, *said)
    assert parse("slurm://") == Target("slurm", "")
    for text, minutes in (("01:30:59", 90), ("1-02:03:00", 1563), ("100:00:00", 6000), (5, 5)):
        assert parse("slurm://gpu", {"walltime": text}).walltime_minutes == minutes


def test_the_name_is_the_same_for_the_same_engine() -> None:
    assert parse("dask://10.0.0.1:8786?max_hosts=1").name == "dask-10.0.0.1-8786"
    assert parse("ray://").name == "ray"


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("spark://head", {}, "allowed are ray://auto"),
        ("ray:auto", {}, "allowed are ray://auto"),
        ("dask://head", {}, "no HOST:PORT"),
        ("ray://a b", {}, "no HOST:PORT"),
        ("ray://auto?hosts=3", {}, "no option 'hosts'; allowed are max_hosts"),
        ("ray://auto?max_hosts=0", {}, "a whole number from 1 on"),
        ("ray://auto", {"max_hosts": True}, "a whole number from 1 on"),
        ("ray://auto", {"idle": -1}, "a whole number from 0 on"),
        ("ray://auto", {"gpus": "two"}, "a number such as 2, or H200:2"),
        ("ray://auto", {"min_hosts": 9}, "at most max_hosts, 8"),
        ("ray://auto", {"account": "physics"}, "no option 'account'; allowed are max_hosts"),
        ("slurm://gpu", {"hosts": 9}, "memory, account, walltime, scheduler_options, worker_init"),
        ("slurm://gpu", {"walltime": "1:00"}, "from 5 minutes on: 90, 01:30:00 or 1-12:00:00"),
        ("slurm://gpu", {"walltime": "00:04:59"}, "from 5 minutes on"),
        ("slurm://gpu", {"walltime": True}, "from 5 minutes on"),
        ("slurm://gpu", {"account": "a b"}, "the name of an account"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(
    text: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidError) as raised:
        parse(text, options)
    assert said in str(raised.value)
