"""What a call takes along of its function and of all the functions that it refers to.

Theory. A function that refers to other remote functions carries their keys only. When a call is
made at the root of a tree (in a notebook, a script), every function that it can reach is read, and
a *table* says which version of each the whole tree sees. A call that is nested in an input of a
worker goes by the table of its tree, so that functions that arrived there by key need no code.

A package is made again only where one of the functions reads differently from the last time.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from kernel_worker import context
from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import (
    CallContext,
    DeployedFunction,
    Digest,
    Environment,
    FunctionKey,
    FunctionSpec,
    ImageSpec,
    PoolId,
    PoolSettings,
    deployed_key,
    digest_of,
    is_deployed,
    is_text,
)
from kernel_worker.wire import instances
from notebook_ext import blobs, process
from notebook_ext.submission import Package

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kernel_worker.context import RunningInput
    from notebook_ext.cls import Cls
    from notebook_ext.function import Function
    from notebook_ext.source import Source

_NO_TABLE = Digest("")


class Entry(NamedTuple):
    """What a table says of one function."""

    spec: FunctionSpec
    snapshot: Digest
    requires: tuple[Digest, ...] = ()
    """Objects beside these that it needs: such as were put, and large captured values."""


Table = dict[FunctionKey, Entry]


class Version(NamedTuple):
    """A function as it reads now."""

    spec: FunctionSpec
    snapshot: Digest
    objects: Mapping[Digest, bytes]
    references: tuple[object, ...]
    requires: tuple[Digest, ...] = ()
    """Objects that were put and that it captures."""


def packed(
    root: Source,
    last: tuple[tuple[Version, ...], Package] | None,
    *,
    with_table: bool = False,
) -> tuple[tuple[Version, ...], Package]:
    """Return what a call of `root` takes along, and the versions that it was made from.

    Args:
        root: the function that is called; its code is here.
        last: what this returned the last time; returned again where nothing has changed.
        with_table: make a table also where the function refers to no other.
    """
    if last is not None and len(last[0]) == 1:
        now = root.read()
        if now is last[0][0] and not now.references:
            return last
    functions, versions, arrived = _reach(root)
    if last is not None and not arrived and _same(versions, last[0]):
        return last
    if len(functions) == 1 and not versions[0].references and not with_table:
        only = versions[0]
        return versions, Package(
            only.spec, only.snapshot, requires=only.requires, objects=only.objects
        )
    table: Table = dict(_current_table()) if arrived else {}
    inherited = list(table.values())
    objects: dict[Digest, bytes] = {}
    for version in versions:
        table[version.spec.key] = Entry(version.spec, version.snapshot, version.requires)
        objects.update(version.objects)
    encoded = msgspec.msgpack.encode(table)
    digest = digest_of(encoded)
    objects[digest] = encoded
    package = Package(
        spec=versions[0].spec,
        snapshot=versions[0].snapshot,
        table=digest,
        nested=tuple(v.spec for v in versions[1:] if not v.spec.is_abstract),
        pools=_pools(table.values()),
        requires=(*objects, *_digests(inherited)),
        objects=objects,
    )
    return versions, package


def arrived_package(
    key: FunctionKey, running: RunningInput | None, own_table: Digest = _NO_TABLE
) -> Package:
    """Return what a call takes along of a function that arrived here by key.

    Raises:
        InvalidError: this is no worker, and it is no part of what was deployed either, so nobody
            knows the function's code.
        NotFoundError: the tree of calls that runs here does not refer to it.
    """
    tree = tree_table(running)
    if tree is None:
        known = _deployed_entry(own_table, key)
        if known is not None and is_deployed(known[0].key):
            return deployed_package(known[0].key, known[0].name)
        raise unreachable(key)
    table, spec, snapshot = entry_of(key, tree, own_table)
    return _arrived(table, spec, snapshot)


def tree_table(running: RunningInput | None) -> Digest | None:
    """Return where the tree of calls finds functions; None where there is no tree.

    An `enter` hook runs before there is an input: it goes by the table of its instance.
    """
    if running is not None:
        return running.table
    identity = context.worker_identity
    if identity is None or identity.entering is None:
        return None
    return Digest(process.current().ask("hooks", identity.entering.pool, str).join())


def unreachable(key: FunctionKey) -> InvalidError:
    """Return the error for a function of which nobody here knows the code."""
    name = key.rpartition("/")[2]
    if instances.running:
        return InvalidError(
            f"{name} cannot be called in the hook {instances.running[-1]}: remote functions can be "
            "called in methods, and in hooks with @nb.enter() (without snap=True)."
        )
    return InvalidError(
        f"{name} was defined in another process; here it is only a name. "
        "Define it here, or deploy its app and use Function.from_name."
    )


def _deployed_entry(own_table: Digest, key: FunctionKey) -> Entry | None:
    """Return what a table says that the broker may keep, because it was deployed, or None."""
    try:
        return _read_table(own_table).get(key) if own_table else None
    except NotFoundError:
        return None


def entry_of(
    key: FunctionKey, tree: Digest, own_table: Digest
) -> tuple[Digest, FunctionSpec, Digest]:
    """Return the table in which a function is found, and its spec and snapshot there.

    The table of the tree comes first, so that the tree sees one version of a function; one that is
    not in it came as an argument, with a table of its own.

    Raises:
        NotFoundError: it is in neither.
    """
    for table in (tree, own_table):
        found = _read_table(table).get(key) if table else None
        if found is not None:
            return table, found.spec, found.snapshot
    raise NotFoundError(
        f"{key.rpartition('/')[2]} is not known to this tree of calls; functions are found "
        "when a function refers to them by name, or gets them as arguments."
    )


@functools.lru_cache(maxsize=256)
def _arrived(table: Digest, spec: FunctionSpec, snapshot: Digest) -> Package:
    entries = list(_read_table(table).values())
    return Package(
        spec=spec,
        snapshot=snapshot,
        table=table,
        pools=_pools(entries),
        requires=tuple(_digests(entries)),
        inherited=True,
    )


def deployed_package(key: FunctionKey, name: str) -> Package:
    """Return what a call takes along of a function that is deployed: its name; see the broker."""
    nothing = Digest("")
    spec = FunctionSpec(PoolId(key), key, name, "", nothing, nothing, nothing)
    return Package(spec, inherited=True)


def deployable(
    app: str, roots: Mapping[str, Function[Any, Any] | Cls]
) -> tuple[tuple[DeployedFunction, ...], dict[Digest, bytes]]:
    """Return the functions and classes `roots` (by name) as they read now, and their objects.

    What they refer to goes with them under keys of the deployment's own, so that nothing that is
    defined elsewhere, or later, changes what is deployed.
    """
    keys = {root.key: deployed_key(app, name) for name, root in roots.items()}
    objects: dict[Digest, bytes] = {}
    found = []
    for name, root in roots.items():
        _, versions, arrived = _reach(root)
        if arrived:
            raise InvalidError(
                f"{name} refers to a function that is defined in another process and cannot be "
                "deployed from here: allowed are functions of this one, and deployed ones."
            )
        table: Table = {}
        for version in versions:
            own = version.spec.key
            inner = own.split("/", 1)[-1].replace("/", ".")
            key = keys.get(own, deployed_key(app, f"+{inner}"))
            table[own] = Entry(_rekeyed(version.spec, key), version.snapshot, version.requires)
            objects.update(version.objects)
        spec, snapshot, _ = table[root.key]
        digest = Digest("")
        if len(versions) > 1 or versions[0].references:
            encoded = msgspec.msgpack.encode(table)
            digest = digest_of(encoded)
            objects[digest] = encoded
        others = [entry.spec for key, entry in table.items() if key != root.key]
        nested = tuple(spec for spec in others if not spec.is_abstract)
        requires = tuple(_digests(table.values()))
        found.append(
            DeployedFunction(
                name,
                spec,
                snapshot,
                digest,
                nested,
                requires,
                getattr(root, "is_generator", False),
                msgspec.msgpack.encode(root.shape) if spec.is_abstract else b"",  # type: ignore[union-attr]
                None if spec.is_abstract else root.schedule,
            )
        )
        if spec.is_abstract and spec.settings.min_containers:
            default = root.default_of(spec.key)  # type: ignore[union-attr]
            if default is not None:
                digest = digest_of(default)
                objects[digest] = default
                found.append(found[-1].instance(digest))
    return tuple(found), objects


def _rekeyed(spec: FunctionSpec, key: FunctionKey) -> FunctionSpec:
    """Return `spec` under another key; equal functions of two processes have one pool then."""
    settled = msgspec.structs.replace(
        spec, key=key, pool=PoolId(""), code=Digest(""), settings=PoolSettings()
    )
    return msgspec.structs.replace(spec, key=key, pool=pool_id(settled))


def table_of(running: RunningInput) -> Table:
    """Return the table of the tree of calls that `running` belongs to."""
    return _read_table(running.table) if running.table else {}


def _current_table() -> Table:
    running = context.running_input()
    return table_of(running) if running is not None else {}


@functools.lru_cache(maxsize=32)
def _read_table(digest: Digest) -> Table:
    identity = context.worker_identity
    encoded = identity.objects.get(digest) if identity is not None else None
    if encoded is None:
        encoded = process.current().ask("object", digest, bytes).join()
    return msgspec.msgpack.decode(encoded, type=Table)


def _reach(
    root: Any,
) -> tuple[list[Source], tuple[Version, ...], bool]:
    """Return the functions that `root` reaches, itself first, as they read now.

    The last part says whether some of them arrived here by key and have no code here.
    """
    functions: list[Source] = [root]
    seen = {root.key}
    versions: list[Version] = []
    arrived = False
    for function in functions:  # grows while it is walked
        version = function.read()
        versions.append(version)
        for reference in version.references:
            key = reference.__remote_reference__()  # type: ignore[attr-defined]
            if key in seen:
                continue
            seen.add(key)
            source: Any = reference
            if hasattr(type(reference), "__remote_source__"):
                source = source.__remote_source__()
            if source.has_code:
                functions.append(source)
            elif not is_deployed(key):
                arrived = True
    return functions, tuple(versions), arrived


def _same(versions: tuple[Version, ...], last: tuple[Version, ...]) -> bool:
    return len(versions) == len(last) and all(a is b for a, b in zip(versions, last, strict=True))


def _digests(entries: Iterable[Entry]) -> list[Digest]:
    """Return the objects that these functions need."""
    found = [
        digest
        for entry in entries
        for digest in (*entry.spec.objects, entry.snapshot, *entry.requires)
        if digest
    ]
    return list(dict.fromkeys(found))


def _pools(entries: Iterable[Entry]) -> tuple[PoolId, ...]:
    return tuple(spec.pool for spec, *_ in entries if not spec.is_abstract)


def pool_id(*parts: object) -> PoolId:
    """Return the id of the pool for a function version with one set of options."""
    return PoolId(f"po-{digest_of(repr(parts).encode())[:20]}")


class Surroundings:
    """The environment of workers, and what a call says of how its own differs."""

    def __init__(
        self,
        source: Digest,
        encoded: bytes,
        env: tuple[tuple[str, str], ...],
        image: ImageSpec | None = None,
        directory: str = "",
    ) -> None:
        """Read an encoded `Environment`; add the variables of the options, and their image.

        `directory` is where workers are, if that is not where the caller is.
        """
        self.source = source
        self.image = image
        self._directory = directory
        environment = msgspec.msgpack.decode(encoded, type=Environment)
        self._started_with = environment.variables
        if not environment.python:
            from notebook_ext.capture.surroundings import at_start  # noqa: PLC0415  rarely

            self._started_with = at_start()
        self._wanted = dict(env)
        self.digest = source
        self.encoded = encoded
        if env or image is not None:
            environment = msgspec.structs.replace(
                environment,
                variables={**environment.variables, **self._wanted},
                options=tuple(self._wanted),
                image=image,
            )
            self.encoded = msgspec.msgpack.encode(environment)
            self.digest = digest_of(self.encoded)
        self._seen: object = None
        self._different: tuple[tuple[str, str | None], ...] = ()
        self._last = CallContext()

    def call_context(self) -> CallContext:
        """Return the surroundings of a call that is made here and now."""
        try:
            directory = self._directory or os.getcwd()  # noqa: PTH109  half the cost, at every call
        except OSError:
            directory = ""
        last = self._last
        if directory != last.directory and not is_text(directory):
            directory = ""
        raw = getattr(os.environ, "_data", None)  # comparing decoded copies costs 50 µs
        if raw is None or raw != self._seen:
            self._different = self._difference()
            self._seen = dict(raw) if raw is not None else None
        store = blobs.here.directory
        if (
            last.directory != directory
            or last.variables is not self._different
            or last.store != store
        ):
            self._last = last = CallContext(directory, self._different, store=store)
        return last

    def _difference(self) -> tuple[tuple[str, str | None], ...]:
        here = dict(os.environ)
        before = self._started_with
        changed: list[tuple[str, str | None]] = [
            (name, value)
            for name, value in here.items()
            if before.get(name) != value
            and name not in self._wanted
            and name not in _NOT_SENT
            and is_text(name)
            and is_text(value)
        ]
        gone = [name for name in before if name not in here and name not in self._wanted]
        return tuple(sorted([*changed, *((name, None) for name in gone)]))


_NOT_SENT = frozenset(
    {
        "JPY_PARENT_PID",
        "JPY_SESSION_NAME",
        "NOTEBOOK_EXT_CONNECTION_FILE",
        "NOTEBOOK_EXT_SESSION",
    }
)
