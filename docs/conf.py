"""How the documentation is built: `make docs`. Warnings are errors, and nothing is fetched.

Notebooks are shown with the outputs that they have; `make test` is what runs them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

from IPython.lib.lexers import IPython3Lexer
from pygments.lexer import bygroups, inherit
from pygments.token import Keyword, Operator, Text

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import notebook_ext  # noqa: E402  found by the line above
from notebook_ext import twin  # noqa: E402  likewise

project = "notebook-ext"
author = "The notebook-ext developers"
project_copyright = "the notebook-ext developers"
release = version = notebook_ext.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_click",
    "sphinx_copybutton",
    "from_code",
]
exclude_patterns = ["_build"]
default_role = "code"  # what docstrings put between backticks
nitpicky = False
suppress_warnings = ["misc.highlighting_failure"]  # a cell may hold a shell line or a magic

html_theme = "furo"
html_title = "notebook-ext"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Raises (where it is iterated)", "Raises")]

SURFACES: set[str] = set()
"""The names of what can be awaited too, as autodoc calls them."""


def _body_where_the_class_is_asked(kind: type) -> None:
    """Let autodoc find the function behind `Function.remote` and its like."""
    bound = kind.__get__

    def get(self: Any, instance: object, owner: type | None = None) -> Any:
        return self._body if instance is None else bound(self, instance, owner)

    kind.__get__ = get  # type: ignore[method-assign]


def _take_notebooks() -> None:
    """Copy the notebooks to below this folder: Sphinx reads nothing that lies elsewhere."""
    (HERE / "notebooks").mkdir(exist_ok=True)
    for notebook in HERE.parent.glob("notebooks/*.ipynb"):
        shutil.copy2(notebook, HERE / "notebooks")


_take_notebooks()
_body_where_the_class_is_asked(twin.Twin)
_body_where_the_class_is_asked(twin.Stream)


def _without_waiting(
    _app: object,
    _kind: str,
    _name: str,
    _thing: object,
    _options: object,
    signature: str | None,
    back: str | None,
) -> tuple[str, str] | None:
    """Show what a call returns, not what its body does; `remote(…) -> R`, not `Waiting[R]`."""
    if signature is None:
        return None
    plain = re.sub(r"^(?:\w+\.)*Waiting\[(.*)\]$", r"\1", back or "")
    return signature.replace("(self, /, ", "(").replace("(/, ", "("), plain


def _also_awaited(
    _app: object, _kind: str, _name: str, thing: Any, _options: object, lines: list[str]
) -> None:
    """Say of what waits that it can be awaited."""
    back = str(getattr(thing, "__annotations__", {}).get("return", ""))
    if back.startswith("Waiting["):
        lines += ["", f"In a coroutine: ``await ….{thing.__name__}.aio(…)``.", ""]


class CellLexer(IPython3Lexer):  # type: ignore[misc]
    """Colours a `%%remote` cell as the Python that it is."""

    tokens: ClassVar = {
        "root": [(r"(%%)(remote)([^\n]*\n)", bygroups(Operator, Keyword, Text)), inherit]
    }


def setup(app: Any) -> None:
    """Connect the two, and colour cells."""
    app.add_lexer("ipython", CellLexer)
    app.add_lexer("ipython3", CellLexer)
    app.connect("autodoc-process-signature", _without_waiting)
    app.connect("autodoc-process-docstring", _also_awaited)
