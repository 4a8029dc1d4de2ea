"""A function's code in a worker: loaded once, bound to the captured values of each call.

Theory. `load` is what a template does: import the modules, build the functions and classes, put
them into their namespaces. It starts no thread and opens nothing, so that workers can be forked
afterwards. `bind` is what a worker does when a lease names another snapshot: it sets the names
whose value differs from the *last bound* one, so that a global which the function itself has set
survives until the notebook changes that name.

Guarantees: functions of one namespace share it here as they did in the notebook; the same object
captured under several names is one object here; the notebook's classes are known here by the ids
under which values name them; `__main__` is the notebook's namespace.
Not guaranteed: that parts which two captured values share are shared here: each value has its own
pickle.
"""

from __future__ import annotations

import builtins
import functools
import linecache
import pickle
import sys
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker import packages
from kernel_worker.errors import DeserializationError, VersionError
from kernel_worker.wire import bundle, byvalue, failures
from kernel_worker.wire.bundle import Assembly, Bundle, Place, Snapshot, Value
from kernel_worker.worker import modules

if TYPE_CHECKING:
    from collections.abc import Callable

_bundles = msgspec.msgpack.Decoder(Bundle)
_snapshots = msgspec.msgpack.Decoder(Snapshot)


@dataclass(slots=True)
class Standing:
    """A namespace that outlives the function versions that are loaded into it."""

    namespace: dict[str, Any]
    kept: frozenset[str] = frozenset()
    """Names that stay as they are, whatever is loaded."""
    bound: dict[Place, str] = field(default_factory=dict)
    """What was bound last, at each place."""

    def keeps(self, kind: type | None) -> bool:
        """Whether one of the names that stay is this class."""
        return any(self.namespace.get(name) is kind for name in self.kept)


class Binding:
    """One function version in this process."""

    def __init__(self, code: Bundle, assembly: Assembly, standing: Standing | None = None) -> None:
        """Use `load`."""
        self.name = code.name
        """The qualified name, for people."""
        self.is_async = code.is_async
        """Calling the function returns a coroutine."""
        self.is_generator = code.is_generator
        """Calling the function returns a generator, plain or asynchronous."""
        self._code = code
        self._assembly = assembly
        self._function: Callable[..., Any] | None = None
        self._standing = standing
        self._bound: dict[Place, str] = {} if standing is None else standing.bound
        self._keep: list[Any] = []

    @classmethod
    def load(cls, code: bytes, *, as_main: bool = True, into: Standing | None = None) -> Binding:
        """Build the function from its code; nothing but imports happens.

        Args:
            code: the object that `FunctionSpec.code` names.
            as_main: let the notebook's namespace be this process's `__main__`, so that pickle,
                forward references and `import __main__` find there what the notebook defines.
            into: the namespace that stands for the notebook's, where other versions were loaded
                before.

        Raises:
            VersionError: it was made by another Python version.
            DeserializationError: it is no code of ours, or cannot be built here.
            Exception: whatever an import raises.
        """
        decoded = _decoded(code)
        modules.install(decoded.modules)
        assembly = Assembly(
            [_namespace(attributes, into) for attributes in decoded.namespaces], decoded.cells
        )
        binding = cls(decoded, assembly, into)
        if as_main:
            _install_main(assembly)
        binding._build()
        return binding

    @property
    def function(self) -> Callable[..., Any]:
        """What to call. Raises `DeserializationError` before a snapshot that it needs is bound."""
        if self._function is None:
            message = f"{self.name} was not bound to its snapshot"
            raise DeserializationError(message)
        return self._function

    @property
    def namespace(self) -> dict[str, Any]:
        """The globals of the function, or of the module in which a class or callable is defined."""
        function: Any = self._function
        while isinstance(function, functools.partial):
            function = function.func
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        found: dict[str, Any] | None = getattr(function, "__globals__", None)
        if found is None:
            main = sys.modules["__main__"]
            found = vars(sys.modules.get(getattr(function, "__module__", None) or "", main))
        return found

    def select(self, method: str) -> None:
        """Take up the method that a lease names; a function has none."""

    def bind(self, snapshot: bytes) -> None:
        """Set what the function captured; names whose value is the last bound one are left alone.

        Args:
            snapshot: the object that a lease names.

        Raises:
            DeserializationError: a value cannot be had here; the message names it.
        """
        try:
            decoded = _snapshots.decode(snapshot)
        except msgspec.DecodeError as error:
            message = f"no snapshot: {error}"
            raise DeserializationError(message) from error
        self._show_sources(decoded)
        for number, tracker in decoded.classes:
            self._track(number, tracker)
        bound = {place: value.digest for value in decoded.values for place in value.places}
        for place in self._bound.keys() - bound.keys() if self._standing is None else ():
            self._unbind(place)
        for value in decoded.values:
            self._bind_value(value)

    def _build(self) -> None:
        assembly = self._assembly
        with assembly.in_use():
            contents: bundle.Contents = pickle.loads(self._code.payload)
        assembly.items[:], bindings, self._function, kept = contents
        self._keep.append(kept)
        for place, thing in bindings:
            self._place(place, thing)

    def _bind_value(self, value: Value) -> None:
        places = [p for p in value.places if self._bound.get(p) != value.digest]
        if not places:
            return
        try:
            with self._assembly.in_use():
                # Copies: what is bound may be written to, a snapshot may be bound again.
                buffers = [bytearray(buffer) for buffer in value.buffers]
                thing = pickle.loads(value.data, buffers=buffers)
        except Exception as error:
            message = f"{value.label} cannot be unpickled: {type(error).__name__}: {error}"
            raise DeserializationError(message) from error
        for place in places:
            self._place(place, thing)
            self._bound[place] = value.digest

    def _track(self, number: int, tracker: str) -> None:
        """Let values be of the class that came with the code, or of one that stays."""
        known = byvalue.known(tracker) if self._standing is not None else None
        if known is not None and self._standing is not None and self._standing.keeps(known):
            self._assembly.items[number] = known
        else:
            byvalue.track(self._assembly.items[number], tracker)

    def _place(self, place: Place, thing: Any) -> None:
        match place.kind:
            case bundle.GLOBAL:
                names = self._assembly.namespaces[place.owner]
                standing = self._standing
                is_fixed = standing is not None and names is standing.namespace
                if standing is None or not is_fixed or place.name not in standing.kept:
                    names[place.name] = thing
            case bundle.CELL:
                self._assembly.cells[place.owner].cell_contents = thing
            case bundle.ROOT:
                self._function = thing
            case _:
                _set_on(self._assembly.items[place.owner], place, thing)

    def _unbind(self, place: Place) -> None:
        """The notebook has deleted the name; so do we."""
        del self._bound[place]
        match place.kind:
            case bundle.GLOBAL:
                self._assembly.namespaces[place.owner].pop(place.name, None)
            case bundle.CELL:
                del self._assembly.cells[place.owner].cell_contents
            case bundle.ATTRIBUTE:
                owner = self._assembly.items[place.owner]
                if place.name in vars(owner):
                    delattr(owner, place.name)
            case _:
                pass  # a default or the function itself goes with its code

    def _show_sources(self, snapshot: Snapshot) -> None:
        for old, new, text in zip(self._code.files, snapshot.files, snapshot.sources, strict=False):
            failures.show_as(old, new)
            if text:
                for name in {old, new}:
                    # No modification time: linecache keeps it though there is no such file.
                    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)


def load_function(code: bytes, snapshot: bytes) -> Callable[..., Any]:
    """Return a function that this process was not started for: what `.local` runs."""
    binding = Binding.load(code, as_main=False)
    if snapshot:
        binding.bind(snapshot)
    return binding.function


def compared(code: bytes, host: str) -> list[str]:
    """Compare the packages that a function was captured with, with those of this machine.

    Args:
        code: as of `Binding.load`.
        host: what this machine is called; empty where it is the caller's.

    Returns:
        Lines that warn of what differs.

    Raises:
        VersionError: something is missing here, or does not fit.
    """
    if not host:
        return []
    decoded = _decoded(code, host)
    return packages.check(decoded.name, host, decoded.packages, decoded.needs)


def missing_package(code: bytes, host: str, error: ModuleNotFoundError) -> VersionError | None:
    """Return what to raise where code imports what is not here; None: it is no package of theirs.

    `code` and `host` are as of `compared`.
    """
    if not host:
        return None
    decoded = _decoded(code)
    return packages.missing(decoded.name, host, decoded.packages, error)


def _decoded(code: bytes, host: str = "") -> Bundle:
    try:
        decoded = _bundles.decode(code)
    except msgspec.DecodeError as error:
        message = f"no code of a function: {error}"
        raise DeserializationError(message) from error
    here = (sys.version_info.major, sys.version_info.minor)
    if decoded.python != here or decoded.format != bundle.FORMAT:
        message = (
            f"{decoded.name} was captured by Python {_dotted(decoded.python)} (format "
            f"{decoded.format}), this worker is Python {_dotted(here)} (format {bundle.FORMAT}); "
            "use the same Python minor version and notebook-ext on both sides"
        )
        refusal = VersionError(message)
        refusal.lack = host and f"{host} has Python {_dotted(here)} (format {bundle.FORMAT})"
        raise refusal
    return decoded


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _namespace(attributes: dict[str, str], standing: Standing | None) -> dict[str, Any]:
    made = {**attributes, "__builtins__": builtins}
    if standing is None or attributes.get("__name__") != "__main__":
        return made
    standing.namespace.update(made)
    return standing.namespace


_former_mains: list[types.ModuleType] = []
"""Kept: functions of the process's own main module need it alive."""


def _install_main(assembly: Assembly) -> None:
    for number, names in enumerate(assembly.namespaces):
        if names.get("__name__") == "__main__":
            main = types.ModuleType("__main__")
            vars(main).update(names)
            assembly.namespaces[number] = vars(main)
            _former_mains.append(sys.modules["__main__"])
            sys.modules["__main__"] = main
            return


def _set_on(owner: Any, place: Place, thing: Any) -> None:
    """Set a default or an attribute of a function or class."""
    match place.kind:
        case bundle.DEFAULT:
            defaults = list(owner.__defaults__)
            defaults[int(place.name)] = thing
            owner.__defaults__ = tuple(defaults)
        case bundle.KEYWORD_DEFAULT:
            owner.__kwdefaults__[place.name] = thing
        case _:
            setattr(owner, place.name, thing)
