"""Every effect has its action."""

from __future__ import annotations

from typing import get_args

from kernel_worker.broker.objects import ObjectStore
from kernel_worker.broker.peers import Peers
from kernel_worker.broker.perform import Performer
from kernel_worker.core import effects
from kernel_worker.model import CallId, WorkerId


def test_every_effect_but_the_record_has_an_action() -> None:
    performer = Performer(Peers(), ObjectStore(), {}, lambda *_: None, lambda _: None)
    assert set(performer._actions) == set(get_args(effects.Effect)) - {effects.Record}


def test_what_concerns_nobody_is_done_in_silence() -> None:
    sent: list[object] = []
    performer = Performer(
        Peers(), ObjectStore(), {}, lambda *message: sent.append(message), lambda _: None
    )
    performer.perform(effects.GrantLease(WorkerId("ta"), 1, CallId("fc"), 0, 1, 1), ())  # type: ignore[arg-type]
    performer.perform(effects.ReportRange(CallId("fc"), 0, 1, 0), ())
    performer.perform(effects.DropInputs(CallId("fc"), 0, 1), ())
    performer.perform(effects.FinishCall(CallId("fc")), ())
    assert sent == []
