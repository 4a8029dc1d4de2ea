"""The broker's log as JSON: each line an object, exceptions in it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from kernel_worker.broker.log_json import JsonLines
from tests.broker.speaking import Client, RunningBroker


def test_a_record_is_one_line_with_its_exception() -> None:
    try:
        raise LookupError("gone")
    except LookupError:
        record = logging.LogRecord("a.b", 40, "", 0, "%s failed", ("it",), sys.exc_info())
    said = json.loads(JsonLines().format(record))
    assert (said["level"], said["room"], said["message"]) == ("ERROR", "a.b", "it failed")
    assert (said["process"], said["pid"]) == ("broker", os.getpid())
    assert said["exception"].endswith("LookupError: gone")


class Logged(RunningBroker):
    """One whose log can be read."""

    place: Path

    def log(self) -> int:
        return os.open(self.place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def test_a_broker_writes_its_log_as_the_setting_says(short_dir: Path) -> None:
    Logged.place = short_dir / "log"
    broker = Logged(short_dir, log_format="json")
    Client(broker).close()  # once it has answered it hears signals
    broker.end()
    lines = [json.loads(line) for line in Logged.place.read_text().splitlines()]
    assert [line["message"].partition(" ")[0] for line in lines] == ["listens", "stops:"]
    assert {line["process"] for line in lines} == {"broker"}
