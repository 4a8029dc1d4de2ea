"""Hosts that could be had: what providers offer, and what is wanted of them.

A provider says again and again which hosts it could bring. While it does, what fits one of them
waits for it instead of failing at once; `OFFER_SECONDS` after it was heard last, its offer is void.
What it is asked for is what pools are short of: the workers that demand and floors want, beyond
those that there are, each pool by itself. How long that has to last before somebody pays for a
machine is the provider's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kernel_worker.core.hosts import Host
from kernel_worker.core.pools import missing_workers
from kernel_worker.model import HostId

if TYPE_CHECKING:
    from kernel_worker.core import events
    from kernel_worker.core.pools import Pool
    from kernel_worker.core.state import State
    from kernel_worker.model import HostResources, Resources

OFFER_SECONDS: Final = 150.0
"""So long an offer holds: a provider's agent that was killed is started again, and says it anew;
one that waits for an engine whose head is gone says nothing meanwhile (with Ray for 65 s)."""
MANY: Final = 1_000
"""No pool is short of more workers than that."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The hosts that one provider could bring."""

    shapes: tuple[HostResources, ...]
    note: str
    """How that stands, for people: `ray: 1 of 4 hosts, 1 pending`."""
    until: float


@dataclass(frozen=True, slots=True)
class Shortage:
    """Workers of one pool that no host has a place for."""

    name: str
    resources: Resources
    workers: int


@dataclass(frozen=True, slots=True)
class HostUse:
    """How much of a host is used."""

    host: HostId
    workers: int
    state: str
    """`silent`, `draining`, or empty."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a provider's agent is told."""

    shortages: list[Shortage]
    hosts: list[HostUse]


def hosts_offered(state: State, event: events.HostsOffered) -> None:
    """Note what a provider could bring; it holds for a while."""
    known = state.offers.get(event.client)
    until = state.now + OFFER_SECONDS
    state.offers[event.client] = Offer(event.shapes, event.note, until)
    state.timers.set(("offer", event.client), until)
    if known is None or known.shapes != event.shapes:
        state.hosts_changed()


def await_offers(state: State) -> None:
    """Give the providers of a broker before this one time to say what they offer."""
    if state.called:
        state.offers_awaited_until = state.now + OFFER_SECONDS
        state.timers.set(("offer", ""), state.offers_awaited_until)


def withdraw_overdue(state: State) -> None:
    """Drop the offers that nobody has said again."""
    for client, offer in list(state.offers.items()):
        if offer.until <= state.now:
            del state.offers[client]
            state.hosts_changed()


def could_fit(state: State, wanted: Resources) -> bool:
    """Whether a worker fits a host that could be had."""
    shapes = (shape for offer in state.offers.values() for shape in offer.shapes)
    return any(Host(HostId(""), shape).could_ever_fit(wanted) for shape in shapes)


def notes(state: State) -> str:
    """Return how providers that could help stand, for people; empty where there are none."""
    return "; ".join(offer.note for offer in state.offers.values() if offer.note)


def demand(state: State) -> Demand:
    """Return what is wanted beyond what there is, and how much of the hosts is used."""
    found = []
    for pool in state.pools.values():
        workers = _missing(state, pool)
        if workers > 0:
            found.append(Shortage(pool.spec.name, pool.spec.resources, workers))
    uses = [HostUse(h.id, len(h.workers), h.state) for h in state.hosts.values()]
    return Demand(found, uses)


def _missing(state: State, pool: Pool) -> int:
    """Return how many more workers the pool should have, if there were hosts for them.

    None, where those that it had did not come up: another machine would not help.
    """
    is_wanted = pool.calls or pool.settings.min_containers
    if not is_wanted or pool.broken or state.now < pool.retry_start_at:
        return 0
    return missing_workers(pool, MANY, state.now)
