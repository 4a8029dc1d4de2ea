"""Persist before you tell: what holds effects back until the facts that they rely on are on disk.

Theory: only spawned calls have facts. Once a call has one under way, every further effect about it
waits behind that fact, in order; effects about other calls, the attached ones among them, pass.
So do leases, where the facts under way are values alone: those that a broker loses with them are
made again, whatever else runs. Workers would have nothing to do while the disk turns. Only so many
bytes of values may be under way for that, and none where the disk has no room.
An interrupt waits behind its lease, and so does a take-back for the sake of others. One that ends
the lease does not: of a lease that waits here no worker has heard, so the lease is withdrawn. (Were
it to wait, the worker would get the lease first and begin it, as the interrupt of its other lease,
which does not wait here, has made room.)
Where the disk has no room, leases that wait here would keep workers and CPUs from the attached
calls: they are taken back out, and granted anew in their turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel_worker.core import effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.model import CallId, LeaseId

Frame = bytes | memoryview
_MOST_VALUES_BYTES = 4 << 20
_MOST_VALUES = 256
"""Facts that are values, of which no lease waits."""

AboutCall = (
    effects.GrantLease
    | effects.AcceptCall
    | effects.ConfirmCancel
    | effects.RejectCall
    | effects.ReportRange
    | effects.ReportItems
    | effects.ReportEnd
    | effects.EndLine
    | effects.DropInputs
    | effects.FinishCall
)
"""Effects that name a call."""
AboutLease = effects.TakeBack | effects.Interrupt
"""Effects that name a lease, which another effect has granted."""


@dataclass(frozen=True, slots=True)
class Held:
    """An effect with the payload of its event, which waits for the token to be committed."""

    token: int
    effect: effects.Effect
    frames: Sequence[Frame]


@dataclass(slots=True)
class _Waiting:
    """A call with facts under way."""

    token: int
    needed: int = 0
    """The last fact under way that leases wait for too."""
    held: deque[Held] = field(default_factory=deque)


class Gate:
    """The effects that wait for the journal, per call."""

    def __init__(self) -> None:
        self.waiting: dict[CallId, _Waiting] = {}
        """Calls with facts under way; where there are none, no effect has to wait."""
        self._leases: dict[LeaseId, CallId] = {}
        self._values: deque[tuple[int, int]] = deque()
        """Token and bytes of each fact under way that is values."""
        self._values_bytes = 0
        self._committed = 0
        self._is_full = False

    def expect(self, call: CallId, token: int, values_bytes: int | None = None) -> None:
        """Hold back what follows about `call` until `token` is committed.

        Args:
            call: whose fact it is.
            token: of the transaction that it is a part of.
            values_bytes: the fact is so many bytes of values, and leases need not wait for it.
        """
        waiting = self.waiting.get(call)
        if waiting is None:
            waiting = self.waiting[call] = _Waiting(token)
        waiting.token = token
        if values_bytes is None:
            waiting.needed = token
        else:
            self._values.append((token, values_bytes))
            self._values_bytes += values_bytes

    def _passes(self, grant: effects.GrantLease, waiting: _Waiting) -> bool:
        """Return whether a lease relies on none of the facts under way, and may go ahead of them.

        A group goes as one: if a part of it waits, the rest waits too.
        """
        return (
            waiting.needed <= self._committed
            and not grant.group
            and not self._is_full
            and self._values_bytes < _MOST_VALUES_BYTES
            and len(self._values) < _MOST_VALUES
        )

    def holds(self, effect: effects.Effect, frames: Sequence[Frame]) -> bool:
        """Return whether `effect` must wait; then it is kept here."""
        call: CallId | None = None
        if isinstance(effect, AboutCall):
            call = effect.call
        elif isinstance(effect, AboutLease):
            call = self._leases.get(effect.lease)
        waiting = self.waiting.get(call) if call is not None else None
        if waiting is None:
            return False
        if isinstance(effect, effects.GrantLease) and self._passes(effect, waiting):
            return False
        waiting.held.append(Held(waiting.token, effect, frames))
        if isinstance(effect, effects.GrantLease):
            self._leases[effect.lease] = effect.call
        return True

    def take_leases(self) -> list[effects.GrantLease]:
        """Return the leases that wait for a disk without room, which are not granted then.

        But for those of groups: a part of the group may be at its worker.
        """
        self._is_full = True
        taken: dict[LeaseId, effects.GrantLease] = {}
        for waiting in self.waiting.values():
            kept: deque[Held] = deque()
            for held in waiting.held:
                effect = held.effect
                if isinstance(effect, effects.GrantLease) and not effect.group:
                    taken[effect.lease] = effect
                    del self._leases[effect.lease]
                elif not isinstance(effect, AboutLease) or effect.lease not in taken:
                    kept.append(held)
            waiting.held = kept
        return list(taken.values())

    def withdraw(self, lease: LeaseId) -> effects.GrantLease | None:
        """Return a lease that waits, which is not granted then; None where it does not wait here.

        One of a group is left: a part of the group may be at its worker.
        """
        call = self._leases.get(lease)
        if call is None:
            return None
        grant: effects.GrantLease | None = None
        kept: deque[Held] = deque()
        for held in self.waiting[call].held:
            effect = held.effect
            if isinstance(effect, effects.GrantLease) and effect.lease == lease:
                grant = effect
            elif not isinstance(effect, AboutLease) or effect.lease != lease:
                kept.append(held)
        if grant is None or grant.group:
            return None
        self.waiting[call].held = kept
        del self._leases[lease]
        return grant

    def release(self, token: int) -> list[Held]:
        """Return what may be performed now that `token` is committed, in order for each call."""
        self._committed, self._is_full = token, False
        while self._values and self._values[0][0] <= token:
            self._values_bytes -= self._values.popleft()[1]
        released: list[Held] = []
        for call, waiting in list(self.waiting.items()):
            while waiting.held and waiting.held[0].token <= token:
                held = waiting.held.popleft()
                if isinstance(held.effect, effects.GrantLease):
                    self._leases.pop(held.effect.lease, None)
                released.append(held)
            if waiting.token <= token:
                del self.waiting[call]
        return released
