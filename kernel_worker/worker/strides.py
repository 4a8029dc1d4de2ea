"""The innermost loops: a stride of quick inputs, with as little between two of them as can be.

Theory. The target of the loop is the page itself: that the position is written before anything
else of an input costs one store. What other threads may ask for in the middle of a stride lies in
`Work.asked`, one list that is empty as good as always. The clock is read by whoever calls, between
two strides.

Guarantees: position, then a look at what was asked for, then user code; a value that is no plain
one is pickled before the next input begins. In a child that user code forked, nothing of the page
is believed (it is the parent's): `refuse_late` ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kernel_worker.wire import page as pages
from kernel_worker.wire import payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kernel_worker.worker.work import Work

_PLAIN: Final = payload.PLAIN_TYPES
_AT: Final = pages.POSITION


def run_tuples(  # noqa: PLR0917  what every input needs, in one frame
    function: Callable[..., Any],
    inputs: Iterable[tuple[Any, ...]],
    position: int,
    slots: memoryview,
    work: Work,
    refuse_late: Callable[[Work, int], None],
) -> bool:
    """Call `function` with each tuple of `inputs`; what it returns is added to `work`.

    Args:
        function: what to call.
        inputs: positional arguments.
        position: that of the first.
        slots: the page's; says which input runs, also where this raises.
        work: the lease.
        refuse_late: called where an input returned while any of the lease had been interrupted.

    Returns:
        False where the input that the page names was given back, and thus did not run.

    Raises:
        InputCancellation: the input was cancelled before it began.
        BaseException: what the function raises, or a value that cannot be pickled.
    """
    asked, hits, keep, at, plain = work.asked, work.hits, work.values.append, _AT, _PLAIN
    for slots[at], arguments in enumerate(inputs, position):
        if asked and not work.heed(slots[at]):
            return False
        value = function(*arguments)
        if hits:
            refuse_late(work, slots[at])
        if type(value) in plain:
            keep(value)
        else:
            work.add(value)
    return True


def run_column(  # noqa: PLR0917  likewise
    function: Callable[..., Any],
    column: Iterable[Any],
    position: int,
    slots: memoryview,
    work: Work,
    refuse_late: Callable[[Work, int], None],
) -> bool:
    """Do as `run_tuples` for functions of one argument, without the tuples: a fifth less."""
    asked, hits, keep, at, plain = work.asked, work.hits, work.values.append, _AT, _PLAIN
    for slots[at], argument in enumerate(column, position):
        if asked and not work.heed(slots[at]):
            return False
        value = function(argument)
        if hits:
            refuse_late(work, slots[at])
        if type(value) in plain:
            keep(value)
        else:
            work.add(value)
    return True
