from __future__ import annotations

import contextvars
import sys
import threading

import pytest

from notebook_ext import output as rooms
from notebook_ext.output import CallOutput, Printer
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


def made(printer: Printer, cell: str, prefix: str = "") -> CallOutput:
    context = contextvars.copy_context()
    context.run(CELL.set, cell)
    return CallOutput(printer, context, prefix)


def test_text_lands_in_the_cell_that_made_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    one, two = made(printer, "one"), made(printer, "two")
    one.write(0, "stdout", b"a\n")
    two.write(0, "stdout", "\u00e4".encode())
    printer.close()
    assert stream.heard == [("one", "a\n"), ("two", "ä")]


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


def test_a_stream_that_fails_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    monkeypatch.setattr(stream, "write", lambda _: 1 / 0)
    made(printer, "one").write(0, "stdout", b"x")
    wait_until(lambda: not printer.is_busy)
    printer.close()
    printer.close()


def test_a_flood_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = installed(monkeypatch)
    monkeypatch.setattr(rooms, "SHOWN_LINES", 3)
    printer = Printer()
    call = made(printer, "one")
    call.write(0, "stdout", b"1\n2\n")
    call.write(0, "stdout", b"3\n4\n5\n")
    call.write(0, "stdout", b"6\n")
    printer.close()
    assert "".join(text for _, text in stream.heard) == "1\n2\n3\n"
    assert capsys.readouterr().err.count("More than 3 lines") == 1


def test_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = installed(monkeypatch)
    printer = Printer()
    call = made(printer, "one", "f")
    call.write(1, "stdout", b"a\nb")
    call.write(1, "stdout", b"c\n")
    call.write(2, "stdout", b"d\n")
    printer.close()
    assert "".join(t for _, t in stream.heard) == "[f #1] a\n[f #1] bc\n[f #2] d\n"
