"""The nouns that every room shares: ids, what a function asks for, and how inputs end.

A leaf: it imports nothing of ours, does nothing and can travel on the wire (`msgspec`).
"""

from __future__ import annotations

import enum
from typing import Any, Literal, NewType

import msgspec

try:
    from _blake2 import blake2b  # `hashlib` loads OpenSSL: a megabyte in each of our processes
except ImportError:  # an interpreter that is built otherwise
    from hashlib import blake2b

PROTOCOL_MAJOR = 1
"""Peers of different majors do not talk; each major has brokers of its own (`rendezvous`)."""

ClientId = NewType("ClientId", str)
"""One connection of a process that makes calls: `cl-…`."""
HostId = NewType("HostId", str)
"""One host agent: `ho-…`."""
WorkerId = NewType("WorkerId", str)
"""One process that runs attempts: `ta-…`."""
CallId = NewType("CallId", str)
"""One `FunctionCall`: `fc-…`, made by the client."""
InputId = NewType("InputId", str)
"""One input of a call: `in-<the call's id without fc->-<index>`."""
PoolId = NewType("PoolId", str)
"""The workers of one function version with one set of options: `po-…`."""
FunctionKey = NewType("FunctionKey", str)
"""What a redefinition keeps: `<scope>/<app>/<name>`; scope is the client's, or `deployed`."""
Digest = NewType("Digest", str)
"""The content address (BLAKE2b, 32 hex digits) of an object that travels once; `""` is "none"."""
LeaseId = NewType("LeaseId", int)
"""A worker's right to a range of inputs; another broker of the same machine gives other ones."""


def digest_of(*parts: bytes | memoryview) -> Digest:
    """Return the content address of `parts`, each length-prefixed so that boundaries count."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return Digest(digest.hexdigest())


def short_digest(content: bytes, size_bytes: int) -> bytes:
    """Return a BLAKE2b hash of `content` in so many bytes."""
    return blake2b(content, digest_size=size_bytes).digest()


def keyed_digest(key: bytes, content: bytes, size_bytes: int) -> bytes:
    """Return a BLAKE2b hash of `content` under a key of up to 64 bytes."""
    return blake2b(content, digest_size=size_bytes, key=key, person=b"nbx payload").digest()


NO_CALL = CallId("-")
"""Stands for what is no call where somebody says what he waits for: an item of a queue."""

SEALED_CALL = "fc-s"
"""Begins the ids of calls whose payloads are sealed: everybody knows of each what is due."""


def is_sealed(call: str) -> bool:
    """Say whether the payloads of a call are sealed between its client and its workers."""
    return call.startswith(SEALED_CALL)


def is_text(found: str) -> bool:
    """Say whether what the system gave is text, rather than bytes in no known encoding."""
    try:
        found.encode()
    except UnicodeEncodeError:
        return False
    return True


def input_id(call: CallId, index: int) -> InputId:
    """Return the id of the input at `index` (from 0) of `call`."""
    return InputId(f"in-{call.removeprefix('fc-')}-{index}")


def app_of(key: FunctionKey) -> str:
    """Return the name of the app in which a function is defined; `-` for one without a name."""
    parts = key.split("/", 2)
    return parts[1] if len(parts) > 1 else "-"


_DEPLOYED = "deployed/"


def deployed_key(app: str, name: str) -> FunctionKey:
    """Return the key of what is deployed as `name` of `app`: the same for everybody."""
    return FunctionKey(f"{_DEPLOYED}{app}/{name}")


def is_deployed(key: str) -> bool:
    """Say whether a key names what is deployed, rather than what one process defines."""
    return key.startswith(_DEPLOYED)


def instance_name(name: str, parameters: Digest) -> str:
    """Return the name of the instance with these parameters, of the deployed class `name`."""
    return f"{name}({parameters})"


def instance_parts(name: str) -> tuple[str, Digest]:
    """Return what `instance_name` was given; for any other name, itself and no parameters."""
    kind, _, rest = name.rpartition("(")
    return (kind, Digest(rest[:-1])) if kind and rest[-1:] == ")" else (name, Digest(""))


class Outcome(enum.IntEnum):
    """How an input ended, or (LOST) how an attempt did."""

    SUCCEEDED = 0
    FAILED = 1
    """The function raised."""
    CANCELLED = 2
    TIMED_OUT = 3
    LOST = 4
    """The worker died under it (too often, where an input ended so)."""
    INIT_FAILED = 5
    """The function could not be imported or set up in a worker."""


class NoValue(enum.Enum):
    """What an input that succeeded has instead of a value."""

    ITEMS_GIVEN = 0
    """It ran a generator, whose items were given before."""


class Resources(msgspec.Struct, frozen=True, array_like=True):
    """What one worker reserves on its host."""

    cpu: float = 1.0
    memory_mib: int = 0
    gpu: float = 0.0
    """Whole devices, or a fraction of one that workers share."""
    gpu_kind: str = ""
    """A device name such as `H200`; empty for any."""
    memory_limit_mib: int = 0
    """A worker that uses more is stopped; 0: there is no limit."""


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True):
    """How often and how late a failed input is tried again."""

    max_retries: int = 0
    backoff_coefficient: float = 2.0
    initial_delay_seconds: float = 1.0
    max_delay_seconds: float = 60.0

    def delay_seconds(self, retry: int) -> float:
        """Return how long the `retry`-th retry (from 1) waits after the failure."""
        delay = self.initial_delay_seconds * self.backoff_coefficient ** (retry - 1)
        return min(delay, self.max_delay_seconds)


class PoolSettings(msgspec.Struct, frozen=True, array_like=True):
    """What a running pool can be told to change."""

    min_containers: int = 0
    max_containers: int | None = None
    buffer_containers: int = 0
    scaledown_window_seconds: float = 60.0


class FunctionSpec(msgspec.Struct, frozen=True, array_like=True):
    """One function version with one set of options: what a pool is made from."""

    pool: PoolId
    key: FunctionKey
    name: str
    """The qualified name, for people."""
    module: str
    version: Digest
    """The code version: code, local modules and whatever changes what a template holds."""
    code: Digest
    """The object that holds the code (see `kernel_worker.worker.binding`)."""
    environment: Digest
    """The object that holds an `Environment`, msgpack-encoded."""
    imports: tuple[str, ...] = ()
    """Installed modules that the function needs, sorted: equal imports share a parent template."""
    resources: Resources = Resources()
    settings: PoolSettings = PoolSettings()
    retries: RetryPolicy = RetryPolicy()
    timeout_seconds: float = 300.0
    startup_timeout_seconds: float = 300.0
    rerun_on_crash: bool = True
    single_use: bool = False
    nested_loops: bool = False
    parameters: Digest = Digest("")
    """The object that holds an instance's `Parameters`; where there are none, it is a function."""
    initial: Digest = Digest("")
    """The snapshot that is bound before an instance is made; set for classes alone."""
    snaps: bool = False
    """The instance has `enter(snap=True)` hooks: its template makes it."""
    cleans_up: bool = False
    """The instance has `exit` hooks."""
    max_inputs: int = 1
    """How many inputs a worker runs at once."""
    target_inputs: int = 0
    """How many of them the number of workers is reckoned by; 0: as many as `max_inputs`."""
    max_batch_size: int = 0
    """The function takes lists of up to so many inputs at once; 0: it takes inputs one by one."""
    batch_wait_seconds: float = 0.0
    """How long a group that is not full waits for more, from its first input on."""
    is_cell: bool = False
    """Its inputs are cells, which nobody counts, and to people it goes by its name alone."""

    @property
    def is_abstract(self) -> bool:
        """Whether it is a class, of which only instances have pools."""
        return bool(self.initial) and not self.parameters

    @property
    def objects(self) -> tuple[Digest, ...]:
        """The objects that a host needs to start a worker."""
        return tuple(filter(None, (self.code, self.environment, self.parameters, self.initial)))


class Schedule(msgspec.Struct, frozen=True, array_like=True):
    """When a deployed function is called by itself: by a cron expression, or again and again."""

    cron: str = ""
    """Five fields …"""
    timezone: str = "UTC"
    """… that mean the clocks of this place (a name of the IANA)."""
    period_seconds: float = 0.0
    """Where there is no cron expression: how often, counted from the moment of deploying."""
    directory: str = ""
    """Where the calls run: the working directory of who deployed it."""

    def __str__(self) -> str:
        if not self.cron:
            return f"every {self.period_seconds:g} s"
        return f"{self.cron} ({self.timezone})"


class DeployedFunction(msgspec.Struct, frozen=True, array_like=True):
    """A function as it was deployed: what a call of its name needs."""

    name: str
    """Without its app's."""
    spec: FunctionSpec
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    """Resolves the functions that it refers to; empty where it refers to none."""
    nested: tuple[FunctionSpec, ...] = ()
    """These functions."""
    requires: tuple[Digest, ...] = ()
    """All objects that it and these need."""
    is_generator: bool = False
    shape: bytes = b""
    """What a class looks like to those who use it, in the words of clients; empty for functions."""
    schedule: Schedule | None = None
    """When it is called by itself."""

    @property
    def is_instance(self) -> bool:
        """Whether it is one instance of a class, rather than what has a name of its own."""
        return bool(self.spec.parameters)

    def instance(self, parameters: Digest) -> DeployedFunction:
        """Return the instance of this class that these parameters make."""
        name = instance_name(self.name, parameters)
        key = FunctionKey(instance_name(self.spec.key, parameters))
        pool = PoolId(f"po-{digest_of(self.spec.pool.encode(), key.encode())[:20]}")
        spec = msgspec.structs.replace(self.spec, pool=pool, key=key, parameters=parameters)
        requires = (*self.requires, parameters)
        return msgspec.structs.replace(self, name=name, spec=spec, requires=requires, shape=b"")


class ImageStep(msgspec.Struct, frozen=True, array_like=True):
    """Something that is done once, when an image is built."""

    kind: Literal["pip", "uv", "function"]
    """Install, by uv where it is found (`uv`: by nothing else); or run a function."""
    title: str
    """As the user wrote it, for people; secrets are not in it."""
    arguments: tuple[str, ...] = ()
    """Requirements, and options of the installer."""
    requirements: str = ""
    """The text of a requirements file."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables while this is done."""
    stamp: str = ""
    """Changes with the content of what is installed from a path, and with a function's code."""
    content: bytes = b""
    """A function, as `worker.building` reads it; its identity is in `stamp`."""

    def __repr__(self) -> str:
        return f"ImageStep({self.kind!r}, {self.title!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no variables either: they may hold secrets."""
        return [("kind", self.kind), ("title", self.title)]


class ImageFile(msgspec.Struct, frozen=True, array_like=True):
    """A file that lies beside an image."""

    path: str
    """Relative to where the image's files lie."""
    content: bytes
    mode: int


class ImageSpec(msgspec.Struct, frozen=True, array_like=True):
    """What an image is made from; a host names it by a digest of this."""

    steps: tuple[ImageStep, ...] = ()
    files: tuple[ImageFile, ...] = ()
    constraints: tuple[str, ...] = ()
    """What our workers need, in versions that fit: the image has these, or borrows them."""

    @property
    def title(self) -> str:
        """What is in it, for people."""
        return ", ".join(step.title for step in self.steps) or "nothing installed"


class Environment(msgspec.Struct, frozen=True, array_like=True):
    """Where a template starts: the interpreter, module path and variables of the caller."""

    python: str
    path: tuple[str, ...]
    variables: dict[str, str]
    stamp: str
    """Changes when the installed packages do, so that new templates start after an install."""
    options: tuple[str, ...] = ()
    """Names of the variables that the function's options set; the others are the caller's."""
    image: ImageSpec | None = None
    """Workers run in an environment of their own, which is made as this says; `python` is the
    interpreter that it is made with, and `path` is where what our workers need is borrowed."""
    host: str = ""
    """The machine that it is on, where that need not be the caller's: packages are compared."""

    def __repr__(self) -> str:
        return f"Environment({self.python!r}, {len(self.variables)} variables, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no values either: they may be secrets, and of a struct rich shows every field."""
        return [("python", self.python)]


ELSEWHERE = Environment("", (), {}, "")
"""That of a caller on another machine: the host's own takes its place."""


class CallContext(msgspec.Struct, frozen=True, array_like=True):
    """What a call carries of its caller's surroundings as they are at the call."""

    directory: str = ""
    variables: tuple[tuple[str, str | None], ...] = ()
    """Environment variables that differ from the `Environment`'s; None is "not set"."""
    method: str = ""
    """Which method of an instance is called; empty for functions."""
    keep_failed_seconds: float = 0.0
    """How long a worker keeps the frames of an input that failed for good; 0: it does not."""
    traceparent: str = ""
    """The caller's span (W3C), where it makes spans: what runs of the call belongs below it."""
    store: str = ""
    """The directory where large buffers of an attached call lie, and of its results, on the machine
    of its client; empty: nowhere."""

    def __repr__(self) -> str:
        return f"CallContext({self.directory!r}, {len(self.variables)} variables, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no values either."""
        return [("directory", self.directory)]


class StreamLimits(msgspec.Struct, frozen=True, array_like=True):
    """How far a generator may run ahead of whoever takes its items."""

    items: int
    """Made, and not taken yet."""
    item_bytes: int
    """The same in bytes of their frames; one item may go beyond it."""
    total_bytes: int = 0
    """A generator that gives more than this fails; 0: it may give any number."""
    line: str = ""
    """Where its reader listens, on the same machine, for the items behind the first batch."""


def had_given(items: int) -> str:
    """Return how people are told how far a generator had come.

    The broker says so of what it has heard of; who reads a line knows what came by that, and puts
    the whole number in its place.
    """
    return "had given 1 item" if items == 1 else f"had given {items} items"


class ParentInput(msgspec.Struct, frozen=True, array_like=True):
    """The attempt inside which a nested call was made."""

    call: CallId
    index: int
    attempt: int
    worker: WorkerId
    lease: LeaseId


class Device(msgspec.Struct, frozen=True, array_like=True):
    """One accelerator of a host."""

    index: int
    kind: str
    memory_mib: int = 0


class HostResources(msgspec.Struct, frozen=True, array_like=True):
    """What a host agent has to give (from affinity and cgroup limits)."""

    cpu: float
    memory_mib: int
    devices: tuple[Device, ...] = ()


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The lease that a worker runs, or ran last."""

    lease: LeaseId
    call: CallId
    start: int
    stop: int
    """The end of what it runs of it; 0: nobody but the broker that gave it can go on with it."""
    attempt: int
    index: int
    """The input after the last that it has taken up."""
    runs: bool
    """Whether it is not through with it."""


class Survivor(msgspec.Struct, frozen=True, array_like=True):
    """A worker that lives on after its broker."""

    worker: WorkerId
    spec: FunctionSpec
    devices: tuple[int, ...]
    pid: int
    """0: its process is about to exist."""
    start: str
    number: int
    """How many brokers it knew are gone: its `Hello` says so, on a connection that counts."""
    held: Held | None = None
    """None: it has had no lease yet."""
