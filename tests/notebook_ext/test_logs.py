from __future__ import annotations

import msgspec

from kernel_worker.wire.display import Display, encode
from kernel_worker.wire.messages import LogEntry
from notebook_ext.logs import LogRecord, _Lines


def read(lines: _Lines, *entries: LogEntry) -> list[LogRecord]:
    return list(lines.of(msgspec.msgpack.encode(entries)))


def test_pieces_become_lines_by_input_and_stream() -> None:
    lines = _Lines()
    assert read(lines, LogEntry(0, "stdout", 1.0, b"on")) == []
    assert read(
        lines, LogEntry(1, "stdout", 2.0, b"other\n"), LogEntry(0, "stderr", 2.0, b"e")
    ) == [LogRecord("other", "stdout", 1, 2.0)]
    assert read(lines, LogEntry(0, "stdout", 3.0, b"e")) == []
    assert read(lines, LogEntry(0, "stdout", 4.0, b"!\r\ntwo\n\nlast")) == [
        LogRecord("one!", "stdout", 0, 4.0),
        LogRecord("two", "stdout", 0, 4.0),
        LogRecord("", "stdout", 0, 4.0),
    ]
    assert list(lines.rest()) == [
        LogRecord("e", "stderr", 0, 2.0),
        LogRecord("last", "stdout", 0, 4.0),
    ]
    assert list(lines.rest()) == []


def test_displays_are_records_with_their_bundle() -> None:
    data = {"text/plain": "a table", "text/html": "<table>"}
    shown = LogEntry(2, "display", 1.0, encode(Display(data)))
    bare = LogEntry(2, "display", 1.0, encode(Display({"text/html": "<b>"})))
    cleared = LogEntry(2, "display", 1.0, encode(Display(clear=True)))
    first, second = read(_Lines(), shown, cleared, bare)
    assert first == LogRecord("a table", "display", 2, 1.0, data)
    assert str(first) == "a table"
    assert second.text == ""


def test_no_line_goes_on_behind_a_gap() -> None:
    begun = LogEntry(0, "stdout", 1.0, b"begun")
    notice = LogEntry(-1, "notice", 2.0, b"Some output is missing here.\n")
    records = read(_Lines(), begun, notice)
    assert [str(each) for each in records] == ["begun", "Some output is missing here."]
