"""What is deployed: versions in force, names that are resolved at the door, floors that stay."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel_worker.broker.deployments import Register
from kernel_worker.errors import NotFoundError
from kernel_worker.model import (
    DeployedFunction,
    Digest,
    FunctionSpec,
    PoolId,
    PoolSettings,
    deployed_key,
    digest_of,
)
from kernel_worker.records import Deployment
from kernel_worker.wire import messages
from tests.broker.speaking import CODE, ENVIRONMENT, Client, Host, RunningBroker, Speaker
from tests.waiting import wait_until


def function(name: str, version: str = "1", **fields: Any) -> DeployedFunction:
    key = deployed_key("shop", name)
    code, environment = Digest(f"code of {name}"), Digest("environment")
    spec = FunctionSpec(
        PoolId(f"po-{name}-{version}"), key, name, "m", Digest(version), code, environment
    )
    return DeployedFunction(name, msgspec.structs.replace(spec, **fields))


def deploy(client: Client, version: str, **fields: Any) -> messages.DeploymentInfo:
    code, environment = client.store(CODE), client.store(ENVIRONMENT)
    deployed = function("f", version, code=code, environment=environment, **fields)
    client.requests += 1
    client.say(messages.Deploy(client.requests, "shop", (deployed,), f"tag {version}"))
    reply = client.hear(messages.Reply)
    assert not reply.error, msgspec.msgpack.decode(reply.body)
    return msgspec.msgpack.decode(reply.body, type=messages.DeploymentInfo)


def refused(client: Client, message: messages.Deploy) -> tuple[str, str]:
    client.say(message)
    reply = client.hear(messages.Reply)
    return reply.error, msgspec.msgpack.decode(reply.body)


KEY = deployed_key("shop", "f")
BY_NAME = {"pool": PoolId(KEY)}


def test_the_register_knows_versions_and_the_nearest_names() -> None:
    register = Register()
    assert register.next_version("shop") == 1
    assert register.listed("") == []
    with pytest.raises(NotFoundError, match=r"no app 'shop' is deployed.*there are none"):
        register.resolve(KEY)
    register.restore([(Deployment("shop", 1, 5.0, (function("a"),)), 6.0)])
    register.enforce(Deployment("shop", 2, 6.0, (function("price"), function("total"))))
    assert register.next_version("shop") == 3
    assert register.resolve(deployed_key("shop", "price")).name == "price"
    with pytest.raises(
        NotFoundError, match=r"version 2\) has no function 'prise', .*nearest: price"
    ):
        register.resolve(deployed_key("shop", "prise"))
    with pytest.raises(NotFoundError, match="nearest: price, total"):
        register.resolve(deployed_key("shop", "xyz"))
    with pytest.raises(NotFoundError, match=r"no app 'shp'.*nearest: shop"):
        register.listed("shp")
    assert [(each.version, each.ended_at) for each in register.listed("shop")] == [
        (2, None),
        (1, 6),
    ]
    ended = register.end("shop", 7.0)
    assert ended is not None
    assert (ended.version, ended.ended_at) == (2, 7.0)
    assert register.end("shop", 8.0) is None
    assert register.listed("") == []


def test_a_name_is_the_version_in_force_and_open_calls_stay_with_theirs(
    client: Client, host: Host
) -> None:
    assert deploy(client, "1").version == 1
    client.submit([1], "fc-1", **BY_NAME)
    old = host.start_worker()
    lease = old.lease().message
    assert deploy(client, "2").version == 2
    client.submit([2], "fc-2", **BY_NAME)
    old.done(lease, ["from 1"])
    assert client.listen().values == ["from 1"]
    host.start_worker().work(lambda _: "from 2")
    assert client.listen().values == ["from 2"]


def test_it_outlives_the_client_and_the_broker(
    broker: RunningBroker, client: Client, speakers: list[Speaker]
) -> None:
    info = deploy(client, "1", settings=PoolSettings(min_containers=1))
    client.say(messages.ConfigurePool(90, PoolId(KEY), max_containers=3))
    reply = client.hear(messages.Reply)
    in_force = msgspec.msgpack.decode(reply.body, type=PoolSettings)
    assert in_force == PoolSettings(min_containers=1, max_containers=3)
    client.say(messages.Bye())
    broker.end(signal.SIGKILL)
    broker.start()
    host, later = Host(broker), Client(broker, "cl-2")
    speakers += [host, later]
    host.start_worker()  # the floor
    assert later.ask("deployments", "shop", list[messages.DeploymentInfo]) == [info]
    found = later.ask("lookup", KEY, DeployedFunction)
    assert found.spec.settings == in_force
    assert later.ask("pool_stats", KEY, messages.PoolStats).settings == in_force
    assert deploy(later, "2").version == 2


def deploy_class(client: Client, version: str, **fields: Any) -> None:
    code, environment = client.store(CODE), client.store(ENVIRONMENT)
    initial = client.store(b"initial")
    deployed = function("f", version, code=code, environment=environment, initial=initial, **fields)
    client.requests += 1
    shaped = msgspec.structs.replace(deployed, shape=b"shape")
    client.say(messages.Deploy(client.requests, "shop", (shaped,)))
    assert not client.hear(messages.Reply).error


def test_an_instance_is_derived_from_the_class_in_force(client: Client, host: Host) -> None:
    deploy_class(client, "1", settings=PoolSettings(max_containers=2))
    key = PoolId(f"{KEY}({digest_of(b'parameters')})")
    client.submit([1], "fc-0", pool=key)
    assert "does not have" in client.hear(messages.Rejected).message
    client.store(b"parameters")
    client.submit([1], "fc-1", pool=key)
    old = host.start_worker()
    lease = old.lease().message
    deploy_class(client, "2")
    client.submit([2], "fc-2", pool=key)
    old.done(lease, ["from 1"])
    assert client.listen().values == ["from 1"]
    host.start_worker().work(lambda _: "from 2")
    assert client.listen().values == ["from 2"]
    client.submit([1], "fc-3", **BY_NAME)
    assert "f is a class" in client.hear(messages.Rejected).message
    client.ask("stop_app", "shop", messages.DeploymentInfo)
    client.submit([1], "fc-4", pool=key)
    assert client.hear(messages.Rejected).error == "NotFoundError"


def test_the_settings_of_an_instance_belong_to_the_deployment(
    broker: RunningBroker, client: Client, speakers: list[Speaker]
) -> None:
    deploy_class(client, "1", settings=PoolSettings(max_containers=2))
    digest = client.store(b"parameters")
    key = PoolId(f"{KEY}({digest})")
    assert client.ask("pool_stats", key, messages.PoolStats).settings.max_containers == 2
    client.say(messages.ConfigurePool(90, key, max_containers=3))
    assert not client.hear(messages.Reply).error
    deploy_class(client, "1", settings=PoolSettings(max_containers=4))  # an equal pool
    assert client.ask("pool_stats", key, messages.PoolStats).settings.max_containers == 4
    client.say(messages.ConfigurePool(91, key, max_containers=5))
    assert not client.hear(messages.Reply).error
    client.say(messages.Bye())
    broker.end(signal.SIGKILL)
    broker.start()
    later = Client(broker, "cl-2")
    speakers.append(later)
    assert later.ask("pool_stats", key, messages.PoolStats).settings.max_containers == 5
    (info,) = later.ask("deployments", "", list[messages.DeploymentInfo])
    assert info.functions == ("f",)
    assert later.ask("lookup", key, DeployedFunction).spec.parameters == digest


def test_what_is_stopped_is_not_found_any_more(client: Client) -> None:
    deploy(client, "1")
    stopped = client.ask("stop_app", "shop", messages.DeploymentInfo)
    assert (stopped.version, stopped.ended_at is not None) == (1, True)
    assert client.ask("deployments", "", list[messages.DeploymentInfo]) == []
    client.submit([1], "fc-1", **BY_NAME)
    assert client.hear(messages.Rejected).error == "NotFoundError"
    for what in ("stop_app", "lookup", "pool_stats"):
        client.say(messages.Ask(90, what, KEY if what != "stop_app" else "shop"))
        assert client.hear(messages.Reply).error == "NotFoundError"
    client.say(messages.ConfigurePool(91, PoolId(KEY), max_containers=3))
    assert client.hear(messages.Reply).error == "NotFoundError"
    assert deploy(client, "1").version == 2


def test_what_nobody_could_call_is_not_deployed(client: Client) -> None:
    error, text = refused(client, messages.Deploy(1, "shop", (function("f"),)))
    assert error == "NotFoundError"
    assert "does not have" in text
    for app, functions in (("", (function("f"),)), ("a/b", (function("f"),)), ("shop", ())):
        assert refused(client, messages.Deploy(1, app, functions))[0] == "InvalidError"
    error, text = refused(client, messages.Deploy(1, "other", (function("f"),)))
    assert (error, "is not the key of 'f' of 'other'" in text) == ("InvalidError", True)


def test_a_floor_keeps_the_broker_awake_and_a_deployment_alone_does_not(short_dir: Path) -> None:
    brokers = []
    for name, floor in (("w", 1), ("c", 0)):  # the one that stays has been idle for longer
        (short_dir / name).mkdir()
        started = RunningBroker(short_dir / name, idle_exit_seconds=0.2)
        brokers.append(started)
        deployer = Client(started)
        deploy(deployer, "1", settings=PoolSettings(min_containers=floor))
        deployer.say(messages.Bye())
        deployer.socket.linger = 1000
        deployer.close()
    warm, cold = brokers
    wait_until(lambda: not cold.is_alive(), what="the broker without a floor leaves")
    assert warm.is_alive()
    warm.end()
