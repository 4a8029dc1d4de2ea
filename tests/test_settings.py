"""Where settings come from, and what is not allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_worker import settings
from kernel_worker.errors import InvalidError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.notebook_ext]\nprofile = "file"\nresult_ttl = 60\ngpus = [1, 0]\nlog_prefix = true\n'
    )
    (tmp_path / "deep" / "er").mkdir(parents=True)
    return tmp_path / "deep" / "er"


def test_defaults_follow_the_environment(tmp_path: Path) -> None:
    found = settings.load(
        environ={"HOME": "/home/me", "XDG_RUNTIME_DIR": str(tmp_path)}, start=tmp_path
    )
    assert found.runtime_dir == tmp_path / "notebook-ext"
    assert found.data_dir == Path("/home/me/.local/state/notebook-ext")
    assert found.idle_exit_seconds == 600
    assert set(found.origins.values()) == {"default"}
    bare = settings.load(environ={"HOME": "/h", "XDG_STATE_HOME": "/state"}, start=tmp_path)
    assert bare.runtime_dir.parent == Path("/tmp")
    assert bare.data_dir == Path("/state/notebook-ext")


def test_the_stronger_source_wins(project: Path) -> None:
    environ = {"HOME": "/h", "NOTEBOOK_EXT_PROFILE": "variable", "NOTEBOOK_EXT_MAX_WORKERS": "3"}
    found = settings.load({"max_workers": 2, "gpus": None}, environ, project)
    assert (found.profile, found.result_ttl_seconds, found.max_workers) == ("variable", 60.0, 2)
    assert found.gpus == (0, 1)
    assert settings.load({"gpus": "1:H200, 0"}, {}, project).gpus == (0, "1:H200")
    assert found.log_prefix is True
    assert found.origins["profile"] == "NOTEBOOK_EXT_PROFILE"
    assert found.origins["result_ttl_seconds"].endswith("pyproject.toml")
    assert found.origins["max_workers"] == "nb.config"
    assert found.origins["data_dir"] == "default"


def test_what_a_child_gets_makes_the_same_settings() -> None:
    given = {"profile": "p", "max_workers": 4, "log_prefix": True, "data_dir": "/d"}
    for devices in ((), (0, "1:H200"), None):
        first = settings.load(given | {"gpus": devices}, {"HOME": "/h"}, "/")
        again = settings.load(environ={"HOME": "/x", **settings.as_environment(first)}, start="/")
        assert again == first
        assert again.gpus == devices


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("profile", "a/b", "letters"),
        ("runtime_dir", "relative", "absolute"),
        ("idle_exit", "soon", "seconds"),
        ("idle_exit", -1, "seconds"),
        ("idle_exit", True, "seconds"),
        ("idle_exit", "inf", "seconds"),
        ("max_workers", 0, "whole number"),
        ("max_workers", "two", "whole number"),
        ("max_request_mib", 0, "whole number"),
        ("listen", "127.0.0.1:9465", "tcp://ADDRESS"),
        ("listen", "tcp://127.0.0.1:70000", "tcp://ADDRESS"),
        ("listen", "ipc:///tmp/x", "tcp://ADDRESS"),
        ("connection_file", "box.json", "absolute path"),
        ("web_address", "nowhere", "address of this machine"),
        ("web_port", 70_000, "a port"),
        ("web_port", True, "a port"),
        ("gpus", "0,x", "indices"),
        ("gpus", "0:", "declared ones"),
        ("gpus", -1, "indices"),
        ("progress", "loud", "widget"),
        ("log_prefix", "perhaps", "true or false"),
    ],
)
def test_bad_values_say_what_is_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(InvalidError) as raised:
        settings.load({name: value}, {"HOME": "/h"}, "/")
    assert name in str(raised.value)
    assert repr(value) in str(raised.value)
    assert allowed in str(raised.value)


def test_unknown_names_are_found(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="did you mean 'profile'"):
        settings.load({"profil": "x"}, {"HOME": "/h"}, "/")
    (tmp_path / "pyproject.toml").write_text("[tool.notebook_ext]\nspeed = 11\n")
    with pytest.raises(InvalidError, match="speed"):
        settings.load(environ={"HOME": "/h"}, start=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.notebook_ext\n")
    with pytest.raises(InvalidError, match="cannot be read"):
        settings.load(environ={"HOME": "/h"}, start=tmp_path)


def test_an_address_gets_the_usual_port_and_a_file_may_be_none() -> None:
    given = {"listen": "tcp://*", "connection_file": "~/box.json"}
    found = settings.load(given, {"HOME": "/h"}, "/")
    assert found.listen == "tcp://*:9465"
    assert found.connection_file == Path("~/box.json").expanduser()
    assert settings.load({"listen": "tcp://[::1]:7"}, {"HOME": "/h"}, "/").listen == "tcp://[::1]:7"
    environ = {"HOME": "/h", "NOTEBOOK_EXT_CONNECTION_FILE": "/box.json"}
    assert settings.load(environ=environ, start="/").connection_file == Path("/box.json")
    local = settings.load({"connection_file": "local"}, environ, "/")
    assert local.connection_file is None


def test_where_web_endpoints_listen() -> None:
    found = settings.load({"web_address": "::1", "web_port": "8000"}, {"HOME": "/h"}, "/")
    assert (found.web_address, found.web_port) == ("::1", 8000)


@pytest.mark.parametrize("line", ['connection_file = "/box.json"', 'web_address = "0.0.0.0"'])
def test_a_project_does_not_choose_where_calls_go(tmp_path: Path, line: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.notebook_ext]\n{line}\n")
    with pytest.raises(InvalidError, match="whose project it is would choose"):
        settings.load(environ={"HOME": "/h"}, start=tmp_path)
