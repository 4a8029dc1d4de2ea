"""`Source`: where workers get a function from: read here, arrived by key, or deployed by name.

Theory. A function that is defined here is read at each call: its code, closure and the globals that
it uses, as they are then; nothing is made anew where nothing has changed. One that arrived here by
key, as another one's global or as an argument, goes by its tree's table. One that is deployed is a
name, for which the broker puts the version that is in force.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import replace

from kernel_worker.context import running_input
from kernel_worker.model import CallContext, Digest, FunctionKey, FunctionSpec, is_deployed
from notebook_ext import blobs
from notebook_ext.config import current
from notebook_ext.package import (
    Surroundings,
    Version,
    arrived_package,
    deployed_package,
    packed,
    pool_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_worker.context import RunningInput
    from kernel_worker.model import ImageSpec
    from notebook_ext.app import App
    from notebook_ext.capture import Captured, Capturer
    from notebook_ext.options import Options
    from notebook_ext.submission import Package

NO_TABLE = Digest("")


class Source:
    """A function as its calls need it: its key, its options, and a package of what they take along.

    `Function` says how it is called.
    """

    is_cell = False
    """Whether its inputs are cells."""

    def __init__(
        self,
        key: FunctionKey,
        name: str,
        module: str,
        options: Options,
        *,
        raw: Callable[..., Any] | None = None,
        app: App | None = None,
        table: Digest = NO_TABLE,
    ) -> None:
        """Stand for `raw`, or for what is known here by `key` alone.

        `table` is where a function is found that came as an argument.
        """
        self._raw = raw
        self._app = app
        self._key = key
        self._name = name
        self._module = module
        self._options = options
        self._table = table
        self._lock = threading.RLock()  # a signal handler may call what is being read
        self._capturer: Capturer | None = None
        self._captured: Captured | None = None
        self._version: Version | None = None
        self._packed: tuple[tuple[Version, ...], Package] | None = None
        self._packed_as_argument: tuple[tuple[Version, ...], Package] | None = None
        self._surroundings: Surroundings | None = None
        self._image: ImageSpec | None = None

    @property
    def key(self) -> FunctionKey:
        """What a redefinition keeps."""
        return self._key

    @property
    def own_table(self) -> Digest:
        """Where it is found that came as an argument; empty for others."""
        return self._table

    @property
    def name(self) -> str:
        """The name that messages and displays use."""
        return self._name

    @property
    def has_code(self) -> bool:
        """Whether it is defined here, rather than known by key."""
        return self._app is not None

    def read(self) -> Version:
        """Return the function as it reads now: the same object as last time if nothing changed."""
        with self._lock:
            if self._capturer is None:
                from notebook_ext.capture import Capturer  # noqa: PLC0415  cloudpickle: 20 ms

                self._capturer = Capturer(cast("Any", self._raw))
            captured = self._capturer.read()
            image = self._options.image.spec() if self._options.image is not None else None
            if (
                captured is not self._captured
                or self._version is None
                or (image is not None and image is not self._image)
            ):
                self._image = image
                self._captured = captured
                self._version = self._made(captured)
            return self._version

    def as_argument(self) -> Package:
        """Return what calls of it need where it arrives as an argument; it has a table."""
        running = running_input()
        if not self.has_code:
            return arrived_package(self._key, running, self._table)
        self._packed_as_argument = packed(self, self._packed_as_argument, with_table=True)
        return self._packed_as_argument[1]

    def _package(self, running: RunningInput | None) -> Package:
        if not self.has_code:
            if is_deployed(self._key):
                return deployed_package(self._key, self._name)
            return arrived_package(self._key, running, self._table)
        self._packed = packed(self, self._packed)
        return self._packed[1]

    def _context(self) -> CallContext:
        surroundings = self._surroundings if self.has_code else None
        kept = current().keep_failed_seconds
        if surroundings is None:
            here = os.getcwd()  # noqa: PTH109  as in `Surroundings`
            return CallContext(here, keep_failed_seconds=kept, store=blobs.here.directory)
        context = surroundings.call_context()
        return replace(context, keep_failed_seconds=kept) if kept else context

    def _made(self, captured: Captured) -> Version:
        """Return the version that goes with what was captured."""
        around = self._surroundings
        encoded = captured.objects[captured.environment]
        options = self._options
        if around is None or (around.source, around.image) != (captured.environment, self._image):
            directory = options.image.directory if options.image is not None else ""
            around = Surroundings(
                captured.environment, encoded, options.variables, self._image, directory
            )
            self._surroundings = around
        spec = FunctionSpec(
            pool=pool_id(
                self._key,
                captured.version,
                around.digest,
                captured.imports,
                options.changes_pool(),
            ),
            key=self._key,
            name=self._name,
            module=self._module,
            version=captured.version,
            code=captured.code,
            environment=around.digest,
            imports=captured.imports,
            resources=options.resources,
            settings=options.settings,
            retries=options.retries,
            timeout_seconds=options.timeout_seconds,
            startup_timeout_seconds=options.startup_timeout_seconds or options.timeout_seconds,
            rerun_on_crash=options.rerun_on_crash,
            single_use=options.single_use,
            nested_loops=options.nested_loops,
            max_inputs=options.max_inputs,
            target_inputs=options.target_inputs,
            max_batch_size=options.max_batch_size,
            batch_wait_seconds=options.batch_wait_seconds,
            is_cell=self.is_cell,
        )
        objects = {**captured.objects, **captured.stored, around.digest: around.encoded}
        needed = tuple(captured.stored)
        return Version(spec, captured.snapshot, objects, captured.references, needed)
