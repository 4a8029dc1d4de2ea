"""What this broker was told of functions and their objects, so that nothing is said twice.

Objects that nothing open uses are taken back, the longest unused first, once there is much of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from kernel_worker.model import Digest
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kernel_worker.model import FunctionKey, FunctionSpec, PoolId
    from kernel_worker.wire.frames import Frame
    from notebook_ext.submission import Package

    Say = Callable[[messages.ToBroker, Sequence[Frame]], None]

_NO_HOOKS: tuple[Digest, tuple[Digest, ...]] = Digest(""), ()
OBJECT_BYTES = 64 * 1024 * 1024
"""What the broker is asked to keep of objects that no open call uses …"""
OBJECT_COUNT = 4096
"""… and how many of them."""


class Told:
    """The objects and function versions that one broker has from us."""

    def __init__(self, say: Say) -> None:
        """Start with none; what is missing is said by `say`."""
        self._say = say
        self._objects: OrderedDict[Digest, int] = OrderedDict()
        self._object_bytes = 0
        self._defined: dict[PoolId, tuple[FunctionSpec, Digest]] = {}
        """What was said of each pool, and by which table the hooks of an instance go."""
        self._current: dict[FunctionKey, PoolId] = {}
        self._packages: dict[PoolId, Package] = {}

    def forget(self) -> None:
        """There is another broker now, which knows nothing."""
        self._objects.clear()
        self._object_bytes = 0
        self._defined.clear()
        self._current.clear()
        self._packages.clear()

    def knows(self, package: Package) -> bool:
        """Whether all that `package` needs was said, and its version is the current one."""
        spec = package.spec
        if package.is_object or package.inherited:
            return all(digest in self._objects for digest in package.objects)
        return self._packages.get(spec.pool) is package and self._current.get(spec.key) == spec.pool

    def tell(self, package: Package) -> None:
        """Say what the function needs: its objects and its version, where they are not known."""
        for digest, data in package.objects.items():
            self.store(digest, data)
        if package.is_object or package.inherited:
            return
        for spec in (*package.nested, package.spec):
            if spec.is_abstract:
                continue  # its instances are said where they are called
            # A version that was superseded is named again when the user goes back to it.
            table, requires = _NO_HOOKS
            if spec.parameters:
                table, requires = package.table, package.requires
            known = self._defined.get(spec.pool)
            if known != (spec, table) or self._current.get(spec.key) != spec.pool:
                self._defined[spec.pool] = spec, table
                self._current[spec.key] = spec.pool
                self._say(messages.Define(spec, package.derived, table, requires), ())
        self._packages[package.spec.pool] = package

    def store(self, digest: Digest, data: bytes) -> None:
        """Say an object, where it is not known."""
        if digest in self._objects:
            self._objects.move_to_end(digest)
            return
        self._objects[digest] = len(data)
        self._object_bytes += len(data)
        self._say(messages.StoreObject(digest), [data])

    def drop(self, digest: Digest) -> None:
        """Take an object back."""
        size = self._objects.pop(digest, None)
        if size is not None:
            self._object_bytes -= size
            self._say(messages.DropObjects((digest,)), ())
            self._forget_packages({digest})

    @property
    def is_much(self) -> bool:
        """Whether it is time to take something back."""
        return self._object_bytes > OBJECT_BYTES or len(self._objects) > OBJECT_COUNT

    def take_back(self, in_use: Iterable[Mapping[Digest, object]]) -> None:
        """Take back half of what may be kept, but nothing that is `in_use`."""
        used: set[Digest] = set()
        for objects in in_use:
            used.update(objects)
        dropped = []
        for digest, size in list(self._objects.items()):
            if self._object_bytes <= OBJECT_BYTES // 2 and len(self._objects) <= OBJECT_COUNT // 2:
                break
            if digest not in used:
                del self._objects[digest]
                self._object_bytes -= size
                dropped.append(digest)
        if not dropped:
            return
        self._say(messages.DropObjects(tuple(dropped)), ())
        self._forget_packages(set(dropped))

    def _forget_packages(self, gone: set[Digest]) -> None:
        self._packages = {
            pool: package
            for pool, package in self._packages.items()
            if gone.isdisjoint(package.objects)
        }
