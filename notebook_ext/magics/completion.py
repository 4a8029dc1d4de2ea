"""Tab behind a magic of ours: its options and values, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher

from notebook_ext.magics.table import CELLS, LINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from IPython.core.completer import CompletionContext

_COMPLETERS: Final = {
    **{f"%{each.name}": each.complete for each in LINES},
    **{f"%%{each.name}": each.complete for each in CELLS},
}


_EXPRESSIONS: Final = frozenset(f"%{each.name}" for each in LINES if each.takes_expression)
_BEFORE_ALL: Final = 1_000.0
"""The priority: whoever is asked later need not look for what is thrown away."""


class _NothingElse:
    """Completions that there are none of, and that keep those of others away.

    IPython lets a matcher keep others away only where it has found something, which it sees by
    the length; what there is, it takes from the iterator.
    """

    def __len__(self) -> int:
        """Count as something."""
        return 1

    def __bool__(self) -> bool:
        """Be nothing."""
        return False

    def __iter__(self) -> Iterator[SimpleCompletion]:
        """Yield nothing."""
        return iter(())


@context_matcher(priority=_BEFORE_ALL)  # type: ignore[untyped-decorator]
def complete(context: CompletionContext) -> SimpleMatcherResult:
    """Offer what goes on in the line, where it is one of a magic of ours."""
    line: Any = context.text_until_cursor
    magic, space, rest = line.lstrip().partition(" ")
    completer = _COMPLETERS.get(magic)
    if completer is None or not space or (magic.startswith("%%") and context.cursor_line):
        return SimpleMatcherResult(completions=[])
    symbol = line.rpartition(" ")[2]
    flag, equals, value = symbol.partition("=")
    if equals and flag.startswith("-"):  # `--gpu=a` is `--gpu a`
        rest, symbol = f"{rest.removesuffix(symbol)}{flag} {value}", value
    found = [SimpleCompletion(each, type="param") for each in completer(rest, symbol)]
    if not found and magic in _EXPRESSIONS and not _is_word(symbol):  # `model.pre`, `calls[`
        return SimpleMatcherResult(completions=[])
    completions = cast("Sequence[SimpleCompletion]", found or _NothingElse())
    return SimpleMatcherResult(completions=completions, matched_fragment=symbol, suppress=True)


def _is_word(symbol: str) -> bool:
    return not symbol or symbol.replace("-", "_").isidentifier()
