import warnings

import pytest

from notebook_ext import cloud, process
from notebook_ext.config import _State, current
from notebook_ext.exception import InvalidError


@pytest.fixture(autouse=True)
def own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test chooses end with it."""
    monkeypatch.setattr(_State, "chosen", {})
    monkeypatch.setattr(_State, "loaded", None)
    monkeypatch.setattr(cloud, "_warned", set())


def test_it_warns_once_each() -> None:
    with pytest.warns(UserWarning, match="client='c' means something on a cloud only"):
        cloud.check("x", {"client": "c", "region": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cloud.check("x", {"client": "d"})


def test_an_environment_is_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "connected", lambda: None)
    cloud.check("x", {"environment_name": "staging"})
    assert current().profile == "staging"
    cloud.check("x", {"environment_name": None})
    assert current().profile == "staging"
    with pytest.raises(InvalidError, match="environment_name=3: allowed is a non-empty str"):
        cloud.select_profile(3)


def test_a_process_has_one_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connected:
        settings = current()

    monkeypatch.setattr(process, "connected", Connected)
    cloud.select_profile(current().profile)
    with pytest.raises(InvalidError, match="environment_name='prod': this process is connected"):
        cloud.select_profile("prod")


def test_another_name_is_refused() -> None:
    with pytest.raises(InvalidError, match="nmae=1: allowed in deploy beside the names is"):
        cloud.check("deploy", {"nmae": 1})
