from __future__ import annotations

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError
from notebook_ext.config import _State, afresh
from notebook_ext.config import config as shown


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_State, "chosen", {})
    monkeypatch.setattr(_State, "loaded", None)


def test_reading_and_setting() -> None:
    assert nb.config is shown
    assert nb.config.progress == "auto"
    nb.config.progress = "off"
    assert nb.config.progress == "off"
    nb.config.result_ttl = 60
    assert nb.config.result_ttl_seconds == nb.config.result_ttl == 60


def test_the_table_has_values_and_where_they_come_from() -> None:
    nb.config.progress = "text"
    lines = {line.split()[0]: line for line in repr(nb.config).splitlines()}
    assert lines["progress"].split() == ["progress", "text", "nb.config"]
    assert "NOTEBOOK_EXT_RUNTIME_DIR" in lines["runtime_dir"]
    assert "<td>progress</td><td>text</td><td>nb.config</td>" in nb.config._repr_html_()
    assert "progress" in dir(nb.config)


def test_what_cannot_be() -> None:
    with pytest.raises(InvalidError, match="progress"):
        nb.config.progress = "loud"
    with pytest.raises(InvalidError, match="speed"):
        nb.config.speed = 3
    with pytest.raises(AttributeError, match="speed"):
        _ = nb.config.speed
    with pytest.raises(AttributeError):
        _ = nb.config._private
    assert nb.config.progress == "auto"


def test_a_look_at_the_sources_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nb.config.progress = "off"
    before = nb.config.profile
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "another")
    assert (afresh().profile, afresh().progress) == ("another", "off")
    assert nb.config.profile == before
