"""A call as it is handed to the conversation, and the shape of what comes back.

Values and one protocol: nothing here does anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kernel_worker.model import (
    CallContext,
    CallId,
    Digest,
    FunctionKey,
    FunctionSpec,
    Outcome,
    ParentInput,
    PoolId,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.messages import CallProgress


_NOTHING = Digest("")
_NO_FUNCTION = FunctionSpec(PoolId(""), FunctionKey(""), "", "", _NOTHING, _NOTHING, _NOTHING)


class Receiver(Protocol):
    """Where the answers to one call go."""

    def accepted(self) -> None:
        """The spawned call is durable."""

    def rejected(self, error: str, message: str) -> None:
        """The call cannot be; `error` is a class name of the error tree. Nothing else follows."""

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        """`[start, start + count)` succeeded; the values begin at `position` of the batch."""

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        """The generator gave its items `[start, start + count)`: a batch."""

    def ended(self, end: Ended) -> None:
        """Inputs ended otherwise."""

    def progressed(self, progress: CallProgress) -> None:
        """How the call stands."""

    def offered(self, act: Callable[[bool], object]) -> bool:
        """Have whoever waits for the call call `act`; false where nobody does, in a thread."""

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        """An input wrote this, or so many lines that nobody passes on."""


class Ended(msgspec.Struct, frozen=True):
    """How `[index, index + count)` ended, where it is no success."""

    index: int
    count: int
    outcome: Outcome
    attempt: int
    message: str
    exception: bytes | None
    """What the function raised, for `wire.failures`."""
    inputs: Sequence[Frame] = ()
    """The batch that holds the input (for people: what were its arguments), if it is at hand …"""
    position: int = 0
    """… and where in it."""
    said: Submission | None = None
    """The call, where it was made by this process and is at hand: for replays."""


class Package(msgspec.Struct, frozen=True):
    """A function as a call needs it: its version, and what lies behind its captured names."""

    spec: FunctionSpec
    snapshot: Digest = Digest("")
    table: Digest = Digest("")
    nested: tuple[FunctionSpec, ...] = ()
    """The functions that it refers to, directly or not, and whose code is here."""
    pools: tuple[PoolId, ...] = ()
    """All pools of the table."""
    requires: tuple[Digest, ...] = ()
    """All objects that the table's functions need."""
    objects: Mapping[Digest, bytes] = msgspec.field(default_factory=dict)
    inherited: bool = False
    """The broker has it from the call in which this one is nested."""
    derived: bool = False
    """It is an instance of a class that was defined elsewhere: its settings may have changed."""
    is_object: bool = False
    """It is no function: an object that was put."""

    @classmethod
    def of_object(cls, digest: Digest, content: bytes) -> Package:
        """Return what a call takes along of an object that was put."""
        return cls(_NO_FUNCTION, requires=(digest,), objects={digest: content}, is_object=True)


class Submission(msgspec.Struct, eq=False):
    """A call as the user made it."""

    call: CallId
    package: Package
    receiver: Receiver
    attached: bool = True
    shared: Digest = Digest("")
    context: CallContext = CallContext()
    parent: ParentInput | None = None
    objects: Mapping[Digest, bytes] = msgspec.field(default_factory=dict)
    """Objects of this call alone (its shared arguments)."""
    streams: bool = False
    """Its one input runs a generator."""
    parts: tuple[int, ...] = ()
    """Not empty: its inputs are several batches, of so many each."""
    line: str = ""
    """Where its worker may dial; `line_receiver` hears of what comes after its one input.

    Or, where it streams, for the items: nobody else hears of it."""
    line_receiver: Any = None
    deaths: int = 0
    """How many workers have died under its one input."""
    raw: Callable[..., Any] | None = None
    """What runs the function here, where that can be: for replays …"""
    snapshot_now: Callable[[], Digest] | None = None
    """… and what reads what it captures as that is now."""
    span: Any = None
    """A `spans.CallSpan`, where the call is traced."""
    companions: dict[FunctionKey, Package] = msgspec.field(default_factory=dict)
    """Functions that are among the arguments; those of a map's inputs are added as it goes."""

    @property
    def needs(self) -> set[Digest]:
        """All objects that the call needs for as long as it is open."""
        needed = {*self.objects, *self.package.objects}
        for companion in list(self.companions.values()):  # a map's thread may add to them
            needed.update(companion.objects)
        return needed
