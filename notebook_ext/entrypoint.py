"""Command-line options made from a function's signature: `--n 3` for `def main(n: int)`.

Every parameter is an option of its name (`learning_rate` is `--learning-rate`, or as it is
written); `*args` takes what is left. What has no default has to be given.
"""

from __future__ import annotations

import datetime as dt
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import click

from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TYPES: dict[Any, click.ParamType[Any]] = {
    str: click.STRING,
    int: click.INT,
    float: click.FLOAT,
    dt.datetime: click.DateTime(),
}
ALLOWED = "str, int, float, bool, datetime.datetime, Literal of str, or one of these or None"


class Arguments(NamedTuple):
    """What a function is called with."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


def parse(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> Arguments:
    """Return what `arguments`, as they stand on a command line, mean to `function`.

    Args:
        function: whose signature counts.
        name: what messages call it.
        arguments: the words behind the name.

    Raises:
        InvalidError: a parameter cannot be given on a command line.
        click.ClickException: an argument is missing, unknown or of another type.
    """
    signature = inspect.signature(function)
    command = click.Command(
        name, params=_parameters(function, signature, name), help=_help(function)
    )
    with command.make_context(name, list(arguments)) as context:
        given = context.params
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        value = given[parameter.name.lower()]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += [*named.values(), *value]
            named.clear()
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            named[parameter.name] = value
    return Arguments(tuple(positional), named)


def _parameters(
    function: Callable[..., Any], signature: inspect.Signature, name: str
) -> list[click.Parameter]:
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  a hint that cannot be had is no reason not to run
        hints = {}
    return [_parameter(each, hints, name) for each in signature.parameters.values()]


def _parameter(
    parameter: inspect.Parameter, hints: dict[str, Any], function: str
) -> click.Parameter:
    hint = hints.get(parameter.name, parameter.annotation)
    if hint is parameter.empty:
        default = parameter.default
        hint = type(default) if type(default) in {*_TYPES, bool} else str
    kind = _kind(hint)
    if kind is None or parameter.kind is parameter.VAR_KEYWORD:
        shown = getattr(hint, "__name__", None) if isinstance(hint, type) else None
        raise InvalidError(
            f"{function}({parameter}: {shown or hint!r}) cannot be given on a command line: "
            f"allowed is {ALLOWED}."
        )
    if parameter.kind is parameter.VAR_POSITIONAL:
        return click.Argument([parameter.name.lower()], nargs=-1, type=kind)
    return _option(parameter, kind, is_flag=kind is click.BOOL)


def _option(
    parameter: inspect.Parameter, kind: click.ParamType[Any], *, is_flag: bool
) -> click.Option:
    required = parameter.default is parameter.empty
    dashed = parameter.name.replace("_", "-")
    names = [f"--{dashed}/--no-{dashed}"] if is_flag else [f"--{dashed}"]
    if dashed != parameter.name and not is_flag:
        names.append(f"--{parameter.name}")
    return click.Option(
        [parameter.name.lower(), *names],
        type=None if is_flag else kind,
        required=required,
        show_default=not required,
        **({} if required else {"default": parameter.default}),
    )


def _kind(hint: Any) -> click.ParamType[Any] | None:
    """Return how a value of this annotation is read, or None."""
    if isinstance(hint, str):  # it could not be evaluated
        hint = {each.__name__: each for each in (str, int, float, bool)}.get(hint, hint)
    if hint is bool:
        return click.BOOL
    if hint is Any:
        return click.STRING
    if get_origin(hint) in {typing.Union, types.UnionType}:
        kinds = [each for each in get_args(hint) if each is not type(None)]
        return _kind(kinds[0]) if len(kinds) == 1 else None
    if get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint)):
        return click.Choice(get_args(hint))
    return _TYPES.get(hint) if isinstance(hint, type) else None


def _help(function: Callable[..., Any]) -> str | None:
    return inspect.getdoc(function)
