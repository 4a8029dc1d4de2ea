"""Tab behind a magic of ours: its options and values, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from IPython.core.completer import SimpleCompletion, SimpleMatcherResult, context_matcher

from notebook_ext.magics.table import CELLS, LINES

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext

_COMPLETERS: Final = {
    **{f"%{each.name}": each.complete for each in LINES},
    **{f"%%{each.name}": each.complete for each in CELLS},
}


@context_matcher()  # type: ignore[untyped-decorator]
def complete(context: CompletionContext) -> SimpleMatcherResult:
    """Offer what goes on in the line, where it is one of a magic of ours."""
    line: Any = context.text_until_cursor
    magic, space, rest = line.lstrip().partition(" ")
    completer = _COMPLETERS.get(magic)
    if completer is None or not space or (magic.startswith("%%") and context.cursor_line):
        return SimpleMatcherResult(completions=[])
    symbol = line.rpartition(" ")[2]
    completions = [SimpleCompletion(each, type="param") for each in completer(rest, symbol)]
    return SimpleMatcherResult(completions=completions, matched_fragment=symbol, suppress=True)
