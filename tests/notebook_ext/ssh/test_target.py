"""What stands behind `ssh://`, and the command line that comes of it."""

from __future__ import annotations

import pytest

from kernel_worker.errors import InvalidError
from notebook_ext.ssh.target import Target, parse


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ssh://box", Target("box")),
        ("ssh://anna@box.example.org:2222", Target("box.example.org", "anna", 2222)),
        ("ssh://box/opt/v 1/bin/notebook-ext", Target("box", command="/opt/v 1/bin/notebook-ext")),
        ("ssh://box/", Target("box")),
        ("ssh://[::1]:22", Target("[::1]", port=22)),
    ],
)
def test_what_it_says(text: str, target: Target) -> None:
    assert parse(text) == target


@pytest.mark.parametrize(
    "text",
    ["ssh://", "ssh:/box", "ssh://box:0", "ssh://box:65536", "ssh://-oProxyCommand=x", "ssh://a b"],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidError, match=r"no machine that ssh reaches; allowed is ssh://"):
        parse(text)


def test_the_command_line() -> None:
    line = parse("ssh://anna@[::1]:22/opt/it's/notebook-ext").arguments("/n.sock", "/f.sock", 0.2)
    assert line[0] == "ssh"
    assert {"-p22", "-lanna", "-L/n.sock:/f.sock", "-oBatchMode=yes", "-oConnectTimeout=1"} < {
        *line
    }
    assert line[-3:-1] == ["--", "::1"]
    assert line[-1].startswith("sh -c 'for each in ")
    assert line[-1].endswith("""/notebook-ext'"'"'""") or "it'\"'\"'s" in line[-1]
    assert (str(parse("ssh://anna@box:22/x")), parse("ssh://anna@box:22").login) == (
        "ssh://anna@box:22",
        "ssh -p 22 anna@box",
    )
