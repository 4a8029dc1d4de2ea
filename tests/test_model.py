"""What the nouns show of what they hold."""

from __future__ import annotations

import pytest
from rich.pretty import pretty_repr

from kernel_worker.model import CallContext, Environment

SHOWN, SECRET = "/somewhere", "s3cret"


@pytest.mark.parametrize("show", [repr, pretty_repr])
@pytest.mark.parametrize(
    "made",
    [
        Environment(SHOWN, (), {"TOKEN": SECRET}, "stamp"),
        CallContext(SHOWN, (("TOKEN", SECRET),)),
    ],
)
def test_values_of_variables_are_not_shown(made: object, show: type[str]) -> None:
    assert SHOWN in show(made)
    assert SECRET not in show(made)
