from __future__ import annotations

import math
import warnings

import pytest

from kernel_worker.errors import InvalidError
from kernel_worker.model import PoolSettings, RetryPolicy
from notebook_ext import cloud, options
from notebook_ext.options import Options, Retries, parse


def test_defaults() -> None:
    made = parse({})
    assert made == Options()
    assert made.resources.cpu == 1.0
    assert made.timeout_seconds == 300.0
    assert made.settings == PoolSettings()
    assert parse({"gpu": None, "retries": None, "timeout": None, "cpu": None}) == made


def test_everything_is_read() -> None:
    made = parse(
        {
            "name": "n",
            "cpu": 0.5,
            "memory": 512,
            "gpu": "H200:2",
            "min_containers": 1,
            "max_containers": 4,
            "buffer_containers": 2,
            "scaledown_window": 30,
            "timeout": 5,
            "startup_timeout": 9,
            "rerun_on_crash": False,
            "retries": Retries(3, initial_delay=0.0),
            "allow_concurrent_inputs": 1,
            "single_use_containers": True,
            "nested_loops": True,
            "env": {"B": "2", "A": "1"},
            "tags": {"t": "x"},
            "is_generator": False,
            "serialized": True,
        }
    )
    assert made.name == "n"
    assert made.resources == (made.resources.__class__)(0.5, 512, 2.0, "H200")
    assert made.settings == PoolSettings(1, 4, 2, 30.0)
    assert (made.timeout_seconds, made.startup_timeout_seconds) == (5.0, 9.0)
    assert made.retries == RetryPolicy(3, 2.0, 0.0, 60.0)
    assert made.env == (("A", "1"), ("B", "2"))
    assert made.single_use
    assert made.nested_loops
    assert not made.rerun_on_crash


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        ("any", (1.0, "")),
        ("A100-80GB", (1.0, "A100-80GB")),
        ("any:2", (2.0, "")),
        (2, (2.0, "")),
        (0.25, (0.25, "")),
        (None, (0.0, "")),
    ],
)
def test_gpu(gpu: object, found: tuple[float, str]) -> None:
    resources = parse({"gpu": gpu}).resources
    assert (resources.gpu, resources.gpu_kind) == found


def test_spellings_of_2024() -> None:
    old = {"keep_warm": 1, "concurrency_limit": 3, "container_idle_timeout": 20}
    new = {"min_containers": 1, "max_containers": 3, "scaledown_window": 20}
    assert parse(old) == parse(new)
    with pytest.raises(InvalidError, match="same option"):
        parse({"keep_warm": 1, "min_containers": 1})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("cpu", 0, "cores above 0"),
        ("cpu", math.inf, "cores above 0"),
        ("cpu", "2", "number"),
        ("memory", 0, "int of MiB from 1"),
        ("memory", (2, 1), "not below the request"),
        ("memory", (1, 2, 3), "(request, limit)"),
        ("memory", (1, 0), "int of MiB from 1"),
        ("gpu", "H200:0", "fraction"),
        ("gpu", 1.5, "fraction"),
        ("gpu", True, "fraction"),
        ("gpu", [], "fraction"),
        ("min_containers", -1, "int, 0 to 1000"),
        ("min_containers", True, "int, 0 to 1000"),
        ("max_containers", 0, "int from 1"),
        ("min_containers", 1_001, "0 to 1000"),
        ("max_containers", 2**70, "int from 1"),
        ("memory", 2**70, "int of MiB from 1"),
        ("scaledown_window", 0, "seconds above 0"),
        ("timeout", -3, "number"),
        ("timeout", math.inf, "seconds above 0"),
        ("retries", 11, "0 to 10"),
        ("retries", "3", "Retries"),
        ("rerun_on_crash", 1, "True or False"),
        ("name", "", "non-empty"),
        ("name", "a/b", "slash"),
        ("env", {"A": 1}, "names without = to str"),
        ("env", "A=1", "names without = to str"),
        ("env", {"A=": "1"}, "without ="),
        ("env", {"": "1"}, "without ="),
        ("env", {"A": "\0"}, "null character"),
        ("is_generator", "yes", "True or False"),
        ("allow_concurrent_inputs", 0, "an int, 1 to 1000"),
        ("image", object(), "an Image, such as"),
        ("schedule", object(), "allowed is Cron"),
        ("secrets", [object()], "a list of Secret"),
        ("tmeout", 3, "Did you mean timeout"),
        ("zzz", 3, "no option"),
    ],
)
def test_a_bad_value_names_the_option_the_value_and_what_is_allowed(
    name: str, value: object, allowed: str
) -> None:
    with pytest.raises(InvalidError, match=allowed) as caught:
        parse({name: value})
    assert name in str(caught.value)


def test_settings_must_agree() -> None:
    with pytest.raises(InvalidError, match="at most max_containers=1"):
        parse({"min_containers": 2, "max_containers": 1})
    settings = options.check_settings({"min_containers": 2}, PoolSettings(max_containers=3))
    assert settings == PoolSettings(2, 3)


@pytest.mark.parametrize(
    "given",
    [
        {"max_retries": -1},
        {"max_retries": 1, "backoff_coefficient": 0.5},
        {"max_retries": 1, "initial_delay": 61},
        {"max_retries": 1, "max_delay": -1},
        {"max_retries": True},
    ],
)
def test_bad_retries(given: dict[str, float]) -> None:
    with pytest.raises(InvalidError):
        Retries(**given)  # type: ignore[arg-type]


def test_unbuilt_options_may_be_none() -> None:
    assert parse({"image": None, "secrets": [], "schedule": None}) == Options()


def test_cloud_options_warn_once() -> None:
    cloud._warned.discard("region")
    with pytest.warns(UserWarning, match="region='eu'"):
        parse({"region": "eu"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse({"region": "eu", "cloud": None}) == Options()


def test_what_changes_a_pool() -> None:
    base = Options()
    assert parse({"min_containers": 1}).changes_pool() == base.changes_pool()
    assert parse({"timeout": 1}).changes_pool() != base.changes_pool()
