"""The same lines written for an `await` cell: what blocks is awaited, what streams is `async for`.

So that one text shows that both surfaces mean the same. Only what stands at a cell's top level is
changed: what is inside a `def` runs as it is written.
"""

from __future__ import annotations

import ast
from typing import Any

BLOCKING = frozenset(
    {
        "cancel",
        "for_each",
        "gather",
        "get",
        "get_call_graph",
        "get_current_stats",
        "keep_warm",
        "num_inputs",
        "remote",
        "spawn",
        "spawn_map",
        "update_autoscaler",
    }
)
STREAMING = frozenset({"map", "starmap", "remote_gen", "get_gen", "iter"})
_CONSUMERS = frozenset({"list", "sorted", "set", "sum", "tuple"})


def awaited(source: str) -> str:
    """Return the cell `source` with its blocking calls awaited."""
    return ast.unparse(ast.fix_missing_locations(_Awaiting().visit(ast.parse(source))))


class _Awaiting(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return node

    visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815  ast's names

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _CONSUMERS and node.args:
            node.args[0] = _collected(node.args[0])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in BLOCKING:
            return ast.Await(_aio(node))
        return node

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        if not _streams(node.iter):
            return node
        return ast.AsyncFor(node.target, _aio(node.iter), node.body, node.orelse)


def _streams(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in STREAMING
    )


def _aio(node: Any) -> Any:
    return ast.Call(ast.Attribute(node.func, "aio", ast.Load()), node.args, node.keywords)


def _collected(node: ast.expr) -> ast.expr:
    if not _streams(node):
        return node
    each = ast.Name("each", ast.Load())
    source = ast.comprehension(ast.Name("each", ast.Store()), _aio(node), [], is_async=1)
    return ast.ListComp(each, [source])
