"""The host agent's side of the templates: which there are, who waits for one, which may go.

    base             one per interpreter, or image, and start-up variables
      imports        one per environment and set of installed modules (absent where there are none)
        function     one per code version

Theory. A template is asked for and *settles* once: ready, unsafe (loaded, but must not be forked:
workers then load the function themselves) or failed. Requests to a template that is not there yet
wait for its parent to settle. What failed is forgotten, so that the next request tries anew; what
died is *lost*: whoever asked it, or waited for one below it, hears of that and asks for another.

Guarantees: a template goes only when nothing that was forked from it lives. A retired one is kept
for a while, so that going back to an earlier version of a cell is quick.
"""

from __future__ import annotations

import enum
import gc
import importlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import kernel_worker
from kernel_worker.errors import InvalidError
from kernel_worker.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from kernel_worker.host.images import Here, Images
    from kernel_worker.model import Digest, Environment, FunctionSpec, PoolId

K = TypeVar("K")

_PROGRAM = "kernel_worker.worker.template"
"""By name: the rooms host and worker do not import each other."""
KEPT_RETIRED = 4
KEPT_IMPORTS = 4
KEPT_BASES = 6
_STARTUP_PREFIXES = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_")
_PATH_VARIABLE = "PYTHONPATH"
_HOME = str(Path(kernel_worker.__file__).parent.parent)
_FOR_A_START = frozenset({"PATH", "HOME", "TMPDIR", _PATH_VARIABLE})
_STARTUP_NAMES = frozenset({"LANG", "LANGUAGE"})


class State(enum.Enum):
    """How far a template is."""

    STARTING = enum.auto()
    READY = enum.auto()
    UNSAFE = enum.auto()
    FAILED = enum.auto()
    LOST = enum.auto()
    """It died, or its parent did before it forked it: another one may be had."""


class Failed(NamedTuple):
    """Why a template could not be had."""

    message: str
    exception: bytes
    """As `wire.failures` captured it; empty where there was none."""
    lack: str = ""
    """What this host has in the place of what a function needs; empty where it is not that."""

    @classmethod
    def by(cls, error: BaseException) -> Failed:
        """Return what says that it was this."""
        from kernel_worker.wire import failures  # noqa: PLC0415  only where something fails

        return cls(str(error), failures.capture(error))


class Template:
    """One template process, or the plan for it."""

    def __init__(self, name: str, parent: Template | None) -> None:
        """Plan one below `parent`; `name` is for people."""
        self.name = name
        self.parent = parent
        self.state = State.STARTING
        self.reason = ""
        """Why it is unsafe."""
        self.failed: Failed | None = None
        self.pid = 0
        self.end, self.far_end = local.socket_pair()
        self.users = 0
        """How many live templates and workers were forked from it, or wait to be."""
        self.pools: set[PoolId] = set()
        self._waiting: list[Callable[[Template], None]] = []

    @property
    def is_settled(self) -> bool:
        """Whether it is not to come any more: it is there, or will not be."""
        return self.state is not State.STARTING

    @property
    def is_of_use(self) -> bool:
        """Whether it is worth asking, or waiting for."""
        return self.state not in {State.FAILED, State.LOST}

    def when_settled(self, callback: Callable[[Template], None]) -> None:
        """Call `callback` once, when it has settled; at once if it has."""
        if self.is_settled:
            callback(self)
        else:
            self._waiting.append(callback)

    def settle(self, state: State) -> None:
        """Say how it ended up, to all who wait."""
        self.state = state
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback(self)


class _Request(NamedTuple):
    """A fork that a template was asked for."""

    template: Template
    then: Callable[[int], None]
    lost: Callable[[], None]


class Templates:
    """All templates of this host."""

    def __init__(
        self,
        alive: int,
        watch: Callable[[Template], None],
        unwatch: Callable[[Template], None],
        allow: Callable[[Template, float], None],
        images: Images,
    ) -> None:
        """Start with none.

        Args:
            images: where those start whose environment names one.
            alive: the read end of the lifeline.
            watch: called with each template whose socket is to be polled.
            unwatch: called when it is not any more.
            allow: called with a template that begins to load, and how many seconds it may take.
        """
        self._alive = alive
        self._watch = watch
        self._unwatch = unwatch
        self._allow = allow
        self._images = images
        self._bases: dict[tuple[str, str, tuple[tuple[str, str], ...]], Template] = {}
        self._imports: dict[tuple[str, tuple[str, ...]], Template] = {}
        self._functions: dict[tuple[object, ...], Template] = {}
        self._requests: dict[int, _Request] = {}
        self._next_request = 0

    # ---- asking -----------------------------------------------------------------------------

    def adopt_base(self, template: Template, python: str, variables: dict[str, str]) -> None:
        """Take over a base template that was forked from the agent itself."""
        self._bases[python, "", _startup(variables)] = template
        self._watch(template)

    def base(self, environment: bytes) -> Template:
        """Return the base template for an environment."""
        here = self._images.resolve(environment)
        python, variables = here.environment.python, here.environment.variables
        key = (python, here.image.files if here.image is not None else "", _startup(variables))
        template = self._bases.pop(key, None)
        if template is None or not template.is_of_use:
            template = Template("base", None)
            self._watch(template)
            if here.image is None:
                self._spawn(template, here.environment)
            else:
                then = partial(self._spawn_in_image, template, here)
                self._images.prepare(here.image, then)
        self._bases[key] = template  # the last one is the youngest
        return template

    def function(
        self, spec: FunctionSpec, objects: Mapping[Digest, bytes], *, seals: bool = False
    ) -> Template:
        """Return the template of a function; it may not have settled.

        Args:
            spec: the function; a template is shared by all instances of a class, unless it makes
                one itself (`spec.snaps`).
            objects: holds `spec.objects`.
            seals: some of these came sealed.
        """
        instance = (spec.parameters, spec.version) if spec.snaps else ()
        key = (spec.environment, spec.imports, spec.code, *instance)
        template = self._functions.pop(key, None)
        if template is None or not template.is_of_use:
            parent = self._parent(spec, objects[spec.environment])
            snaps = spec.snaps
            load = local.Load((), not spec.imports, True, snaps, makes_instance=snaps, seals=seals)
            files = self.contents_of(load, spec, objects)
            template = self._make(spec.name, parent, load, files, spec.startup_timeout_seconds)
        self._functions[key] = template  # the last one is the youngest
        template.pools.add(spec.pool)
        return template

    def fork(
        self,
        template: Template,
        message: Callable[[int], local.ToTemplate],
        files: list[int],
        then: Callable[[int], None],
        lost: Callable[[], None],
    ) -> None:
        """Ask a template that is ready to fork.

        Args:
            template: which one.
            message: makes the request of its number.
            files: go with it.
            then: gets the pid of the child.
            lost: called instead if the template dies before it has answered.

        Raises:
            ConnectionError: the template is dead; it is lost from now on.
            OSError: the request cannot be sent.
        """
        self._next_request += 1
        try:
            local.send(template.end, message(self._next_request), *files)
        except ConnectionError:
            self._lose(template)
            raise
        self._requests[self._next_request] = _Request(template, then, lost)

    def forked(self, message: local.Forked) -> None:
        """A template has forked."""
        self._requests.pop(message.request).then(message.pid)

    # ---- going ------------------------------------------------------------------------------

    def retire(self, pool: PoolId) -> None:
        """No worker of `pool` will be asked for soon."""
        for template in self._functions.values():
            template.pools.discard(pool)
        self.trim()

    def trim(self) -> None:
        """Drop the oldest of those that nobody needs."""
        unused = [k for k, t in self._functions.items() if not t.pools and not t.users]
        for key in unused[: len(unused) - KEPT_RETIRED if len(unused) > KEPT_RETIRED else 0]:
            self.drop(self._functions.pop(key))
        idle = [k for k, t in self._imports.items() if not t.users]
        for imports in idle[: len(idle) - KEPT_IMPORTS if len(idle) > KEPT_IMPORTS else 0]:
            self.drop(self._imports.pop(imports))
        bases = [k for k, t in self._bases.items() if not t.users and t.state is State.READY]
        for base in bases[: len(bases) - KEPT_BASES if len(bases) > KEPT_BASES else 0]:
            self.drop(self._bases.pop(base))

    def drop(self, template: Template) -> None:
        """Hang up on a template: it exits."""
        self._unwatch(template)
        template.end.close()

    def gone(self, template: Template, failed: Failed, *, by_chance: bool = False) -> None:
        """A template's process has ended and everything that it said was heard.

        Whoever waits for it to load hears why it did not; whoever asked it to fork, of its loss,
        and so does the former where it was killed `by_chance`: another one may well load.
        """
        self._leave(template)
        if template.state is State.UNSAFE:
            return  # its process was let go; what is known of it is kept
        if template.end.fileno() >= 0:
            self.drop(template)
        if template.is_settled:
            self._lose(template)
        else:
            template.failed = failed
            self._lose(template, State.LOST if by_chance else State.FAILED)
        self._end_requests(template)

    def _end_requests(self, template: Template) -> None:
        for number in [n for n, asked in self._requests.items() if asked.template is template]:
            self._requests.pop(number).lost()

    def _lose(self, template: Template, state: State = State.LOST) -> None:
        """Ask this one no more: it is dead, or will never live."""
        self._forget(template)
        if template.state is not State.FAILED:
            template.settle(state)

    def _forget(self, template: Template) -> None:
        _remove(self._bases, template)
        _remove(self._imports, template)
        _remove(self._functions, template)

    @staticmethod
    def _leave(template: Template) -> None:
        """A template needs its parent no longer."""
        if template.parent is not None:
            template.parent.users -= 1
            template.parent = None

    # ---- making -----------------------------------------------------------------------------

    def contents_of(
        self, load: local.Load, spec: FunctionSpec, objects: Mapping[Digest, bytes]
    ) -> list[bytes]:
        """Return what `load` says that it comes with, in its order."""
        digests: list[Digest] = []
        contents: list[bytes] = []
        if load.has_environment:
            contents.append(self._images.resolve(objects[spec.environment]).encoded)
        if load.has_code:
            digests.append(spec.code)
        if load.has_instance:
            digests += [spec.parameters, spec.initial]
        return contents + [objects[digest] for digest in digests]

    def _parent(self, spec: FunctionSpec, environment: bytes) -> Template:
        base = self.base(environment)
        if not spec.imports:
            return base
        key = (spec.environment, spec.imports)
        template = self._imports.pop(key, None)
        if template is None or not template.is_of_use:
            load = local.Load(spec.imports, has_environment=True)
            name = "imports of " + spec.name
            seconds = spec.startup_timeout_seconds
            contents = [self._images.resolve(environment).encoded]
            template = self._make(name, base, load, contents, seconds)
        self._imports[key] = template
        return template

    def _make(
        self, name: str, parent: Template, load: local.Load, contents: list[bytes], seconds: float
    ) -> Template:
        template = Template(name, parent)
        parent.users += 1
        self._watch(template)

        def begin(parent: Template) -> None:
            if parent.state is not State.READY:
                template.reason, template.failed = parent.reason, parent.failed
                template.far_end.close()
                self.drop(template)
                self._leave(template)
                template.settle(parent.state)
                return
            self._begin(template, parent, load, contents, seconds)

        parent.when_settled(begin)
        return template

    def _begin(
        self,
        template: Template,
        parent: Template,
        load: local.Load,
        contents: list[bytes],
        seconds: float,
    ) -> None:
        def know(pid: int) -> None:
            template.pid = pid
            self._allow(template, seconds)

        def lost() -> None:
            self._leave(template)
            self.drop(template)
            self._lose(template)
            self._end_requests(template)

        files = [local.anonymous_file(content, "object") for content in contents]
        try:
            local.send(template.end, load, *files)  # it lies there until somebody reads it
            self.fork(parent, local.ForkTemplate, [template.far_end.fileno()], know, lost)
        except ConnectionError:
            lost()
        except OSError as error:
            template.failed = Failed(f"{parent.name} cannot be asked to fork: {error}", b"")
            template.settle(State.FAILED)
        finally:
            template.far_end.close()
            local.close_all(files)

    def _spawn_in_image(self, template: Template, here: Here, why: str) -> None:
        """Start the interpreter of an image, now that it is there; or say `why` it is not."""
        assert here.image is not None  # noqa: S101  as the caller knows
        if why:
            from kernel_worker.wire import failures  # noqa: PLC0415  only where something fails

            template.failed = Failed(why, failures.capture(InvalidError(why)))
            template.far_end.close()
            self.drop(template)
            self._forget(template)
            template.settle(State.FAILED)
            return
        self._spawn(template, here.environment, here.image.prelude())

    def _spawn(self, template: Template, environment: Environment, prelude: str = "") -> None:
        """Start a fresh interpreter; our package comes last on its path, where it has its own."""
        file = template.far_end.fileno()
        code = (
            f"{prelude or f'import sys; sys.path.append({_HOME!r})'}\n"
            f"from {_PROGRAM} import start; start({file}, {self._alive})"
        )
        try:
            process = subprocess.Popen(
                [environment.python, "-c", code],
                stdin=subprocess.DEVNULL,
                env=_shown(environment.variables),
                cwd="/",
                pass_fds=(file, self._alive),
            )
        except OSError as error:
            template.failed = Failed(f"{environment.python} cannot be started: {error}", b"")
            template.settle(State.FAILED)
            return
        finally:
            template.far_end.close()
        template.pid = process.pid
        process.returncode = 0  # the agent reaps its children itself
        self._allow(template, _BASE_SECONDS)


_BASE_SECONDS = 60.0


def load() -> ModuleType:
    """Load the program of templates, and what it needs, into this process."""
    return importlib.import_module(_PROGRAM)


def fork_base(alive: int, alive_write: int) -> Template:
    """Fork the base template from this process, which must not have threads yet.

    It is that of this interpreter and these variables, and it is there in some milliseconds.
    """
    program = load()
    template = Template("base", None)
    gc.collect()
    gc.freeze()  # what the collector does not touch stays shared
    pid = os.fork()
    if not pid:
        os.setsid()
        os.close(alive_write)
        template.end.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        program.be_base(template.far_end, alive)
    template.far_end.close()
    template.pid = pid
    return template


def _remove(group: dict[K, Template], template: Template) -> None:
    for key in [key for key, found in group.items() if found is template]:
        del group[key]


def _shown(variables: dict[str, str]) -> dict[str, str]:
    """Return what an interpreter starts with, and `ps` shows; a template sets the rest inside."""
    counting = {name for name, _ in _startup(variables)} | _FOR_A_START
    return {
        name: value
        for name, value in variables.items()
        if name in counting or name.startswith("NOTEBOOK_EXT_")
    }


def _startup(variables: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return those variables that count when an interpreter starts; the others are set later."""
    counting = {
        name: value
        for name, value in variables.items()
        if name in _STARTUP_NAMES or name.startswith(_STARTUP_PREFIXES)
    }
    # Where we lie may stand on the agent's path and not on the caller's: no difference to anybody.
    places = counting.pop(_PATH_VARIABLE, "").split(os.pathsep)
    if foreign := [place for place in places if place not in {"", _HOME}]:
        counting[_PATH_VARIABLE] = os.pathsep.join(foreign)
    return tuple(sorted(counting.items()))
