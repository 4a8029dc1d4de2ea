from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from notebook_ext.call import FunctionCall
from notebook_ext.magics.table import LINES
from tests.notebook_ext.magics.typing import Typed


def offered(shell: InteractiveShell, line: str) -> list[str]:
    with provisionalcompleter():
        return [each.text for each in shell.Completer.completions(line, len(line))]


def test_tab_offers_options_and_nothing_else(shell: InteractiveShell) -> None:
    assert offered(shell, "%%remote --ke") == ["--keep-warm"]
    assert all(each.startswith("--") for each in offered(shell, "%%remote "))
    assert offered(shell, "%%remote --gpu ") == ["any", "none"]


@pytest.mark.parametrize(
    "line",
    [
        "%%remote --cpu ",
        "%%remote --cpu=",
        "%%remote --gpu x",
        "%%remote_run --session ",
        "%remote_connect x",
        "%remote_sessions --end ",
        "%remote_sessions --end=",
        "%remote_logs ",
        "%remote_graph ",
        "%remote_graph nobody",
        "%remote_status ",
    ],
)
def test_where_there_is_nothing_to_offer_nobody_else_offers_anything(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "nobody-there")
    assert offered(shell, line) == []
    with pytest.warns(PendingDeprecationWarning):
        assert shell.complete("", line, len(line))[1] == []
    assert offered(shell, "pri"), "elsewhere others do"


def test_tab_behind_an_equals_sign_offers_the_values_of_the_option(
    shell: InteractiveShell,
) -> None:
    assert offered(shell, "%%remote --gpu=") == ["any", "none"]
    assert offered(shell, "%%remote --cpu 2 --gpu=a") == ["any"]
    assert offered(shell, "%%remote --rerun-on-crash=n") == ["no"]


def test_tab_behind_a_magic_that_takes_an_expression_offers_attributes(
    shell: InteractiveShell,
) -> None:
    shell.user_ns["held"] = Path("/tmp")
    assert any("is_dir" in each for each in offered(shell, "%remote_pool held.is_d"))


def test_tab_in_the_body_offers_names(shell: InteractiveShell) -> None:
    assert "print" in offered(shell, "%%remote\npri")


@pytest.mark.parametrize(
    ("magic", "example", "option"),
    [
        ("remote", "def score(x):", "--keep-warm"),
        ("remote_run", "model = fit(data)", "--dry-run"),
        ("remote_spawn", "training.get()", "--as"),
    ],
)
def test_the_help_of_every_cell_has_an_example(
    typed: Typed, capsys: pytest.CaptureFixture[str], magic: str, example: str, option: str
) -> None:
    typed(f"%%{magic}?")
    shown = capsys.readouterr().out
    assert example in shown
    assert option in shown


@pytest.mark.parametrize("magic", ["%remote_status", "%remote_calls"])
def test_without_a_broker_it_says_so_and_starts_none(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, magic: str
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "nobody-there")
    assert "No broker is running" in repr(typed(magic))
    assert "No broker is running" in repr(typed(magic))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%remote_status now", "takes no argument"),
        ("%remote_calls x", "unknown option x; it takes --limit"),
        ("%remote_calls --limt 3", "did you mean --limit?"),
        ("%remote_calls --limit many", "--limit needs a number, such as --limit 20"),
        ("%remote_cancel", "takes one call: its id, or a variable that holds it"),
        ("%remote_cancel nobody", "nobody is no id of a call"),
        ("%remote_cancel fc-1 --terminate", "did you mean --terminate-containers?"),
        ("%remote_logs", "takes one call"),
        ("%remote_logs --follow", "unknown option --follow; it takes none"),
        ("%remote_attach", "takes one worker (ta-…) or call (fc-…)"),
        ("%remote_attach ta-1 ta-2", "takes one worker"),
        ("%remote_attach sum", "sum is no id of a worker (ta-…) or a call (fc-…), and no variable"),
        ("%remote_debug x", "x is no id of a call (fc-…), and no variable holds one"),
        ("%remote_debug fc-1 fc-2", "takes one call"),
        ("%remote_connect", "takes `local`, a connection file, ssh://HOST or a cluster"),
        ("%remote_connect pbs://head", "is no cluster; allowed are ray://auto"),
        ("%remote_connect ray://auto?hosts=1", "no option 'hosts'; allowed are max_hosts"),
        ("%remote_connect /nowhere.json", "connection file /nowhere.json: No such file"),
        ("%remote_sessions --end nope", "there are: none"),
        ("%remote_sessions nope", "unknown option nope; it takes --end"),
    ],
)
def test_wrong_arguments_are_one_line(typed: Typed, line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        typed(line)
    assert str(caught.value).startswith(line.split(maxsplit=1)[0])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tab_offers_what_each_magic_takes(shell: InteractiveShell) -> None:
    shell.user_ns["training"] = FunctionCall.from_id("fc-1")
    assert offered(shell, "%remote_cancel trai") == ["training"]  # no broker is started for it
    assert offered(shell, "%remote_cancel --") == ["--terminate-containers"]
    assert offered(shell, "%remote_connect ") == ["local", "ssh://"]
    assert offered(shell, "%remote_calls --l") == ["--limit"]
    assert offered(shell, "%remote_sessions ") == ["--end"]
    assert offered(shell, "%%remote_run --dr") == ["--dry-run"]
    assert offered(shell, "%%remote_run --gpu ") == ["any", "none"]
    assert "--as" in offered(shell, "%%remote_spawn --")
    assert "--as" not in offered(shell, "%%remote_run --")


@pytest.mark.parametrize("name", [each.name for each in LINES])
def test_the_help_of_every_line_shows_an_example(
    typed: Typed, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    typed(f"%{name}?")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith(f"%{name}") for line in lines)


def test_without_sessions_it_says_so(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("%remote_sessions")
    assert capsys.readouterr().out == "There are no sessions.\n"
