import pytest
from IPython.core.error import UsageError

from notebook_ext.magics import options


def test_options_are_the_decorators() -> None:
    line = options.parse(
        "--gpu any --cpu=2 --memory 512 --timeout 60 --startup-timeout 5 --retries 3 "
        "--keep-warm 1 --max-containers 4 --buffer-containers 1 --scaledown-window 30 --app demo"
    )
    assert line.app == "demo"
    assert line.given == {
        "gpu": "any",
        "cpu": 2.0,
        "memory": 512,
        "timeout": 60.0,
        "startup_timeout": 5.0,
        "retries": 3,
        "min_containers": 1,
        "max_containers": 4,
        "buffer_containers": 1,
        "scaledown_window": 30.0,
    }


@pytest.mark.parametrize(
    ("written", "value"), [("none", None), ("2", 2), ("0.5", 0.5), ("H200:2", "H200:2")]
)
def test_a_device_is_a_number_or_a_name(written: str, value: object) -> None:
    assert options.parse(f"--gpu {written}").given == {"gpu": value}


def test_nothing_is_nothing() -> None:
    assert options.parse("").given == {}
    assert options.parse("   # only a comment").given == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--gpus 1", "unknown option --gpus; did you mean --gpu?"),
        ("--keep_warm 1", "did you mean --keep-warm?"),
        ("--zzz", "%%remote? lists the options"),
        ("cpu=2", "'cpu' is no option"),
        ("--cpu", "--cpu needs a value, such as --cpu 2"),
        ("--cpu --gpu any", "--cpu needs a value"),
        ("--cpu two", "--cpu two: allowed is cores for each worker, such as --cpu 2"),
        ("--cpu -1", "%%remote: --cpu -1: allowed is a number from 0 on"),
        ("--timeout -3", "%%remote: --timeout -3: allowed is"),
        ("--startup-timeout=-3", "%%remote: --startup-timeout -3: allowed is"),
        (
            "--keep-warm 4 --max-containers 2",
            "--keep-warm 4: allowed is at most --max-containers 2",
        ),
        ("--memory 1,x", "--memory 1,x"),
        ("--retries 99", "--retries 99: allowed is"),
        ("--cpu 1 --cpu 2", "given twice"),
        ("--keep-warm 1 --min-containers 2", "given twice"),
        ("--name 'x", "no closing quotation"),
        ("--rerun-on-crash maybe", "yes or no"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.parse(line)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tab_offers_what_is_not_there_yet() -> None:
    offered = options.REMOTE.complete("--cpu 2 --", "--")
    assert "--gpu" in offered
    assert "--cpu" not in offered
    assert options.REMOTE.complete("--ke", "--ke") == ["--keep-warm"]
    assert "--keep-warm" not in options.REMOTE.complete("--min-containers 1 --", "--")


def test_tab_offers_values_where_there_are_some() -> None:
    assert options.REMOTE.complete("--gpu ", "") == ["any", "none"]
    assert options.REMOTE.complete("--gpu a", "a") == ["any"]
    assert options.REMOTE.complete("--cpu ", "") == []
    assert "--gpu" not in options.REMOTE.complete("--gpu=any --", "--"), "it was given"


def test_the_help_has_every_option() -> None:
    for option in options.OPTIONS:
        assert option.flag in options.help_text()
