"""What the gateway keeps of what is deployed; `acceptance/api/test_web.py` shows it at work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import notebook_ext as nb
from kernel_worker.errors import InvalidError
from notebook_ext.web import deployed
from notebook_ext.web.deployed import Deployed


class Gateway:
    """Remembers what is served; `taken` cannot be."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.served: set[str] = set()

    def serve(self, target: Any) -> str:
        if target.label == "taken":
            raise InvalidError("the endpoint taken cannot listen")
        self.served.add(target.label)
        return f"http://{target.label}"

    def withdraw(self, label: str) -> None:
        self.served.discard(label)


class Kept(Deployed):
    """Looks nothing up."""

    def _serve(self, each: dict[str, Any]) -> str:
        target: Any = SimpleNamespace(label=each["label"])
        return self._gateway.serve(target)


def endpoint(label: str, app: str = "shop") -> dict[str, Any]:
    shown = {"app": app, "name": "f", "function": "f", "shown": label, "label": label}
    return {**shown, "needs_token": False, "timeout": 300.0}


def test_a_deployment_that_cannot_be_served_changes_nothing(tmp_path: Path) -> None:
    gateway: Any = Gateway()
    file = tmp_path / "web-endpoints.json"
    kept = Kept(gateway, file)
    assert kept.deployed({"app": "shop", "endpoints": [endpoint("a"), endpoint("b")]}) == {
        "urls": {"a": "http://a", "b": "http://b"}
    }
    before = json.loads(file.read_text())
    answer = kept.deployed({"app": "shop", "endpoints": [endpoint("c"), endpoint("taken")]})
    assert answer == {"error": "the endpoint taken cannot listen"}
    assert gateway.served == {"a", "b"}
    assert json.loads(file.read_text()) == before
    kept.deployed({"app": "shop", "endpoints": [endpoint("b"), endpoint("c")]})
    assert gateway.served == {"b", "c"}
    assert [each["label"] for each in json.loads(file.read_text())] == ["b", "c"]
    kept.deployed({"app": "shop", "endpoints": []})
    assert (gateway.served, kept.has_any) == (set(), False)


def test_labels_are_looked_at_before_anything_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    app = nb.App("shop")

    @app.function()
    @nb.asgi_app(label="mine")
    def web() -> None: ...

    classes = app.registered_classes.items()
    monkeypatch.setattr(deployed, "entries", lambda: [endpoint("mine")])
    deployed.check("shop", classes)  # its own, of before
    monkeypatch.setattr(deployed, "entries", lambda: [endpoint("mine", "other")])
    with pytest.raises(InvalidError, match="label='mine': other has an endpoint of that label"):
        app.deploy()


def test_a_log_that_has_become_large_is_put_aside_for_who_has_it_open(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.touch(0o600)
    deployed.shorten(log)
    with log.open("ab", buffering=0) as file:
        file.write(b"little\n")
        deployed.shorten(log)
        assert log.read_bytes() == b"little\n"
        file.write(b"x" * 1_000_000)
        deployed.shorten(log)
        file.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert log.with_name("web.log.old").read_bytes() == b"little\n" + b"x" * 1_000_000
    assert log.with_name("web.log.old").stat().st_mode & 0o077 == 0
