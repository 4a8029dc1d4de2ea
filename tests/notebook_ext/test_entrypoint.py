from __future__ import annotations

import datetime as dt
from typing import Any, Literal, Optional

import click
import pytest

from notebook_ext.entrypoint import parse
from notebook_ext.exception import InvalidError

DAY = dt.datetime.fromisoformat("2026-01-02")


def every(  # noqa: PLR0917  as many as there are types
    n: int,
    name: str = "x",
    rate: float = 0.5,
    fast: bool = False,
    when: dt.datetime | None = None,
    limit: Optional[int] = None,  # noqa: UP045  the spelling that is tested
    colour: Literal["red", "blue"] = "red",
    learning_rate: float = 0.1,
    X: int = 1,  # noqa: N803  capital names are parameters too
) -> dict[str, Any]:
    """Say what arrived."""
    return dict(locals())


def called(*arguments: str) -> dict[str, Any]:
    given = parse(every, "every", arguments)
    return every(*given.positional, **given.named)


def test_options_have_the_types_of_the_parameters() -> None:
    assert called("--n", "3") == every(3)
    assert called("--n=3", "--fast", "--when", "2026-01-02", "--limit", "4", "--X", "7") == every(
        3,
        fast=True,
        when=DAY,
        limit=4,
        X=7,
    )
    assert called("--n", "3", "--no-fast", "--colour", "blue") == every(3, colour="blue")
    dashed = called("--n", "3", "--learning-rate", "2")
    assert dashed == called("--n", "3", "--learning_rate", "2") == every(3, learning_rate=2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--n'"),
        (("--n", "three"), "'three' is not a valid integer"),
        (("--n", "3", "--nmae", "x"), "No such option"),
        (("--n", "3", "--colour", "green"), "'green' is not one of 'red', 'blue'"),
        (("--n", "3", "more"), "unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        parse(every, "every", arguments)
    assert message in caught.value.format_message()


def test_parameters_without_a_type_are_like_their_defaults() -> None:
    def plain(text, count=3, share=0.5, loud=False):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  what is tested
        return text, count, share, loud

    given = parse(plain, "plain", ["--text", "5", "--count", "4", "--loud"])
    assert given.named == {"text": "5", "count": 4, "share": 0.5, "loud": True}


def test_positional_parameters_and_what_is_left() -> None:
    def rest(first: int, /, second: str = "s", *words: str) -> tuple[Any, ...]:
        return first, second, words

    given = parse(rest, "rest", ["--first", "1", "a", "b"])
    assert rest(*given.positional, **given.named) == (1, "s", ("a", "b"))


def test_a_hint_that_cannot_be_had_is_its_name() -> None:
    def odd(n: int, other: Missing = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidError, match=r"other: .*Missing.*allowed is str, int, float"):
        parse(odd, "odd", ["--n", "1"])


def test_other_types_are_refused_with_what_is_allowed() -> None:
    def lists(xs: list[int]) -> None: ...
    def either(x: int | str) -> None: ...
    def named(**options: int) -> None: ...

    for function, shown in ((lists, "xs: 'list"), (either, "x: 'int"), (named, r"\*\*options")):
        with pytest.raises(InvalidError, match=f"{shown}.*cannot be given on a command line"):
            parse(function, "f", [])
