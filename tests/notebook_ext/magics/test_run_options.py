import pytest
from IPython.core.error import UsageError

from notebook_ext.magics import run_options


def test_names_are_given_in_any_way() -> None:
    line = run_options.parse("remote_run", "-i a,b -o 'x y' --gpu any --session s --dry-run")
    assert line.sent == ("a", "b")
    assert line.back == ("x", "y")
    assert line.given == {"gpu": "any"}
    assert (line.session, line.dry_run, line.restart, line.variable) == ("s", True, False, None)


def test_nothing_is_found_in_the_cell() -> None:
    line = run_options.parse("remote_run", "")
    assert (line.sent, line.back, line.session, line.dry_run) == (None, None, None, False)


def test_no_names_can_be_asked_for() -> None:
    assert run_options.parse("remote_run", "-i= -o=").sent == ()


def test_a_spawned_cell_has_a_variable() -> None:
    assert run_options.parse("remote_spawn", "--as fc --cpu 2").variable == "fc"


@pytest.mark.parametrize(
    ("magic", "line", "said"),
    [
        ("remote_run", "--gpus 1", "%%remote_run: unknown option --gpus; did you mean --gpu?"),
        ("remote_run", "--as fc", "%%remote_run: unknown option --as"),
        ("remote_run", "--retries 3", "unknown option --retries"),
        ("remote_run", "x", "'x' is no option; options start with --, see %%remote_run?"),
        ("remote_run", "-i 1a", "-i 1a: allowed is names to send"),
        ("remote_run", "-i", "-i needs a value, such as -i a,b"),
        ("remote_run", "--dry-run=yes", "--dry-run takes no value"),
        ("remote_run", "--cpu two", "--cpu two: allowed is cores"),
        ("remote_run", "--cpu -1", "cpu"),
        ("remote_run", "--restart", "--restart needs --session NAME"),
        ("remote_run", "--session a/b", "--session a/b: allowed is"),
        ("remote_spawn", "--as 1x", "--as 1x: allowed is the name for the call"),
        ("remote_spawn", "--session s --session t", "session is given twice"),
    ],
)
def test_what_cannot_be_is_one_line(magic: str, line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        run_options.parse(magic, line)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("magic", run_options.GRAMMARS)
def test_the_help_has_every_option(magic: str) -> None:
    text = run_options.help_text(magic)
    assert all(option.flag in text for option in run_options.GRAMMARS[magic].options)
