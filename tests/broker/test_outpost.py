"""What an outpost says before it dials anybody; the rest is shown by `acceptance/test_hosts`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kernel_worker.broker import outpost
from kernel_worker.keys import Keys


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--drain-seconds", "nan", "--drain-seconds nan: allowed are 0 and more"),
        ("--drain-seconds", "-1", "--drain-seconds -1.0: allowed are 0 and more"),
        ("--gpus", "first", "first"),
        ("--name", "a b", "--name 'a b': allowed are"),
    ],
)
def test_a_bad_option_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    file = tmp_path / "host.json"
    given = Keys(tmp_path).invite("box", "tcp://127.0.0.1:1", "host")
    file.touch(0o600)
    file.write_bytes(msgspec.json.encode(given))
    assert outpost.main(["--connect", str(file), f"{option}={value}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert said in error
