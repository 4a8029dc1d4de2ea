from kernel_worker.model import Outcome
from notebook_ext.widgets.call_rows import CallRows
from notebook_ext.widgets.outline import MOST_LINES, Outline, lines, to_html, to_text
from tests.notebook_ext.widgets.trees import call, tree

OK, BAD = Outcome.SUCCEEDED, Outcome.FAILED


def rows_of(*calls: object) -> CallRows:
    rows = CallRows()
    rows.take(tree(*calls))  # type: ignore[arg-type]
    return rows


PIPELINE = (
    call("pipeline"),
    call("score1", "pipeline", [(0, 3, OK), (3, 4, BAD)], total=5),
    *(call(f"fit{i}", "pipeline", [(0, 1, OK)]) for i in range(3)),
)


def test_siblings_of_one_function_are_one_line() -> None:
    assert to_text(rows_of(*PIPELINE), 10.0).splitlines() == [
        "○ pipeline",
        "  ✕ score × 5  9.0 s  1 waiting, 3 done, 1 failed",  # noqa: RUF001  times
        "  ✓ fit × 3  1.0 s  3 done",  # noqa: RUF001  times
    ]


def test_a_deep_tree_is_a_page_at_most() -> None:
    chain = [call("f0"), *(call(f"f{i + 1}", f"f{i}") for i in range(200))]
    assert len(lines(rows_of(*chain), 1.0)) == MOST_LINES


def test_names_are_escaped_and_bars_are_shares() -> None:
    shown = to_html("<b>", rows_of(call("<f>", ended=[(0, 3, OK)], total=4)), 5.0)
    assert "&lt;b&gt;" in shown
    assert "&lt;f&gt;" in shown
    assert "<f>" not in shown
    assert "width:75.0%" in shown
    assert "class=" not in shown, "styles are inline: no style sheet travels with it"


def test_what_ran_when_it_was_saved_says_so() -> None:
    live, ended = rows_of(call("f")), rows_of(call("f", ended=[(0, 1, OK)]))
    assert "1 waiting when this was saved" in to_html("f", live, 5.0, saved=True)
    assert "saved" not in to_html("f", live, 5.0)
    assert "saved" not in to_html("f", ended, 5.0, saved=True)


def test_an_outline_shows_itself_both_ways() -> None:
    outline = Outline(rows_of(call("f", ended=[(0, 1, OK)])), 3.0)
    assert repr(outline) == "✓ f  1.0 s"
    assert "<b>f</b>" in outline._repr_html_()


def test_nothing_says_so() -> None:
    assert repr(Outline(CallRows(), 0.0)) == "No call has been made yet."
