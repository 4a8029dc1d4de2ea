"""Every effect has its action."""

from __future__ import annotations

from typing import get_args

from kernel_worker.broker.objects import ObjectStore
from kernel_worker.broker.peers import Host, Peers
from kernel_worker.broker.perform import Performer
from kernel_worker.core import effects
from kernel_worker.model import (
    CallId,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostId,
    HostResources,
    PoolId,
    WorkerId,
    digest_of,
)
from kernel_worker.wire import messages


def test_every_effect_but_the_record_has_an_action() -> None:
    performer = Performer(Peers(), ObjectStore(), {}, lambda *_: None, lambda *_: None)
    assert set(performer._actions) == set(get_args(effects.Effect)) - {effects.Record}


def test_what_concerns_nobody_is_done_in_silence() -> None:
    sent: list[object] = []
    performer = Performer(
        Peers(), ObjectStore(), {}, lambda *message: sent.append(message), lambda *_: None
    )
    performer.perform(effects.GrantLease(WorkerId("ta"), 1, CallId("fc"), 0, 1, 1), ())  # type: ignore[arg-type]
    performer.perform(effects.ReportRange(CallId("fc"), 0, 1, 0), ())
    performer.perform(effects.DropInputs(CallId("fc"), 0, 1), ())
    performer.perform(effects.FinishCall(CallId("fc")), ())
    assert sent == []


def test_a_host_is_sent_objects_once_and_again_after_it_may_have_let_them_go() -> None:
    host, peers, objects = HostId("ho"), Peers(), ObjectStore()
    peers.add_host(Host(host, b"ho", HostResources(2.0, 1000)))
    spec = FunctionSpec(
        pool=PoolId("po"),
        key=FunctionKey("test/app/f"),
        name="f",
        module="__main__",
        version=Digest("v"),
        code=digest_of(b"code"),
        environment=digest_of(b"environment"),
    )
    for content in (b"code", b"environment"):
        objects.add(digest_of(content), content, "somebody")
    stored: list[Digest] = []

    def send(_routing: bytes, header: bytes, _frames: object) -> None:
        message = messages.decode_at_host(header)
        if isinstance(message, messages.StoreObject):
            stored.append(message.digest)

    performer = Performer(peers, objects, {}, send, lambda *_: None)
    both = [spec.code, spec.environment]
    performer.perform(effects.StartWorker(WorkerId("ta-1"), host, spec, ()), ())
    performer.perform(effects.StartWorker(WorkerId("ta-2"), host, spec, ()), ())
    assert stored == both
    performer.perform(effects.RetirePool(spec.pool, host), ())
    performer.perform(effects.StartWorker(WorkerId("ta-3"), host, spec, ()), ())
    assert stored == both + both
