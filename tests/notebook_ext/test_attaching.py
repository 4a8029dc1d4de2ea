"""Attaching from the client: what is asked for, and what is shown."""

from __future__ import annotations

import pytest

import notebook_ext as nb
from notebook_ext.attaching import AttachedWorker
from notebook_ext.exception import InvalidError, NotFoundError


@pytest.mark.parametrize("wrong", ["", "x", 3, None])
def test_it_takes_a_worker_or_a_call(wrong: object) -> None:
    with pytest.raises(InvalidError, match="give a worker"):
        nb.attach(wrong)  # type: ignore[arg-type]


def test_where_nothing_runs_there_is_nothing_to_attach_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_EXT_PROFILE", "nobody-there")
    with pytest.raises(NotFoundError, match="no broker is running"):
        nb.attach(nb.FunctionCall.from_id("fc-1"))


def test_it_says_how_to_attach() -> None:
    attached = AttachedWorker("ta-1", "f<x>", 7, "/run/kernels/ta-1.json")
    assert "jupyter console --existing /run/kernels/ta-1.json\n" in repr(attached)
    assert "--ServerApp.allow_external_kernels=True" in repr(attached)
    assert "--ServerApp.external_connection_dir=/run/kernels\n" in repr(attached)
    assert "f&lt;x&gt;" in attached._repr_html_()
