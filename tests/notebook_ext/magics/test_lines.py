from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from tests.notebook_ext.magics.typing import Typed


def offered(shell: InteractiveShell, line: str) -> list[str]:
    with provisionalcompleter():
        return [each.text for each in shell.Completer.completions(line, len(line))]


def test_tab_offers_options_and_nothing_else(shell: InteractiveShell) -> None:
    assert offered(shell, "%%remote --ke") == ["--keep-warm"]
    assert all(each.startswith("--") for each in offered(shell, "%%remote "))
    assert offered(shell, "%%remote --gpu ") == ["any", "none"]


def test_tab_in_the_body_offers_names(shell: InteractiveShell) -> None:
    assert "print" in offered(shell, "%%remote\npri")


def test_the_help_has_an_example(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    typed("%%remote?")
    shown = capsys.readouterr().out
    assert "def score(x):" in shown
    assert "--keep-warm" in shown


@pytest.mark.parametrize("magic", ["%remote_status", "%remote_calls"])
def test_without_a_broker_it_says_so_and_starts_none(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, magic: str
) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "nobody-there")
    assert "No broker is running" in repr(typed(magic))
    assert "No broker is running" in repr(typed(magic))


@pytest.mark.parametrize(
    "line",
    [
        "%remote_status now",
        "%remote_calls x",
        "%remote_cancel",
        "%remote_attach",
        "%remote_attach ta-1 ta-2",
        "%remote_attach x",
    ],
)
def test_wrong_arguments_are_one_line(typed: Typed, line: str) -> None:
    with pytest.raises(UsageError):
        typed(line)
