"""What a shell shows of an interrupt: the real thing is in acceptance/test_stop_button.py."""

from __future__ import annotations

import _thread
from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import notebook_ext as nb
from notebook_ext import shell_interrupts


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


def test_frames_of_ours_are_not_shown_others_are(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns |= {"nb": nb, "interrupt": _thread.interrupt_main}
    shell_interrupts.shorten()
    shell.run_cell("nb.gather(*map(interrupt, [2]))")  # type: ignore[no-untyped-call]
    assert capsys.readouterr().out.strip() == "KeyboardInterrupt"
    shell.run_cell("def own(): pass\nown(*map(interrupt, [2]))")  # type: ignore[no-untyped-call]
    shown = capsys.readouterr().out
    assert "own(*map" in shown
    assert "KeyboardInterrupt" in shown


def test_a_handler_that_is_there_stays(shell: InteractiveShell) -> None:
    shell.set_custom_exc((ZeroDivisionError,), lambda *_, **__: None)  # type: ignore[no-untyped-call]
    shell_interrupts.shorten()
    assert shell.custom_exceptions == (ZeroDivisionError,)


def test_a_script_has_no_shell() -> None:
    shell_interrupts.shorten()
