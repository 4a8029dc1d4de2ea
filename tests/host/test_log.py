"""What a host agent says: a plain line, or one of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kernel_worker.host import log


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    yield
    log.begin("text")


def test_lines_are_as_the_setting_says(capsys: pytest.CaptureFixture[str]) -> None:
    log.say("there is no broker")
    assert capsys.readouterr().err == "host agent: there is no broker\n"
    log.begin("json")
    log.say("there is no broker")
    said = json.loads(capsys.readouterr().err)
    assert (said["process"], said["level"]) == ("host", "WARNING")
    assert said["message"] == "there is no broker"
