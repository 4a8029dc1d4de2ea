"""`with image.imports():` imports of modules that the image has and the notebook may not.

Theory. While the block runs, a finder that comes last makes a *stand-in* of each module that is not
there: a module whose attributes are stand-ins too. They are forgotten by the import system when the
block ends, and stay bound to the names that the block bound. A function that captures one carries
its name: in a worker it is the module, or what the module has under that name.

Guarantees: what can be imported here is imported here. Used here, a stand-in is a
`ModuleNotFoundError` that says so.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from kernel_worker.wire.bundle import member, modules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class StandIn(ModuleType):
    """A module that is not here."""

    def __init__(self, name: str) -> None:
        """Stand for the module `name`."""
        super().__init__(name)
        self.__path__: list[str] = []
        self.__also__: list[str] = []
        """Modules in it that were imported with it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if _Finder.blocks:
            return StandInName(self, name)
        raise _not_here(self.__name__)

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return modules, (self.__name__, *self.__also__)

    def __repr__(self) -> str:
        return f"<{self.__name__}, which the image has>"


class StandInName:
    """What a module that is not here has under a name."""

    def __init__(self, module: StandIn, name: str) -> None:
        """Stand for `name` of `module`."""
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _not_here(self._module.__name__)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Say that it is not here."""
        raise _not_here(self._module.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        return member, (self._module, self._name)

    def __repr__(self) -> str:
        return f"<{self._name} of {self._module.__name__}, which the image has>"


def _not_here(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{name} is in the image and not in this notebook: use it in functions with image=…",
        name=name,
    )


class _Finder:
    """Finds a stand-in for every module that nobody else finds."""

    blocks = 0
    made: list[str] = []  # noqa: RUF012  one for all

    @classmethod
    def find_spec(
        cls,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG003  the interface
        target: ModuleType | None = None,  # noqa: ARG003  the interface
    ) -> ModuleSpec | None:
        """Return a spec that makes a stand-in; of what is in a module that is here, none."""
        top, _, inner = name.partition(".")
        if inner and not isinstance(sys.modules.get(top), StandIn):
            return None
        return ModuleSpec(name, cls)  # type: ignore[arg-type]

    @classmethod
    def create_module(cls, spec: ModuleSpec) -> StandIn:
        """Return the stand-in."""
        cls.made.append(spec.name)
        top = sys.modules.get(spec.name.partition(".")[0])
        if isinstance(top, StandIn):
            top.__also__.append(spec.name)
        return StandIn(spec.name)

    @classmethod
    def exec_module(cls, module: ModuleType) -> None:
        """Do nothing: it has no code."""


class Imports:
    """The context manager."""

    def __enter__(self) -> None:
        if not _Finder.blocks:
            sys.meta_path.append(_Finder)
        _Finder.blocks += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _Finder.blocks -= 1
        if _Finder.blocks:
            return
        sys.meta_path.remove(_Finder)
        while _Finder.made:
            sys.modules.pop(_Finder.made.pop(), None)
