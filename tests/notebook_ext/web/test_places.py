from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_worker import settings
from notebook_ext.web.places import FIRST_PORT, Places


class Bound:
    """Binds labels, at ports from one on."""

    def __init__(self, directory: Path) -> None:
        self._own = dataclasses.replace(settings.load(environ={}), data_dir=directory)
        self._opened: list[socket.socket] = []
        self.file = Places(self._own).directory / "web-ports.json"

    def __call__(self, port: int, label: str) -> int:
        listening, url = Places(dataclasses.replace(self._own, web_port=port)).bind(label)
        self._opened.append(listening)
        return int(url.rpartition(":")[2])

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Bound]:
    bound = Bound(tmp_path / "data")
    yield bound
    bound.close()


def test_a_label_keeps_its_port_while_that_can_be_had(places: Bound) -> None:
    first = places(0, "shop")
    assert first >= FIRST_PORT
    assert places(0, "shop") != first, "another process has it"
    places.close()
    assert places(0, "shop") != first, "it is the last one that counts"


def test_the_setting_counts_more_than_what_is_remembered(places: Bound) -> None:
    free = places(0, "other")
    places.close()
    assert places(free, "shop") >= free
    places.close()
    before = places(0, "shop")
    places.close()
    begin = before + 1
    assert begin <= places(begin, "shop") < begin + 200


def test_ports_of_labels_that_are_gone_are_given_again(places: Bound) -> None:
    begin = places(0, "shop")
    places.close()
    ports = {f"label-{at}": begin + at for at in range(300)}
    places.file.write_text(json.dumps(ports))
    given = places(begin, "new")
    assert begin <= given < begin + 200
    kept = json.loads(places.file.read_text())
    assert kept["new"] == given
    assert len(set(kept.values())) == len(kept), "no port is two labels'"
