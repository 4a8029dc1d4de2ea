"""What of a Modal script is not covered here: found in its text, without running it.

Theory. The syntax tree says which names are Modal's (`import modal`, `from modal import App`),
which are apps, functions and classes made with them, and what is used of each. Each use is looked
for in this package itself, so that what it says is so: a name, an attribute, a keyword of a
signature, an option of `@app.function`. `INSTEAD` says what to write for what is not there.

Not guaranteed: that what passes means the same to the last detail, or anything about names that are
made up while the script runs (`getattr`).
"""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import notebook_ext
from kernel_worker.errors import InvalidError
from notebook_ext import cloud
from notebook_ext import options as options_
from notebook_ext.app import App
from notebook_ext.function import Function
from notebook_ext.image import Image, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULES: Final = ("modal", "notebook_ext")
_DECORATORS: Final = ("function", "cls")

INSTEAD: Final = {
    "Stub": "write App, its name since 2024",
    "Sandbox": "run the command in a function, with subprocess: it is your own machine",
    "Mount": "leave it out: local modules travel by themselves, and files are where they are",
    "NetworkFileSystem": "use a directory: functions see the files of this machine",
    "CloudBucketMount": "read the bucket in the function, with fsspec or s3fs",
    "Proxy": "leave it out: functions use this machine's network",
    "Tunnel": "leave it out: a port of this machine is reachable as it is",
    "forward": "leave it out: a port of this machine is reachable as it is",
    "gpu": 'write the kind as a text: gpu="H100", gpu="A100:2"',
    "interact": "call breakpoint() in the function: its console opens below the cell",
}
"""What to do about names, options and attributes that are not there."""
_OPTIONS: Final = {
    "mounts": INSTEAD["Mount"],
    "network_file_systems": INSTEAD["NetworkFileSystem"],
    "proxy": INSTEAD["Proxy"],
    "enable_memory_snapshot": "leave it out: @enter(snap=True) is shared by fork without it",
    "checkpointing_enabled": "leave it out: @enter(snap=True) is shared by fork without it",
    "include_source": "leave it out: local modules travel by themselves",
    "ephemeral_disk": "leave it out: functions use this machine's disk",
    "block_network": "leave it out: functions use this machine's network",
    "max_inputs": "write single_use_containers=True for 1; leave it out for more",
}
_LEAVE_OUT: Final = "leave it out"


class Finding(NamedTuple):
    """A use of Modal that is not covered."""

    line: int
    """From 1 on."""
    used: str
    """As it is written: `modal.Sandbox`, `@app.function(proxy=…)`."""
    instead: str
    """What to do."""


class Report(NamedTuple):
    """What was found in a script."""

    uses: int
    """How many uses of Modal there are."""
    findings: list[Finding]
    imports: list[tuple[int, str]]
    """Where Modal is imported, and what to write there."""


def look(source: str, path: str) -> Report:
    """Return what of a script is not covered, in the order of its lines.

    Raises:
        InvalidError: it is no Python.
    """
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise InvalidError(f"{path}: {error}; allowed is a file of Python.") from error
    reader = _Reader()
    reader.visit(tree)
    return Report(reader.uses, sorted(set(reader.findings)), reader.imports)


class _Reader(ast.NodeVisitor):
    """Walks a script once, in the order in which it is written."""

    def __init__(self) -> None:
        self.uses = 0
        self.findings: list[Finding] = []
        self.imports: list[tuple[int, str]] = []
        self._known: dict[str, Any] = {}
        """What names of the script stand for, here."""
        self._missing: set[str] = set()
        """Names that were imported, and are not there."""

    # ---- where names come from ------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            if each.name.split(".")[0] in _MODULES:
                bound = each.asname or each.name.split(".")[0]
                self._known[bound] = notebook_ext
                if each.name == "modal":
                    self.imports.append((node.lineno, f"import notebook_ext as {bound}"))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module, _, rest = (node.module or "").partition(".")
        if module not in _MODULES or node.level:
            return
        if module == "modal":
            names = ", ".join(ast.unparse(each) for each in node.names)
            place = ".".join(filter(None, ("notebook_ext", rest)))
            self.imports.append((node.lineno, f"from {place} import {names}"))
        room = _attribute(notebook_ext, rest.split(".")) if rest else notebook_ext
        for each in node.names:
            self.uses += 1
            bound = each.asname or each.name
            found = _attribute(room, [each.name])
            if found is None:
                shown = ".".join(filter(None, ("modal", rest, each.name)))
                self._find(node, shown, rest.split(".")[0] if room is None else each.name)
                self._missing.add(bound)
            else:
                self._known[bound] = found

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        made = self._made_by(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._known.pop(target.id, None)
                if made is not None:
                    self._known[target.id] = made

    def _made_by(self, value: ast.expr) -> Any:
        """Return the class of what a call makes, where that is known."""
        if not isinstance(value, ast.Call):
            return None
        if self._is_image(value):
            return Image
        kind = self._resolve(value.func)
        return kind if inspect.isclass(kind) else None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_defined(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_defined(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_defined(node)

    def _visit_defined(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if self._is_decorator(call) and call.attr == "function":  # type: ignore[attr-defined]
                self._known[node.name] = Function
        self.generic_visit(node)

    # ---- what is used of them -------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._look_at(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            self._look_at(node.func)
            self._look_at_image(node.func)
        if self._is_decorator(node.func):
            self._look_at_options(node)
        else:
            self._look_at_keywords(node)
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)
        if not isinstance(node.func, ast.Attribute | ast.Name):
            self.visit(node.func)

    def _is_decorator(self, function: ast.expr) -> bool:
        """Whether it is `app.function`, `app.cls`, or `with_options` of something known."""
        if not isinstance(function, ast.Attribute):
            return False
        owner = self._resolve(function.value)
        if owner is App:
            return function.attr in _DECORATORS
        return function.attr == "with_options" and owner is Function

    def _look_at(self, node: ast.Attribute) -> None:
        names, root = _dotted(node)
        if root is None:
            self.visit(node.value if not names else _innermost(node))
            return
        if root not in self._known:
            return
        self.uses += 1
        owner = self._known[root]
        # Of objects the class is known: what is behind an attribute of theirs is not.
        for at in range(1, min(len(names), 2) if inspect.isclass(owner) else len(names)):
            found = _attribute(owner, [names[at]])
            if found is None:
                self._find(node, ".".join(names[: at + 1]), names[at])
                return
            owner = found

    def _is_image(self, node: ast.expr) -> bool:
        """Whether it is `Image`, or what a chain of its methods makes."""
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Attribute) and self._is_image(node.func.value)
        return self._resolve(node) is Image

    def _look_at_image(self, method: ast.Attribute) -> None:
        refused = inspect.getattr_static(Image, method.attr, None)
        if isinstance(refused, Refused) and self._is_image(method.value):
            line = method.end_lineno or method.lineno
            self.findings.append(Finding(line, f"Image.{method.attr}", refused.instead))

    def _look_at_options(self, node: ast.Call) -> None:
        shown = ast.unparse(node.func)
        known = {*options_.accepted(), *cloud.NAMES, cloud.PROFILE}
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in known:
                self.uses += 1
                instead = _OPTIONS.get(keyword.arg, _LEAVE_OUT)
                self.findings.append(
                    Finding(keyword.value.lineno, f"{shown}({keyword.arg}=…)", instead)
                )

    def _look_at_keywords(self, node: ast.Call) -> None:
        target = self._resolve(node.func)
        if target is None or not callable(target):
            return
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):
            return
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in parameters:
                shown = f"{ast.unparse(node.func)}({keyword.arg}=…)"
                instead = _LEAVE_OUT
                if target is App:
                    instead = f"give {keyword.arg}= to the app's functions"
                    instead = _OPTIONS.get(keyword.arg, instead)
                self.findings.append(Finding(keyword.value.lineno, shown, instead))

    def _resolve(self, node: ast.expr) -> Any:
        """Return what an expression stands for here, or None."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._resolve(node.value)
            return None if owner is None else _attribute(owner, [node.attr])
        return None

    def _find(self, node: ast.AST, used: str, name: str) -> None:
        line: int = node.lineno  # type: ignore[attr-defined]
        self.findings.append(Finding(line, used, INSTEAD.get(name, _LEAVE_OUT)))


def _attribute(owner: Any, names: list[str]) -> Any:
    """Return what is at the end of a chain of attributes, or None."""
    for name in names:
        try:
            owner = getattr(owner, name)
        except AttributeError:
            return None
    return owner


def _dotted(node: ast.expr) -> tuple[list[str], str | None]:
    """Return the names of `a.b.c`, and the first one; None where something else is at its root."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return names[::-1], None
    return [node.id, *names[::-1]], node.id


def _innermost(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def lines(report: Report, path: str) -> Iterator[str]:
    """Yield what people read of a report."""
    for number, text in report.imports:
        yield f"{path}:{number}: write {text}"
    for finding in report.findings:
        yield f"{path}:{finding.line}: {finding.used} is not covered: {finding.instead}"
    if not report.imports and not report.uses:
        yield f"{path} does not use modal."
    elif report.findings:
        yield f"{len(report.findings)} uses of modal are not covered."
    else:
        yield f"All {report.uses} uses of modal are covered."
