"""`Cls`: a class whose methods run here or on workers.

Theory. A class is captured as a function is: its code is a version, the values that it reads are a
snapshot. `Definition` is that function; nothing runs on it. An instance, `Obj`, is the class and
its parameters, and has a pool of its own (`InstancePool`): the parameters and the snapshot that its
hooks see are objects in the pool's spec. What the hooks read is part of the version, what only
methods read is not. A `Method` is a function of its instance's pool whose calls carry its name.

A worker that knows a class by key derives the same pools from the class's entry in the table of its
tree of calls, so that instances can be made there too.

Guarantees: equal parameters mean the same pool, in every process of a session. An instance that is
used here (`.local`, a call) is made once, and its `enter` hooks have run.
"""

# ruff: noqa: SLF001  the class, its instances, their pools and methods are one thing in parts

from __future__ import annotations

import inspect
import pickle
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import CallContext, Digest, FunctionKey, digest_of
from kernel_worker.wire import instances
from kernel_worker.wire.instances import ENTER, EXIT, SNAP, Parameters
from notebook_ext import constructor as constructors
from notebook_ext import marks
from notebook_ext import options as options_
from notebook_ext.companions import note, table_here
from notebook_ext.constructor import Constructor
from notebook_ext.function import Function
from notebook_ext.generators import streams_items
from notebook_ext.hooks import MethodDefinition, Parameter, is_hook, origins
from notebook_ext.package import Version, arrived_package, pool_id
from notebook_ext.submission import Package
from notebook_ext.twin import Waiting, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kernel_worker.context import RunningInput
    from kernel_worker.model import FunctionSpec, PoolSettings
    from notebook_ext.app import App
    from notebook_ext.autoscaler import Autoscaler
    from notebook_ext.capture import Captured
    from notebook_ext.options import Options

_NO_TABLE = Digest("")
_known: weakref.WeakValueDictionary[FunctionKey, Cls] = weakref.WeakValueDictionary()


class Shape(NamedTuple):
    """What a class looks like to those who use it; plain data."""

    constructor: Constructor
    methods: tuple[str, ...]
    generators: tuple[str, ...]
    """Those of the methods that give items."""


class Definition(Function[..., Any]):
    """The class behind a `Cls`, as functions are: to be captured, not to be called."""

    def _introduce(self, raw: Callable[..., Any]) -> None:
        self.__doc__ = raw.__doc__
        self._entered: tuple[Digest, Digest, bytes] | None = None

    def _made(self, captured: Captured) -> Version:
        """Return the version; what the hooks read is part of it."""
        from notebook_ext.capture.entering import read_by  # noqa: PLC0415  cloudpickle: 20 ms

        version = super()._made(captured)
        kind = cast("type", self._raw)
        before = ["__init__", *instances.hooks(kind, SNAP), *instances.hooks(kind, ENTER)]
        identity = digest_of(captured.version.encode(), read_by(kind, before).encode())
        if self._entered is None or self._entered[0] != identity:
            content = captured.objects[captured.snapshot]
            self._entered = (identity, captured.snapshot, content)
        _, initial, content = self._entered
        spec = msgspec.structs.replace(
            version.spec,
            pool=pool_id(version.spec.pool, identity),
            version=identity,
            initial=initial,
            snaps=bool(instances.hooks(kind, SNAP)),
            cleans_up=bool(instances.hooks(kind, EXIT)),
        )
        return version._replace(spec=spec, objects={**version.objects, initial: content})


class InstancePool(Function[..., Any]):
    """The pool of one class with one set of parameters."""

    def __init__(self, cls: Cls, parameters: Parameters) -> None:
        """Derive it; nothing is read or sent."""
        definition = cls.definition
        self._cls = cls
        self._raw = definition._raw
        self._app = definition._app
        self._options = definition._options
        self._name = definition._name
        self._module = definition._module
        self._key = instance_key(definition.key, parameters)
        self.is_generator = False
        self._lock = threading.Lock()
        self._version = None
        self._packed = None
        self._packed_as_argument = None
        self._table = definition._table
        self._derived_from: object = None
        self._arrived: tuple[Package, Package] | None = None
        self._parameters = instances.encode(parameters)

    @property
    def has_code(self) -> bool:
        """Whether the class is defined here, rather than known by key."""
        return self._cls.definition.has_code

    def read(self) -> Version:
        """Return the version that goes with the class as it reads now."""
        base = self._cls.definition.read()
        with self._lock:
            if self._version is None or self._derived_from is not base:
                spec, objects = self._derived(base.spec)
                spec = msgspec.structs.replace(spec, settings=self._options.settings)
                references = (self._cls, *base.references)
                self._version = Version(
                    spec, base.snapshot, {**base.objects, **objects}, references
                )
                self._derived_from = base
            return self._version

    def _derived(self, spec: FunctionSpec) -> tuple[FunctionSpec, dict[Digest, bytes]]:
        """Return the spec of this pool and the object that it needs beyond those of the class."""
        digest = digest_of(self._parameters)
        derived = msgspec.structs.replace(
            spec, pool=pool_id(spec.pool, self._key), key=self._key, parameters=digest
        )
        return derived, {digest: self._parameters}

    def _package(self, running: RunningInput | None) -> Package:
        if self.has_code:
            return super()._package(running)
        definition = self._cls.definition
        try:
            return arrived_package(self._key, running)
        except NotFoundError:
            base = arrived_package(definition.key, running, definition._table)
        if self._arrived is None or self._arrived[0] is not base:
            spec, objects = self._derived(base.spec)
            requires = (*base.requires, *objects)
            self._arrived = (
                base,
                Package(spec, base.snapshot, base.table, (), base.pools, requires, objects),
            )
        return self._arrived[1]

    def _context(self) -> CallContext:
        return self._cls.definition._context()

    def _configured(self, given: dict[str, Any]) -> Waiting[PoolSettings]:
        self._cls.pinned[self._key] = self  # its settings are to outlive the instance
        return super()._configured(given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _pool_of, (self._cls, self._parameters)


class Method(Function[..., Any]):
    """A method of an instance: `remote`, `map` and the rest, on the workers of the instance."""

    def __init__(self, instance: Obj, name: str) -> None:
        """Stand for the method `name` of `instance`."""
        pool = instance._pool
        self._instance = instance
        self._pool = pool
        self._method = name
        self._raw = None
        self._app = pool._app
        self._options = pool._options
        self._name = f"{pool._name}.{name}"
        self._module = pool._module
        self._key = pool._key
        self.is_generator = name in instance._cls.shape.generators

    @property
    def has_code(self) -> bool:
        """Whether the class is defined here, rather than known by key."""
        return self._pool.has_code

    def read(self) -> Version:
        """Return the instance's version as the class reads now."""
        return self._pool.read()

    def get_raw_f(self) -> Callable[..., Any]:
        """Return the plain function, whose first argument is the instance."""
        return instances.method(self._instance._kind(), self._method)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run here, on an instance that is made and entered when it is first used here."""
        __tracebackhide__ = True
        here = self._instance._here()
        return instances.method(type(here), self._method)(here, *args, **kwargs)

    local = __call__

    @twin
    def keep_warm(self, /, *_: object, **__: object) -> Waiting[PoolSettings]:
        """Belongs to the instance."""
        raise self._misplaced("keep_warm")

    @twin
    def update_autoscaler(self, /, *_: object, **__: object) -> Waiting[PoolSettings]:
        """Belongs to the instance."""
        raise self._misplaced("update_autoscaler")

    @property
    def autoscaler(self) -> Autoscaler:
        """Belongs to the instance."""
        raise self._misplaced("autoscaler")

    def with_options(self, **_: object) -> Function[..., Any]:
        """Belongs to the class."""
        kind = self._instance._cls.name
        raise InvalidError(
            f"{self._name}.with_options: all methods of an instance share its workers; call it on "
            f"the class, {kind}.with_options(...)(...).{self._method}."
        )

    def _misplaced(self, name: str) -> InvalidError:
        kind = self._instance._cls.name
        return InvalidError(
            f"{self._name}.{name}: all methods of an instance share its workers; call it on the "
            f"instance, {kind}(...).{name}(...)."
        )

    def _package(self, running: RunningInput | None) -> Package:
        return self._pool._package(running)

    def _context(self) -> CallContext:
        around = self._pool._context()
        return CallContext(around.directory, around.variables, method=self._method)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._instance, self._method)

    def __repr__(self) -> str:
        return f"<method {self._module}.{self._name}>"


class Obj:
    """An instance of a `Cls`: its methods run on the workers that have made the same one."""

    def __init__(self, cls: Cls, pool: InstancePool) -> None:
        """Use the class: `Model("base")`."""
        self._cls = cls
        self._pool = pool
        self._lock = threading.Lock()
        self._local: Any = None

    def __getattr__(self, name: str) -> Any:
        """Return a method, a parameter, or what a local instance computes."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._cls.methods:
            method = self.__dict__[name] = Method(self, name)
            return method
        for known, data in instances.decode(self._pool._parameters).values:
            if known == name:
                return pickle.loads(data)
        found = inspect.getattr_static(self._kind(), name, None)
        if isinstance(found, Parameter) or found is None or is_hook(found):
            raise AttributeError(self._why_not(name, found))
        if inspect.isfunction(found) or isinstance(found, property):
            return getattr(self._here(), name)
        return getattr(self._kind(), name)

    @property
    def keep_warm(self) -> Any:
        """Keep so many workers of this instance warm."""
        return self._pool.keep_warm

    @property
    def update_autoscaler(self) -> Any:
        """Change how many workers this instance has; see `Function.update_autoscaler`."""
        return self._pool.update_autoscaler

    @property
    def autoscaler(self) -> Autoscaler:
        """The same by other names: `.update(...)` and `.settings()`."""
        return self._pool.autoscaler

    @property
    def get_current_stats(self) -> Any:
        """Return how many inputs wait for this instance and how many workers it has."""
        return self._pool.get_current_stats

    @property
    def key(self) -> FunctionKey:
        """What names it wherever it is the same."""
        return self._pool.key

    @property
    def has_code(self) -> bool:
        """Whether its class is defined here, rather than known by key."""
        return self._pool.has_code

    def read(self) -> Version:
        """Return its version as the class reads now."""
        return self._pool.read()

    def __remote_reference__(self) -> FunctionKey:
        """Return what functions carry of it."""
        return self._pool.key

    def __reduce__(self) -> tuple[Any, ...]:
        return _instance_of, (self._cls, self._pool._parameters)

    def __repr__(self) -> str:
        return f"<instance of {self._cls.name}>"

    def _kind(self) -> type:
        return cast("type", self._cls.definition.get_raw_f())

    def _here(self) -> Any:
        """Return the instance that is here, made and entered now if it was not."""
        with self._lock:
            if self._local is None:
                made = instances.construct(self._kind(), instances.decode(self._pool._parameters))
                origins.put(made, self)
                instances.run_hooks(made, (SNAP, ENTER), _run)
                self._local = made
            return self._local

    def _why_not(self, name: str, found: object) -> str:
        kind = self._cls.name
        if is_hook(found):
            return f"{kind}.{name} is a hook: workers run it, users do not call it."
        methods = ", ".join(self._cls.methods) or "none"
        return (
            f"{kind} has no method {name!r} with @nb.method() (there are: {methods}); what hooks "
            "set on an instance lives on its workers, and is read in a method."
        )


class Cls:
    """A class whose methods run here or on workers. `App.cls` makes it."""

    def __init__(self, raw: type, app: App, options: Options, variant: str = "") -> None:
        """Wrap `raw`; see `App.cls` and, for `variant`, `with_options`."""
        self._app: App | None = app
        self._options = options
        self.shape = _shape(raw, options)
        self.definition = Definition(raw, app, options, variant)
        self._start()
        self.__doc__ = raw.__doc__
        self.__name__ = raw.__name__
        self.__qualname__ = raw.__qualname__
        self.__module__ = raw.__module__
        _known[self.definition.key] = self

    def _start(self) -> None:
        self._pools: weakref.WeakValueDictionary[FunctionKey, InstancePool]
        self._pools = weakref.WeakValueDictionary()
        self.pinned: dict[FunctionKey, InstancePool] = {}
        """Pools whose settings were changed."""

    @classmethod
    def reference(
        cls,
        key: FunctionKey,
        name: str,
        module: str,
        shape: Shape,
        table: Digest = _NO_TABLE,
    ) -> Cls:
        """Return a class that is known here by its key alone.

        `table` is where it is found that came as an argument.
        """
        found: Cls = object.__new__(cls)
        found._app = None
        found._options = options_.Options()
        found.shape = shape
        definition = Definition.reference(key, name, module, table=table or table_here())
        found.definition = cast("Definition", definition)
        found._start()
        found.__name__ = found.__qualname__ = name
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return an instance: `Model("base")`; equal parameters share their workers.

        Raises:
            InvalidError: the parameters do not fit the class.
            SerializationError: one of them cannot be pickled.
        """
        return Obj(self, self.pool(self.shape.constructor.bound(args, kwargs)))

    def with_options(self, **given: Any) -> Cls:
        """Return a variant of this class whose instances have pools of their own.

        Raises:
            InvalidError: as `App.cls`.
        """
        if self._app is None:
            raise InvalidError(f"{self.name} is defined in another process; make variants there.")
        options = options_.parse(given, self._options)
        mark = digest_of(repr((options.changes_pool(), options.settings)).encode())[:8]
        return Cls(self.get_raw_f(), self._app, options, f"~{mark}")

    @property
    def name(self) -> str:
        """The name that messages and displays use."""
        return self.definition.name

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that workers run."""
        return self.shape.methods

    @property
    def key(self) -> FunctionKey:
        """What a redefinition keeps."""
        return self.definition.key

    @property
    def has_code(self) -> bool:
        """Whether it is defined here, rather than known by key."""
        return self.definition.has_code

    def read(self) -> Version:
        """Return the class as it reads now."""
        return self.definition.read()

    def get_raw_f(self) -> type:
        """Return the plain class."""
        return cast("type", self.definition.get_raw_f())

    def pool(self, parameters: Parameters) -> InstancePool:
        """Return the pool of the instance with these parameters."""
        key = instance_key(self.key, parameters)
        found = self._pools.get(key)
        if found is None:
            named = msgspec.structs.replace(parameters, origin=pickle.dumps(self, 5))
            found = self._pools[key] = InstancePool(self, named)
        return found

    def adopt(self, instance: object, parameters: bytes) -> None:
        """Let `instance`, which a worker made, know what it is to others."""
        origins.put(instance, _instance_of(self, parameters))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the class; of a method, what says that it needs an instance."""
        if name.startswith("__") or name in _OWN:
            raise AttributeError(name)
        return getattr(self.get_raw_f(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """Let other classes inherit from the plain class."""
        return (self.get_raw_f(),)

    def __instancecheck__(self, instance: object) -> bool:
        """Say whether `instance` was made by this class, here or for a worker."""
        if isinstance(instance, Obj):
            return instance._cls.key == self.key
        return isinstance(instance, self.get_raw_f())

    def __remote_reference__(self) -> FunctionKey:
        """Return what functions carry of it."""
        return self.key

    def __reduce__(self) -> tuple[Any, ...]:
        definition = self.definition
        named = (definition.key, definition.name, definition._module, self.shape)
        table = note(definition)
        return _referenced, (*named, table) if table else named

    def __repr__(self) -> str:
        return f"<Cls {self.definition._module}.{self.name}>"


_OWN = frozenset({"_app", "_options", "_pools", "definition", "pinned", "shape"})


def instance_key(key: FunctionKey, parameters: Parameters) -> FunctionKey:
    """Return the key of an instance: the same for equal parameters."""
    named = msgspec.structs.replace(parameters, origin=b"")
    return FunctionKey(f"{key}({digest_of(instances.encode(named))[:16]})")


def checked_class(kind: Any) -> type:
    """Return `kind` if its methods can run on workers; raise `InvalidError` otherwise."""
    if isinstance(kind, Cls):
        raise InvalidError(f"{kind.name} is a remote class already; use .with_options(...).")
    if not inspect.isclass(kind):
        shown = getattr(kind, "__qualname__", repr(kind))
        remedy = "use @app.function()" if callable(kind) else "options are given by name"
        raise InvalidError(f"@app.cls on {shown}: allowed is a class; {remedy}.")
    for owner in kind.__mro__:
        for name, value in vars(owner).items():
            _check_member(owner, name, value)
    return kind


def is_remote_by_nature(kind: type) -> bool:
    """Say whether a class has a method, a hook or a parameter of ours."""
    return any(
        isinstance(value, MethodDefinition | Parameter) or is_hook(value)
        for owner in kind.__mro__
        for value in vars(owner).values()
    )


def _check_member(owner: type, name: str, value: object) -> None:
    raw = value.get_raw_f() if isinstance(value, MethodDefinition) else value
    for each in (value, raw):
        marks.check_method(f"{owner.__qualname__}.{name}", each)
    if isinstance(value, Function):
        raise InvalidError(
            f"{owner.__qualname__}.{name} has @app.function(), which is for plain functions: use "
            "@nb.method(); options go to the class, @app.cls(...)."
        )


def _shape(kind: type, options: Options) -> Shape:
    names = {name: None for owner in reversed(kind.__mro__) for name in vars(owner)}
    methods = tuple(
        name for name in names if isinstance(inspect.getattr_static(kind, name), MethodDefinition)
    )
    generators = tuple(
        name
        for name in methods
        if streams_items(instances.method(kind, name), options, f"{kind.__qualname__}.{name}")
    )
    return Shape(constructors.of(kind), methods, generators)


def _referenced(
    key: FunctionKey, name: str, module: str, shape: Shape, table: Digest = _NO_TABLE
) -> Cls:
    """Return the class with this key: the one that is defined here, or a reference to it."""
    return _known.get(key) or Cls.reference(key, name, module, shape, table)


def _pool_of(cls: Cls, parameters: bytes) -> InstancePool:
    return cls.pool(instances.decode(parameters))


def _instance_of(cls: Cls, parameters: bytes) -> Obj:
    return Obj(cls, _pool_of(cls, parameters))


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run an `async` hook to its end, also where a loop runs already."""
    import asyncio  # noqa: PLC0415  30 ms that most classes never need

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    result: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001  raised again by who waits
            failed.append(error)

    thread = threading.Thread(target=run, name="notebook-ext hook")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]
