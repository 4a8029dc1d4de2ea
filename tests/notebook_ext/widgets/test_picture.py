import base64
import io
import re

import pytest
from PIL import Image

from notebook_ext.widgets.facts import CANCELLED, DONE, FAILED, PENDING, RUNNING
from notebook_ext.widgets.pace import Pace
from notebook_ext.widgets.picture import PALETTE, PARTLY, WIDTH, fold, to_html
from notebook_ext.widgets.report import report_on
from tests.notebook_ext.widgets.mapped import Mapped


def picture(facts: Mapped, states: bytes) -> str:
    return to_html(report_on(facts, Pace(facts.started_at), facts.started_at + 1.0), states)


def image(html: str) -> Image.Image:
    found = re.search(r"base64,([^\"]+)", html)
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")


@pytest.mark.parametrize("count", [1, 7, 200, 3_000, 200_000])
def test_every_state_is_in_the_picture(count: int) -> None:
    states = bytes([DONE]) * count + bytes([FAILED, RUNNING, PENDING, CANCELLED])
    shown = image(picture(Mapped(count + 4), states))
    assert shown.width <= WIDTH
    assert shown.height <= 80
    colours = {colour for _, colour in shown.getcolors(maxcolors=20) or []}
    assert PALETTE[DONE] in colours
    assert PALETTE[FAILED] in colours


def test_one_failure_among_a_million_shows() -> None:
    states = bytearray([DONE]) * 1_000_000
    states[123_456] = FAILED
    colours = {colour for _, colour in image(picture(Mapped(), bytes(states))).getcolors() or []}
    assert PALETTE[FAILED] in colours


def test_cells_that_stand_for_many_show_what_matters() -> None:
    states = bytes([DONE, DONE, DONE, FAILED, DONE, PENDING, PENDING, PENDING])
    assert fold(states, 4) == bytes([DONE, FAILED, PARTLY, PENDING])
    assert fold(states, 8) == states


def test_text_of_users_is_escaped() -> None:
    facts = Mapped(title="<script>alert(1)</script>")
    facts.fail(0, ValueError("<b>"))
    html = picture(facts, b"\x04")
    assert "<script" not in html
    assert "<b>alert" not in html
    assert "&lt;b&gt;" in html


def test_what_ran_when_it_was_saved_says_so() -> None:
    facts = Mapped(4)
    assert "was running when this was saved" in picture(facts, b"")
    facts.end()
    assert "was running" not in picture(facts, b"")


def test_nothing_to_draw_is_no_picture() -> None:
    assert "<img" not in picture(Mapped(0), b"")
