"""`@concurrent` and `@batched`: what decorators below `@app.function` or `@app.cls` leave behind.

A decorator here returns what it was given, with a mark on it: options that whoever makes a
`Function` of it reads with `marked_options`. A mark is a plain attribute, so that a function that
is marked and never made remote is the function that it was.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from kernel_worker.errors import InvalidError
from notebook_ext import options as options_

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.options import Options

T = TypeVar("T")

_ATTRIBUTE = "__notebook_ext_options__"
ENDPOINT = "__notebook_ext_endpoint__"
"""Set on a function: what it is to the web (see `web.endpoints`)."""


def concurrent(
    raw: None = None, /, *, max_inputs: int | None = None, target_inputs: int | None = None
) -> Callable[[T], T]:
    """Let a worker run several inputs at once; below `@app.function()` or `@app.cls()`.

    Inputs of an async function run as tasks of one event loop, those of a sync one on threads.

    Args:
        raw: nothing; the decorator takes its options by name.
        max_inputs: how many inputs a worker runs at once, at most.
        target_inputs: how many of them the number of workers is reckoned by (`max_inputs` if not
            given): with fewer than `max_inputs`, workers have room for a sudden load.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    _refuse_bare("concurrent", raw, "max_inputs=10")
    options_.concurrency(max_inputs, target_inputs)
    given = {"max_inputs": max_inputs, "target_inputs": target_inputs}

    def mark(thing: T) -> T:
        return _marked("concurrent", thing, given, what="a function or a class", classes=True)

    return mark


def batched(
    raw: None = None, /, *, max_batch_size: int | None = None, wait_ms: int | None = None
) -> Callable[[T], T]:
    """Let one run of the function take several inputs; below `@app.function()`, or on a method.

    A batched method needs no `@nb.method()`, and is the only remote method of its class: all
    methods of an instance share its workers, and these run groups.

    Callers call it with single inputs. The function gets a list for each argument that any of them
    gave (defaults filled in where another did not), and returns a list with a result for each, in
    order. A result that is an exception fails its input alone; an exception that the function
    raises, or a result that is no such list, fails all of them. Retried inputs run in a group of
    their own. Calls that the function makes belong to the first input of the group, which
    `current_input_id` names too.

    Args:
        raw: nothing; the decorator takes its options by name.
        max_batch_size: how many inputs make a group, at most.
        wait_ms: how many milliseconds the first of them waits for more, at most.

    Raises:
        InvalidError: an option that cannot be, or something that cannot be decorated with it.
    """
    _refuse_bare("batched", raw, "max_batch_size=8, wait_ms=100")
    options_.batching(max_batch_size, wait_ms)
    given = {"max_batch_size": max_batch_size, "wait_ms": wait_ms}

    def mark(thing: T) -> T:
        return _marked("batched", thing, given, what="a function", classes=False)

    return mark


def marked_options(raw: object) -> dict[str, Any]:
    """Return the options that decorators below left on a function or on this very class."""
    found = vars(raw).get(_ATTRIBUTE, {}) if hasattr(raw, "__dict__") else {}
    return dict(found)


def is_endpoint(raw: object) -> bool:
    """Return whether a function is called by HTTP, or a class has a method that is."""
    if not inspect.isclass(raw):
        plain = raw.__func__ if isinstance(raw, staticmethod) else raw
        return inspect.isfunction(plain) and ENDPOINT in plain.__dict__
    members = [value for owner in raw.__mro__ for value in vars(owner).values()]
    return any(is_endpoint(value) for value in members if not inspect.isclass(value))


def builders(kind: type) -> list[str]:
    """Return the members of a class that make, when a worker is entered, what answers by HTTP."""
    found = []
    for owner in kind.__mro__:
        for name, value in vars(owner).items():
            raw = value.__func__ if isinstance(value, staticmethod) else value
            if is_endpoint(raw) and not inspect.isclass(raw) and raw.__dict__[ENDPOINT].is_builder:
                found.append(name)
    return found


def _refuse_bare(name: str, raw: object, example: str) -> None:
    if raw is not None:
        raise InvalidError(f"@{name} on {raw!r}: it needs options, as in @{name}({example}).")


def _marked(name: str, thing: T, given: dict[str, Any], *, what: str, classes: bool) -> T:
    if hasattr(thing, "__remote_reference__"):
        raise InvalidError(
            f"@{name} on {thing!r}: it goes below @app.function(), on the plain function: "
            f"swap the two lines."
        )
    if not callable(thing) or (inspect.isclass(thing) and not classes):
        raise InvalidError(f"@{name} on {thing!r}: allowed is {what}.")
    before = marked_options(thing)
    if clash := [option for option in given if option in before]:
        raise InvalidError(f"@{name} on {thing!r}: {clash[0]} is given twice; keep one of them.")
    if not classes:
        check_batched(thing)
    setattr(thing, _ATTRIBUTE, {**before, **given})
    return thing


def check_method(name: str, raw: object) -> dict[str, Any]:
    """Return the marks of a member of a class; raise `InvalidError` for one it cannot have."""
    marked = {} if inspect.isclass(raw) else marked_options(raw)
    if "max_inputs" in marked:
        raise InvalidError(
            f"@concurrent(max_inputs={marked['max_inputs']}) on {name}: it is a method; put it on "
            "the class, below @app.cls()."
        )
    return marked


def check_batched(raw: Any) -> None:
    """Raise `InvalidError` unless a function can take its arguments as lists."""
    name = getattr(raw, "__qualname__", repr(raw))
    raw = getattr(raw, "get_raw_f", lambda: raw)()
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(
            f"@batched on {name}: it is a generator; allowed is a function that returns a list."
        )
    star = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in inspect.signature(raw).parameters.values():
        if parameter.kind in star:
            raise InvalidError(
                f"@batched on {name}: it takes {parameter}; allowed are arguments with names, each "
                "of which gets a list."
            )


def streams_items(raw: Any, options: Options, name: str) -> bool:
    """Return whether a function gives items.

    Raises:
        InvalidError: what its options say of that cannot be.
    """
    is_one = inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)
    if is_one and options.is_generator is False:
        raise InvalidError(
            f"is_generator=False: {name} is a generator; allowed is True, or to leave it out."
        )
    streams = is_one or bool(options.is_generator)
    if streams and options.retries.max_retries:
        raise InvalidError(
            f"retries={options.retries.max_retries}: {name} is a generator, and what it gave "
            "cannot be taken back; allowed is 0. Catch the failure in its body, or where it is "
            "iterated."
        )
    if streams and (options.max_inputs > 1 or options.max_batch_size):
        option = "max_batch_size" if options.max_batch_size else "max_inputs"
        raise InvalidError(
            f"{option}={getattr(options, option)}: {name} is a generator, of which a worker "
            "runs one at a time; allowed is neither @concurrent nor @batched. Use max_containers."
        )
    return streams
