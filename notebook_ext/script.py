"""Files and modules that a command line names: `FILE[::NAME]`, `-m MODULE[::NAME]`.

A file is run as `__main__`, so that what it defines travels as from a notebook; but what stands
under `if __name__ == "__main__":` is left out: the command line takes its place.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InvalidError, NotFoundError
from notebook_ext.app import App

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from notebook_ext.function import Function

    Runnable = Callable[..., Any] | Function[..., Any]


@dataclass(frozen=True, slots=True)
class Script:
    """A file or module that was run."""

    target: str
    """As it was named, without `::NAME`."""
    wanted: str
    """What stood behind `::`, or nothing."""
    names: dict[str, Any]
    """What it defines."""

    def app(self) -> App:
        """Return the app that is meant.

        Raises:
            NotFoundError: there is none, or none of that name.
            InvalidError: there are several, and none is named.
        """
        apps = self._apps()
        if self.wanted:
            for name, app in apps.items():
                if self.wanted in {name, app.name}:
                    return app
            raise NotFoundError(f"{self.target} has no app {self.wanted!r}{_listed(apps)}.")
        if len(apps) == 1:
            return next(iter(apps.values()))
        if not apps:
            raise NotFoundError(f"{self.target} defines no app: write app = App('name') in it.")
        raise InvalidError(
            f"{self.target} has several apps; say which{_listed(apps, self.target)}."
        )

    def runnable(self) -> Runnable:
        """Return the entrypoint that is meant, or the function.

        Raises:
            NotFoundError: there is none, or none of that name.
            InvalidError: there are several, and none is named.
        """
        apps = self._apps()
        wanted = self.wanted
        if wanted in apps:
            apps, wanted = {wanted: apps[wanted]}, ""
        elif "." in wanted and wanted.partition(".")[0] in apps:
            variable, _, wanted = wanted.partition(".")
            apps = {variable: apps[variable]}
        points = _merged(app.registered_entrypoints for app in apps.values())
        functions = _merged(app.registered_functions for app in apps.values())
        if wanted:
            found = points.get(wanted) or functions.get(wanted)
            if found is None:
                every = [*points, *functions]
                raise NotFoundError(
                    f"{self.target} has no entrypoint or function {wanted!r}{_listed(every)}."
                )
            return found
        for kind in (points, functions):
            if len(kind) == 1:
                return next(iter(kind.values()))
            if kind:
                raise InvalidError(
                    f"{self.target} has several of them; say which{_listed(kind, self.target)}."
                )
        raise NotFoundError(
            f"{self.target} has nothing to run: write @app.local_entrypoint() or @app.function() "
            "above a function in it."
        )

    def _apps(self) -> dict[str, App]:
        found: dict[str, App] = {}
        for name, thing in self.names.items():
            if isinstance(thing, App) and not any(thing is other for other in found.values()):
                found[name] = thing
        return found


def load(target: str, arguments: Iterable[str] = (), *, is_module: bool = False) -> Script:
    """Run a file, or import a module, and return what it defines.

    Args:
        target: `FILE[::NAME]` or `MODULE[::NAME]`.
        arguments: what `sys.argv` holds behind the file's name.
        is_module: which of the two it is.

    Raises:
        NotFoundError: there is no such file or module.
        Exception: whatever running it raises.
    """
    place, _, wanted = target.partition("::")
    sys.argv = [place, *arguments]
    names = _imported(place) if is_module else _run(place)
    return Script(place, wanted, names)


def _run(place: str) -> dict[str, Any]:
    path = Path(place)
    if not path.is_file():
        raise NotFoundError(f"there is no file {place}")
    folder = str(path.resolve().parent)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    tree = ast.parse(path.read_bytes(), str(path))
    tree.body = [each for each in tree.body if not _is_guard(each)]
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(tree, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102  the task
    return vars(module)


def _is_guard(statement: ast.stmt) -> bool:
    """Return whether it is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in {
        "__name__ == '__main__'",
        "'__main__' == __name__",
    }


def _imported(name: str) -> dict[str, Any]:
    here = os.getcwd()  # noqa: PTH109  as `python -m` does
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return vars(importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is another one, which that module imports
        raise NotFoundError(f"there is no module {name}") from error


def _merged(groups: Iterable[Mapping[str, Runnable]]) -> dict[str, Runnable]:
    return {name: thing for group in groups for name, thing in group.items()}


def _listed(names: Iterable[str], target: str = "") -> str:
    """Return `: a, b` for a message; as they would be written behind `target`."""
    found = ", ".join(f"{target}::{name}" if target else name for name in names)
    return f"; there are: {found}" if found and not target else f": {found}" if found else ""
