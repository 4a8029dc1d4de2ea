"""`Cls`: a class whose methods run here or on workers.

Theory. A class is captured as a function is: its code is a version, the values that it reads are a
snapshot. `Definition` is that function; nothing runs on it: what runs are instances (see the room
`instance`). What the hooks read is part of the version, what only methods read is not.

A class that was looked up (`Cls.from_name`) is a name; what its instances are made from is asked
whenever one is made, so that it never grows old.
"""

# ruff: noqa: SLF001  the class, its instances, their pools and methods are one thing in parts

from __future__ import annotations

import inspect
import pickle
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from kernel_worker.errors import InvalidError
from kernel_worker.model import Digest, FunctionKey, digest_of, is_deployed
from kernel_worker.wire import instances
from kernel_worker.wire.instances import ENTER, EXIT, SNAP, Parameters
from notebook_ext import constructor as constructors
from notebook_ext import marks
from notebook_ext import options as options_
from notebook_ext.companions import collecting, note, table_here
from notebook_ext.constructor import Shape
from notebook_ext.function import Function
from notebook_ext.hooks import MethodDefinition, Parameter, is_hook, origins
from notebook_ext.instance import InstancePool, Method, Obj, instance_key, instance_of
from notebook_ext.looked_up import ClassFromName, ClassLookup, ask_class
from notebook_ext.package import Version, pool_id
from notebook_ext.source import NO_TABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.app import App
    from notebook_ext.capture import Captured
    from notebook_ext.options import Options
    from notebook_ext.source import Source

__all__ = ["Cls", "Definition", "InstancePool", "Method", "Obj", "Shape"]

_known: weakref.WeakValueDictionary[FunctionKey, Cls] = weakref.WeakValueDictionary()


class Definition(Function[..., Any]):
    """The class behind a `Cls`, as functions are: to be captured, not to be called."""

    defaults: tuple[Source, ...] = ()
    """Remote functions among the defaults of parameters."""

    def _introduce(self, raw: Callable[..., Any]) -> None:
        self.__doc__ = raw.__doc__
        self._entered: tuple[Digest, Digest, bytes] | None = None

    def _made(self, captured: Captured) -> Version:
        """Return the version; what the hooks read is part of it."""
        from notebook_ext.capture.entering import read_by  # noqa: PLC0415  cloudpickle: 20 ms

        version = super()._made(captured)
        kind = cast("type", self._raw)
        before = ["__init__", *instances.hooks(kind, SNAP), *instances.hooks(kind, ENTER)]
        before += marks.builders(kind)
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
        return version._replace(
            spec=spec,
            objects={**version.objects, initial: content},
            references=(*version.references, *self.defaults),
        )


class Cls:
    """A class whose methods run here or on workers. `App.cls` makes it."""

    def __init__(self, raw: type, app: App, options: Options, variant: str = "") -> None:
        """Wrap `raw`; see `App.cls` and, for `variant`, `with_options`."""
        self._app: App | None = app
        self._options = options
        defaults: dict[FunctionKey, Source] = {}
        self._shape: Shape | None = collecting(defaults, _shape, raw, options)
        self.definition = Definition(raw, app, options, variant)
        self.definition.defaults = tuple(defaults.values())
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
        shape: Shape | None,
        table: Digest = NO_TABLE,
    ) -> Cls:
        """Return a class that is known here by its key alone.

        `table` is where it is found that came as an argument; without a shape, it is deployed.
        """
        found: Cls = object.__new__(cls)
        found._app = None
        found._options = options_.Options()
        found._shape = shape
        definition = Definition.reference(key, name, module, table=table or table_here())
        found.definition = cast("Definition", definition)
        found._start()
        found.__name__ = found.__qualname__ = name
        return found

    from_name: ClassVar[ClassFromName] = ClassFromName()
    """See `notebook_ext.looked_up.ClassFromName`."""
    lookup: ClassVar[ClassLookup] = ClassLookup()
    """See `notebook_ext.looked_up.ClassLookup`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return an instance: `Model("base")`; equal parameters share their workers.

        Raises:
            InvalidError: the parameters do not fit the class.
            NotFoundError: it was looked up, and is not deployed.
            SerializationError: one of them cannot be pickled.
        """
        __tracebackhide__ = True
        self.refresh()
        given: dict[FunctionKey, Source] = {}
        parameters = collecting(given, self.shape.constructor.bound, args, kwargs)
        if self.is_looked_up and (own := [each.name for each in given.values()]):
            raise InvalidError(
                f"{self.name}(...): {', '.join(own)} is defined here, and {self.name} is deployed: "
                "allowed as parameters are deployed functions, see Function.from_name."
            )
        return Obj(self, self.pool(parameters))

    @property
    def is_looked_up(self) -> bool:
        """Whether it is a name, of what is deployed."""
        return is_deployed(self.key)

    def newest(self) -> Cls:
        """Return the class that its cell defines now."""
        return _known.get(self.key, self)

    @property
    def shape(self) -> Shape:
        """What it looks like to those who use it."""
        if self._shape is None:
            self.refresh()
        return cast("Shape", self._shape)

    def refresh(self) -> None:
        """Ask what the class looks like now, where it is a name.

        Raises:
            NotFoundError: it is not deployed; the message has the nearest names.
            InvalidError: it is a function.
        """
        if self.is_looked_up:
            self._shape = ask_class(self.key).join()

    def learn(self, shape: Shape) -> Cls:
        """Take what the class looks like, and return it."""
        self._shape = shape
        return self

    def with_options(self, **given: Any) -> Cls:
        """Return a variant of this class whose instances have pools of their own.

        Raises:
            InvalidError: as `App.cls`.
        """
        self._own_app()
        return self._variant(options_.parse(given, self._options))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Cls:
        """Return a variant of which a worker runs several inputs at once; see `concurrent`.

        Raises:
            InvalidError: as `concurrent`.
        """
        self._own_app()
        return self._variant(options_.with_concurrency(self._options, max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls:
        """Return a variant whose only remote method takes lists of inputs; see `batched`.

        Raises:
            InvalidError: as `batched`; or the class has other methods.
        """
        self._own_app()
        options = options_.with_batching(self._options, max_batch_size, wait_ms)
        kind = self.get_raw_f()
        if len(self.methods) != 1:
            raise InvalidError(_not_alone(f"{self.name}.with_batching(...)", self.methods))
        marks.check_batched(inspect.getattr_static(kind, self.methods[0]))
        return self._variant(options)

    def _own_app(self) -> App:
        """Return the app; raise `InvalidError` where it is not defined here."""
        if self._app is None:
            where = "deployed" if self.is_looked_up else "defined in another process"
            raise InvalidError(f"{self.name} is {where}; make variants where it is defined.")
        return self._app

    def _variant(self, options: Options) -> Cls:
        mark = digest_of(repr((options.changes_pool(), options.settings)).encode())[:8]
        return Cls(self.get_raw_f(), self._own_app(), options, f"~{mark}")

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

    def pool(self, parameters: Parameters, table: Digest = NO_TABLE) -> InstancePool:
        """Return the pool of the instance with these parameters.

        `table` is where it is found that came as an argument.
        """
        named = msgspec.structs.replace(parameters, origin=pickle.dumps(self, 5))
        key = instance_key(self.key, named)
        found = self._pools.get(key)
        if found is None or (table and table != found.own_table):
            found = self._pools[key] = InstancePool(self, named, table)
        return found

    def default_of(self, key: FunctionKey) -> bytes | None:
        """Return the parameters of the instance without arguments, of this class deployed as `key`.

        None where it needs arguments.
        """
        try:
            bound = self.shape.constructor.bound((), {})
        except InvalidError:
            return None
        return _looked_up(key).pool(bound).encoded

    def adopt(self, instance: object, parameters: bytes) -> None:
        """Let `instance`, which a worker made, know what it is to others."""
        origins.put(instance, instance_of(self, parameters))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the class; of a method, what says that it needs an instance."""
        if name.startswith("__") or name in _OWN:
            raise AttributeError(name)
        if name in _OF_INSTANCES and not hasattr(self.get_raw_f(), name):
            raise AttributeError(
                f"{name} belongs to an instance, which has workers: {self.name}(...).{name}"
            )
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
        if self.is_looked_up:
            return _looked_up, (definition.key,)
        named = (definition.key, definition.name, definition._module, self.shape)
        table = note(definition)
        return _referenced, (*named, table) if table else named

    def __repr__(self) -> str:
        if self.is_looked_up:
            return f"<Cls {self.key.partition('/')[2]}, deployed>"
        return f"<Cls {self.definition._module}.{self.name}>"


_OF_INSTANCES = frozenset({"autoscaler", "get_current_stats", "keep_warm", "update_autoscaler"})
_OWN = frozenset({"_app", "_options", "_pools", "_shape", "definition", "pinned", "shape"})


def checked_class(kind: Any) -> type:
    """Return `kind` if its methods can run on workers; raise `InvalidError` otherwise."""
    if isinstance(kind, Cls):
        raise InvalidError(f"{kind.name} is a remote class already; use .with_options(...).")
    if not inspect.isclass(kind):
        shown = getattr(kind, "__qualname__", repr(kind))
        remedy = "use @app.function()" if callable(kind) else "options are given by name"
        raise InvalidError(f"@app.cls on {shown}: allowed is a class; {remedy}.")
    for owner in kind.__mro__:
        for name, value in list(vars(owner).items()):
            _check_member(owner, name, value)
    return kind


def batched_method(kind: type) -> dict[str, Any]:
    """Return the options that `@nb.batched` on a method of a class gives to its workers, if any.

    Raises:
        InvalidError: the class has another remote method.
    """
    methods = _methods(kind)
    for name in methods:
        found = inspect.getattr_static(kind, name)
        marked = {**marks.marked_options(found.get_raw_f()), **marks.marked_options(found)}
        if "max_batch_size" not in marked:
            continue
        if len(methods) > 1:
            size = marked["max_batch_size"]
            asked = f"@batched(max_batch_size={size}) on {kind.__qualname__}.{name}"
            raise InvalidError(_not_alone(asked, methods))
        return marked
    return {}


def _not_alone(asked: str, methods: tuple[str, ...]) -> str:
    return (
        f"{asked}: a batched method is the only remote method of its class, whose workers run "
        f"groups of inputs; this class has {', '.join(methods) or 'none'}. Put the others into "
        "another class."
    )


def is_remote_by_nature(kind: type) -> bool:
    """Say whether a class has a method, a hook or a parameter of ours."""
    return any(
        isinstance(value, MethodDefinition | Parameter)
        or is_hook(value)
        or (inspect.isfunction(value) and "max_batch_size" in marks.marked_options(value))
        for owner in kind.__mro__
        for value in vars(owner).values()
    )


def _check_member(owner: type, name: str, value: object) -> None:
    raw = value.get_raw_f() if isinstance(value, MethodDefinition) else value
    marked: dict[str, Any] = {}
    for each in (value, raw):
        marked |= marks.check_method(f"{owner.__qualname__}.{name}", each)
    if marked and is_hook(raw):
        raise InvalidError(
            f"@batched(max_batch_size={marked['max_batch_size']}) on {owner.__qualname__}.{name}: "
            "it is a hook, which workers run by themselves; allowed is a method."
        )
    if marked and inspect.isfunction(value):
        setattr(owner, name, MethodDefinition(value))  # as with @nb.method()
    if isinstance(value, Function):
        raise InvalidError(
            f"{owner.__qualname__}.{name} has @app.function(), which is for plain functions: use "
            "@nb.method(); options go to the class, @app.cls(...)."
        )


def _methods(kind: type) -> tuple[str, ...]:
    names = {name: None for owner in reversed(kind.__mro__) for name in vars(owner)}
    return tuple(
        name for name in names if isinstance(inspect.getattr_static(kind, name), MethodDefinition)
    )


def _shape(kind: type, options: Options) -> Shape:
    methods = _methods(kind)
    generators = tuple(
        name
        for name in methods
        if marks.streams_items(instances.method(kind, name), options, f"{kind.__qualname__}.{name}")
    )
    return Shape(constructors.of(kind), methods, generators)


def _looked_up(key: FunctionKey) -> Cls:
    """Return the deployed class with this key."""
    return Cls.reference(key, key.rpartition("/")[2], "deployed", None)


def _referenced(
    key: FunctionKey, name: str, module: str, shape: Shape, table: Digest = NO_TABLE
) -> Cls:
    """Return the class with this key: the one that is defined here, or a reference to it."""
    return _known.get(key) or Cls.reference(key, name, module, shape, table)
