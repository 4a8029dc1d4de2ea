"""Run a cell of a notebook in a worker: `%%remote_run`.

Theory. The function of such a call is `run` with the globals that the call has bound: in them the
cell finds what it reads, and leaves what it assigns. It is run as IPython runs one: statements,
then the last expression, `await` included; with a shell (`cell_shell`) only where it has IPython's
syntax in it.

Guarantees: what the cell has assigned before it failed comes back with its exception; figures that
it leaves open are shown before anything is pickled, so nobody shows them twice.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import marshal
import sys
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InputCancellation, SerializationError
from kernel_worker.wire.cell import CARRIED, Cell, CellResult, NoLast
from kernel_worker.wire.leaving import pack
from kernel_worker.worker import displays, interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType


def run(cell: Cell, namespace: dict[str, Any]) -> CellResult:
    """Run `cell` with `namespace` as its globals, and return what it leaves.

    Raises:
        SerializationError: a name that was to come back cannot; carries the others.
        Exception: whatever the cell raises; carries what the cell has assigned by then.
    """
    interrupts.see_through(sys._getframe(1).f_code)  # noqa: SLF001  what this call is the function of
    before = frozenset(namespace)
    # No modification time: linecache keeps it though there is no such file.
    lines = cell.source.splitlines(keepends=True)
    linecache.cache[cell.file] = (len(cell.source), None, lines, cell.file)
    try:
        last = _executed(cell, namespace)
    except InputCancellation:
        raise
    except BaseException as error:
        displays.show_figures()
        _carry(error, cell, namespace, before)
        raise
    displays.show_figures()
    names, kept = _left(cell, namespace, before)
    result, refused, travels = pack(names, last, namespace, _gone(cell, namespace), kept)
    if last is not NoLast and not travels and not cell.is_quiet:
        displays.display(last)
    missing = [name for name in cell.back if name not in namespace] if cell.asked else []
    fatal = {} if cell.stays else {n: why for n, why in refused.items() if n not in cell.held}
    if missing or fatal:
        raise _refusal(fatal, missing, result)
    return result


def _executed(cell: Cell, namespace: dict[str, Any]) -> object:
    """Run the cell; return the value of its last expression, or `NoLast`."""
    with contextlib.ExitStack() as stack:
        if cell.uses_shell:
            from kernel_worker.worker import cell_shell  # noqa: PLC0415  IPython: 200 ms

            stack.enter_context(cell_shell.shell(namespace, cell.number))
        run_coroutine = _Loop(stack)
        value: object = None
        for code in _codes(cell):
            value = eval(code, namespace)  # noqa: S307  the user's cell
            if code.co_flags & inspect.CO_COROUTINE:
                value = run_coroutine(value)
        return value if cell.last and value is not None else NoLast


def _codes(cell: Cell) -> Iterator[CodeType]:
    for data in (cell.body, cell.last):
        if data:
            yield marshal.loads(data)  # noqa: S302  compiled where it was typed


class _Loop:
    """One event loop for the whole cell, made where it awaits something."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._runner: Any = None

    def __call__(self, coroutine: Any) -> Any:
        if self._runner is None:
            import asyncio  # noqa: PLC0415  30 ms that most cells do not need

            self._runner = self._stack.enter_context(asyncio.Runner())
        return self._runner.run(coroutine)


interrupts.see_through(run.__code__, _executed.__code__, _Loop.__call__.__code__)


def _left(
    cell: Cell, namespace: dict[str, Any], before: frozenset[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the names that come back with their values, and those that do not."""
    names = {name: namespace[name] for name in cell.back if name in namespace}
    if cell.has_stars:
        new = [n for n in namespace if n not in before and not n.startswith("_")]
        names |= {name: namespace[name] for name in new if name not in names}
    return names, ()


def _gone(cell: Cell, namespace: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in cell.deleted if name not in namespace)


def _carry(
    error: BaseException, cell: Cell, namespace: dict[str, Any], before: frozenset[str]
) -> None:
    """Let an exception bring what the cell has assigned by then."""
    names, kept = _left(cell, namespace, before)
    gone = _gone(cell, namespace)
    if not names and not gone:
        return
    result, refused, _ = pack(names, NoLast, namespace, gone, kept)
    with contextlib.suppress(Exception):  # an exception that takes no attributes brings nothing
        vars(error)[CARRIED] = result
    if refused:
        error.add_note(f"[{', '.join(refused)} cannot be pickled: stayed on the worker]")


def _refusal(refused: dict[str, str], missing: list[str], result: CellResult) -> SerializationError:
    said = [f"{name} cannot come back ({why})" for name, why in refused.items()]
    said += [f"{name} was asked for, and the cell has not assigned it" for name in missing]
    remedy = "" if not refused else (
        ". All other names are there; name those that you want (-o), or keep what cannot travel "
        "on a worker (--session NAME)"
    )  # fmt: skip
    error = SerializationError(f"{'; '.join(said)}{remedy}.")
    vars(error)[CARRIED] = result
    return error
