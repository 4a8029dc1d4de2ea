"""An instance of a remote class: its pool, its methods, and the one that is here.

Theory. An instance, `Obj`, is the class and its parameters, and has a pool of its own
(`InstancePool`): the parameters and the snapshot that its hooks see are objects in the pool's spec.
A `Method` is a function of its instance's pool whose calls carry its name.

A worker that knows a class by key derives the same pools from the class's entry in the table of its
tree of calls, so that instances can be made there too. An instance of a class that is deployed is a
name and its parameters; the broker derives its pool from the version that is in force.

Guarantees: equal parameters mean the same pool, in every process of a session. An instance that is
used here (`.local`, a call) is made once, and its `enter` hooks have run.
"""

# ruff: noqa: SLF001  the class, its instances, their pools and methods are one thing in parts

from __future__ import annotations

import inspect
import pickle
import threading
from typing import TYPE_CHECKING, Any, cast

import msgspec

from kernel_worker import context
from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import (
    CallContext,
    Digest,
    FunctionKey,
    digest_of,
    instance_name,
    is_deployed,
)
from kernel_worker.wire import instances
from kernel_worker.wire.instances import ENTER, SNAP, Parameters
from notebook_ext.companions import collecting, note
from notebook_ext.function import Function
from notebook_ext.hooks import Parameter, is_hook, origins
from notebook_ext.marks import ENDPOINT, is_endpoint
from notebook_ext.package import Version, arrived_package, deployed_package, pool_id
from notebook_ext.source import NO_TABLE
from notebook_ext.stored import objects_of
from notebook_ext.submission import Package
from notebook_ext.twin import Waiting, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kernel_worker.context import RunningInput
    from kernel_worker.model import FunctionSpec, PoolSettings
    from notebook_ext.autoscaler import Autoscaler
    from notebook_ext.cls import Cls
    from notebook_ext.source import Source


class InstancePool(Function[..., Any]):
    """The pool of one class with one set of parameters."""

    def __init__(self, cls: Cls, parameters: Parameters, table: Digest = NO_TABLE) -> None:
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
        self._lock = threading.RLock()
        self._version = None
        self._packed = None
        self._packed_as_argument = None
        self._table = table or definition._table
        self._derived_from: tuple[Version | None, list[Source]] = None, []
        values = (*parameters.args, *(data for _, data in (*parameters.kwargs, *parameters.values)))
        self._with_names = [data for data in values if b"notebook_ext" in data]
        self._arrived: tuple[Package, Package] | None = None
        self._parameters = instances.encode(parameters)

    @property
    def encoded(self) -> bytes:
        """The object that holds the parameters."""
        return self._parameters

    @property
    def has_code(self) -> bool:
        """Whether the class is defined here, rather than known by key."""
        return self._cls.definition.has_code

    def read(self) -> Version:
        """Return the version that goes with the class as it reads now."""
        base, given = self._cls.definition.read(), self.given()
        with self._lock:
            from_base, from_given = self._derived_from
            if self._version is None or from_base is not base or from_given != given:
                spec, objects = self._derived(base.spec)
                spec = msgspec.structs.replace(spec, settings=self._options.settings)
                references = (self._cls, *given, *base.references)
                self._version = Version(
                    spec,
                    base.snapshot,
                    {**base.objects, **objects},
                    references,
                    base.requires,
                )
                self._derived_from = base, given
            return self._version

    def given(self) -> list[Source]:
        """Return the remote functions, classes and instances among the parameters, as of now.

        The instance refers to them as to captured ones: a parameter holds their names.
        """
        seen: dict[FunctionKey, Source] = {}
        for data in self._with_names:
            collecting(seen, instances.pickled, pickle.loads(data), self._name)
        return list(seen.values())

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
        self._refuse_itself()
        definition = self._cls.definition
        if is_deployed(self._key):
            return self._named()
        try:
            return arrived_package(self._key, running, self._table)
        except NotFoundError:
            base = arrived_package(definition.key, running, definition._table)
        if self._arrived is None or self._arrived[0] is not base:
            spec, objects = self._derived(base.spec)
            requires = (*base.requires, *objects)
            self._arrived = (
                base,
                Package(
                    spec,
                    base.snapshot,
                    base.table,
                    pools=base.pools,
                    requires=requires,
                    objects=objects,
                    derived=True,
                ),
            )
        return self._arrived[1]

    def _refuse_itself(self) -> None:
        """Raise `InvalidError` in its own `enter` hook, for which its workers wait."""
        identity = context.worker_identity
        entering = identity.entering if identity is not None else None
        if entering is not None and entering.key == self._key:
            raise InvalidError(
                f"{self._name} calls itself in its own hook {instances.running[-1]}: its workers "
                "wait for the hook; call the plain method, as in self.method(...)."
            )

    def _named(self) -> Package:
        """Return what a call takes along of an instance of a deployed class; see the broker."""
        if self._arrived is None:
            package = deployed_package(self._key, self._name)
            objects = {digest_of(self._parameters): self._parameters}
            self._arrived = package, msgspec.structs.replace(package, objects=objects)
        return self._arrived[1]

    def _context(self) -> CallContext:
        return self._cls.definition._context()

    def _configured(self, given: dict[str, Any]) -> Waiting[PoolSettings]:
        self._cls.pinned[self._key] = self  # its settings are to outlive the instance
        return super()._configured(given)

    def __reduce__(self) -> tuple[Any, ...]:
        return pool_of, (self._cls, self._parameters, *self.noted())

    def as_argument(self) -> Package:
        """Return what calls of it need where it arrives as an argument; it has a table."""
        return super().as_argument() if self.has_code else self._package(running_input())

    def noted(self) -> tuple[Digest, ...]:
        """Note that it is being pickled; return its table, if it has one."""
        table = NO_TABLE if is_deployed(self._key) else note(self)
        return (table,) if table else ()


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

    def _ask_whether_generator(self) -> bool:
        cls = self._instance._cls
        cls.refresh()
        return self._method in cls.shape.generators

    def get_raw_f(self) -> Callable[..., Any]:
        """Return the plain function, whose first argument is the instance."""
        return instances.method(self._instance._kind(), self._method)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run here, on an instance that is made and entered when it is first used here."""
        __tracebackhide__ = True
        here = self._instance._here()
        found, named = objects_of(args, kwargs)
        return instances.method(type(here), self._method)(here, *found, **named)

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
        return CallContext(
            around.directory, around.variables, method=self._method, store=around.store
        )

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
        if self._has_method(name):
            method = self.__dict__[name] = Method(self, name)
            return method
        for known, data in instances.decode(self._pool._parameters).values:
            if known == name:
                return pickle.loads(data)
        found = inspect.getattr_static(self._kind(), name, None)
        if is_endpoint(found):
            from notebook_ext.web.function import WebMethod  # noqa: PLC0415  it needs this module

            return WebMethod(self, name, found.__dict__[ENDPOINT])
        if isinstance(found, Parameter) or found is None or is_hook(found):
            raise AttributeError(self._why_not(name, found))
        if inspect.isfunction(found) or isinstance(found, property):
            return getattr(self._here(), name)
        return getattr(self._kind(), name)

    def _has_method(self, name: str) -> bool:
        if name in self._cls.methods:
            return True
        self._cls.refresh()  # a newer version may have it
        return name in self._cls.methods

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

    def __remote_reference__(self) -> FunctionKey:
        """Return what functions carry of it."""
        return self._pool.key

    def __remote_source__(self) -> Source:
        """Return where workers get it from: an instance has no such names, they are its class's."""
        return self._pool

    def __reduce__(self) -> tuple[Any, ...]:
        return instance_of, (self._cls, self._pool._parameters, *self._pool.noted())

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
        if name in _OF_CLASSES:
            return (
                f"{name} belongs to the class: {kind}.{name}(...) gives one to make instances of."
            )
        methods = ", ".join(self._cls.methods) or "none"
        return (
            f"{kind} has no method {name!r} with @nb.method() (there are: {methods}); what hooks "
            "set on an instance lives on its workers, and is read in a method."
        )


_OF_CLASSES = frozenset({"with_batching", "with_concurrency", "with_options"})


def instance_key(key: FunctionKey, parameters: Parameters) -> FunctionKey:
    """Return the key of an instance: the same for equal parameters."""
    if is_deployed(key):
        return FunctionKey(instance_name(key, digest_of(instances.encode(parameters))))
    named = msgspec.structs.replace(parameters, origin=b"")
    return FunctionKey(f"{key}({digest_of(instances.encode(named))[:16]})")


def pool_of(cls: Cls, parameters: bytes, table: Digest = NO_TABLE) -> InstancePool:
    """Return the pool of an instance of `cls`, for pickles."""
    return cls.pool(instances.decode(parameters), table)


def instance_of(cls: Cls, parameters: bytes, table: Digest = NO_TABLE) -> Obj:
    """Return an instance of `cls`, for pickles and for what a worker has made."""
    return Obj(cls, pool_of(cls, parameters, table))


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
