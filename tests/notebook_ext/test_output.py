from __future__ import annotations

import contextvars
import io
import logging
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernel_worker.wire.display import Display, encode
from notebook_ext import output as rooms
from notebook_ext.output import CallOutput, Printer
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until

CELL: contextvars.ContextVar[str] = contextvars.ContextVar("CELL")


class Stream:
    """A stream that writes down in which context it was written."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def write(self, text: str) -> None:
        self.heard.append((CELL.get("none"), text))

    def flush(self) -> None:
        pass


def installed(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Replace stdout; in the test itself, because pytest replaces it after the fixtures."""
    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def made(printer: Printer, cell: str, name: str = "") -> CallOutput:
    context = contextvars.copy_context()
    context.run(CELL.set, cell)
    return CallOutput(printer, context, name or "f", "fc-1", prefixed=bool(name))


def shown(stream: Stream) -> str:
    return "".join(text for _, text in stream.heard)


def test_text_lands_in_the_cell_that_made_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    one, two = made(printer, "one"), made(printer, "two")
    one.write(0, "stdout", b"a\n")
    two.write(0, "stdout", "\u00e4".encode())
    printer.close()
    assert stream.heard == [("one", "a\n"), ("two", "ä")]


def test_a_kernels_stream_is_flushed_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every other one after each text: what was printed is out, whatever ends the process."""
    stream = installed(monkeypatch)
    flushed: list[int] = []
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(len(stream.heard)))
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "stdout", b"a\n")
    call.write(0, "stdout", b"b\n")
    wait_until(lambda: flushed == [1, 2])
    monkeypatch.setattr(stream, "pub_thread", None, raising=False)
    began = time.monotonic()
    for _ in range(998):
        call.write(0, "stdout", b"x\n")
    wait_until(lambda: flushed[-1] == 1_000)
    assert len(flushed) <= 4 + (time.monotonic() - began) / rooms._SPACING_SECONDS
    call.write(0, "stdout", b"y\n")
    printer.close()
    assert flushed[-1] == 1_001


def test_a_front_end_that_does_not_listen_for_a_while_loses_no_line(
    kernel: PlainKernel, tmp_path: Path
) -> None:
    """Each of them had been a message, and of these a kernel's socket keeps some hundreds."""
    source = f"""
        import contextvars, pathlib, threading
        from notebook_ext.output import CallOutput, Printer
        printer, written = Printer(), threading.Event()
        output = CallOutput(printer, contextvars.copy_context(), "f")
        for n in range(9_000):
            output.write(0, "stdout", f"line {{n}}\\n".encode())
        output.after(written.set)
        assert written.wait(60)
        pathlib.Path({str(tmp_path / "written")!r}).touch()
    """
    cell = kernel.begin(textwrap.dedent(source))
    wait_until((tmp_path / "written").exists)
    kernel.finish(cell)
    assert cell.stdout.splitlines() == [f"line {n}" for n in range(9_000)]


def test_an_outcome_never_overtakes_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    order: list[str] = []
    blocked = threading.Event()
    call = made(printer, "one")
    call.after(order.append, "at once")
    assert order == ["at once"]
    printer.put(lambda: blocked.wait(10))
    call.write(0, "stdout", b"x")
    call.after(lambda: order.append(stream.heard[-1][1]))
    assert order == ["at once"]
    blocked.set()
    wait_until(lambda: len(order) == 2)
    assert order[1] == "x"
    wait_until(lambda: not printer.is_busy)
    printer.close()


def test_a_stream_that_fails_costs_nothing_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    monkeypatch.setattr(stream, "write", lambda _: 1 / 0)
    order: list[str] = []
    with caplog.at_level(logging.WARNING, "notebook_ext"):
        made(printer, "one").write(0, "stdout", b"x")
        made(printer, "one").write(0, "stdout", b"y")
        printer.after(order.append, "outcome")
        wait_until(lambda: order)
    printer.close()
    printer.close()
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_stream_without_the_character_shows_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", bare)
    printer = Printer()
    made(printer, "one").write(0, "stdout", "grün\n".encode())
    printer.close()
    monkeypatch.undo()
    assert bare.detach().getvalue() == b"gr\\xfcn\n"


def test_without_a_stream_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    printer = Printer()
    made(printer, "one").write(0, "stdout", b"x")
    printer.close()
    assert not printer.is_busy


def test_a_flood_is_cut_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = installed(monkeypatch)
    monkeypatch.setattr(rooms, "SHOWN_LINES", 3)
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "stdout", b"1\n2\n")
    call.write(0, "stdout", b"3\n4\n5\n")
    call.write(0, "stdout", b"6\n7")
    call.write(0, "stdout", b"", 1_000)
    call.finish()
    call.finish()
    printer.close()
    assert shown(stream) == "1\n2\n3\n"
    assert capsys.readouterr().err == (
        "notebook_ext: f has written 3 lines; the rest is not shown, it is in "
        "nb.FunctionCall.from_id('fc-1').logs().\n"
        "notebook_ext: 1,003 lines of f were not shown.\n"
    )


def test_endless_lines_are_cut_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    monkeypatch.setattr(rooms, "SHOWN_BYTES", 5)
    printer = Printer()
    call = made(printer, "one")
    for _ in range(3):
        call.write(0, "stdout", b"\r1234")
    printer.close()
    assert shown(stream) == "\r1234" * 2


def test_what_is_within_the_limit_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "stderr", b"1\n")
    call.finish()
    printer.close()
    assert capsys.readouterr().err == "1\n"


def test_lines_of_several_inputs_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    call = made(printer, "one")
    call.write(1, "stdout", b"first ")
    call.write(1, "stdout", b"line\nsecond ")
    call.write(2, "stdout", b"another\n")
    call.write(1, "stdout", b"line\n")
    printer.close()
    assert shown(stream) == "first line\nsecond \nanother\nline\n"


def test_a_notice_begins_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    call = made(printer, "one")
    call.write(1, "stderr", b"begun")
    call.notice("notice")
    call.write(1, "stderr", b"goes on\n")
    printer.close()
    assert capsys.readouterr().err == "begun\nnotice\ngoes on\n"


def test_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    call = made(printer, "one", "f")
    call.write(1, "stdout", b"a\nb")
    call.write(1, "stdout", b"c\r\n")
    call.write(2, "stdout", b"d\n\ne\n")
    call.write(3, "stdout", b"\r10%")
    call.write(3, "stdout", b"\r20%")
    printer.close()
    assert shown(stream) == (
        "[f #1] a\n[f #1] bc\n[f #2] d\n[f #2] \n[f #2] e\n\r[f #3] 10%\r[f #3] 20%"
    )


class Shell:
    """A shell that writes down what is published."""

    def __init__(self) -> None:
        self.display_pub = self
        self.heard: list[Any] = []

    def publish(self, **what: Any) -> None:
        self.heard.append((CELL.get("none"), what))

    def clear_output(self, *, wait: bool) -> None:
        self.heard.append((CELL.get("none"), wait))


def test_displays_go_to_the_shell_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "display", encode(Display({"text/html": "<b>"}, {}, {"display_id": "1"})))
    call.write(0, "display", encode(Display(clear=True, wait=True)))
    printer.close()
    data = {"text/html": "<b>"}
    published = {"data": data, "metadata": {}, "transient": {"display_id": "1"}, "update": False}
    assert shell.heard == [("one", published), ("one", True)]


def test_without_a_shell_the_text_of_a_display_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    stream = installed(monkeypatch)
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "display", encode(Display({"text/plain": "table", "text/html": "<b>"})))
    call.write(0, "display", encode(Display({"text/html": "<b>"})))
    call.write(0, "display", encode(Display(clear=True)))
    printer.close()
    assert shown(stream) == "table\n"


def test_what_a_build_says_is_shown_on_stderr_in_whole_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "stderr", b"of an input")
    call.write(0, "build", b"Building an image\n$ pip_install x\n")
    monkeypatch.setattr(rooms, "SHOWN_BYTES", 10)
    call.write(0, "build", b"too much\n")
    printer.close()
    said = capsys.readouterr()
    assert said.err == "of an input\nBuilding an image\n$ pip_install x\n"
    assert said.out == ""
