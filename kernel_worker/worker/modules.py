"""Local modules in a worker: imported from the source that came with the function.

They come before what lies on disk, because another function version may need another text of the
same file. What did not travel (data files, extension modules) is found on disk as always, where
the module's own path leads.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from kernel_worker.wire.bundle import ModuleSource


class ShippedLoader(SourceFileLoader):
    """Compiles the shipped text under the original file name; never touches bytecode files."""

    def __init__(self, module: ModuleSource) -> None:
        super().__init__(module.name, module.path)
        self._module = module

    def get_data(self, path: str) -> bytes:
        """Return the shipped source for the module's own path, else what is on disk."""
        return self._module.source if path == self._module.path else super().get_data(path)

    def path_stats(self, path: str) -> dict[str, float]:
        """Refuse: without them, no cached bytecode is used or written."""
        message = f"{path} was shipped"
        raise OSError(message)


class ShippedFinder(MetaPathFinder):
    """Finds the modules that were shipped."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleSource] = {}

    def add(self, modules: Iterable[ModuleSource]) -> None:
        """Offer these modules; one that is imported already in another text is imported anew."""
        for module in modules:
            self._modules[module.name] = module
            loaded = sys.modules.get(module.name)
            if loaded is not None and _text_of(loaded) != module.source:
                del sys.modules[module.name]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002  the interface
        target: ModuleType | None = None,  # noqa: ARG002  the interface
    ) -> ModuleSpec | None:
        """Return the spec of a shipped module."""
        module = self._modules.get(fullname)
        if module is None:
            return None
        folders = [str(Path(module.path).parent)] if module.is_package else None
        return spec_from_file_location(
            fullname,
            module.path,
            loader=ShippedLoader(module),
            submodule_search_locations=folders,
        )


def _text_of(module: ModuleType) -> bytes | None:
    loader = getattr(module, "__loader__", None)
    return loader._module.source if isinstance(loader, ShippedLoader) else None  # noqa: SLF001


_finder = ShippedFinder()


def install(modules: Sequence[ModuleSource]) -> None:
    """Let `import` find these modules before anything else."""
    if not modules:
        return
    _finder.add(modules)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
