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
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(
    text: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidError) as raised:
        parse(text, options)
    assert said in str(raised.value)
