"""Messages that go wrong: what peers say, with bytes flipped, cut, doubled, or fields made strange.

Some mutants are bytes that nobody would say; most are well-formed messages with one field that is
extreme, of another kind, or another message's.
"""

from __future__ import annotations

import random
from typing import Any, get_args, get_type_hints

import msgspec

from kernel_worker import shelf
from kernel_worker.errors import ProtocolError
from kernel_worker.model import (
    CallContext,
    CallId,
    DeployedFunction,
    Device,
    Digest,
    FunctionKey,
    FunctionSpec,
    HostResources,
    LeaseId,
    Outcome,
    ParentInput,
    PoolId,
    Resources,
    WorkerId,
    digest_of,
)
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages, payload

Said = tuple[bytes, list[bytes]]
"""A header and its frames."""

CONTENT = b"the code"
_DIGEST = digest_of(CONTENT)
_DICT = shelf.Shelf("dict", "mutants", creates=True)
_QUEUE = shelf.Shelf("queue", "mutants", creates=True)
_STRANGE: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    0.0,
    -1.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x" * 300,
    "fc-1\x00",
    "\u202e../..",
    b"",
    b"\xff" * 9,
    [],
    [[]] * 3,
    {},
)


def pool_of_mutants(pool: PoolId, resources: Resources = Resources()) -> FunctionSpec:
    """Return what the mutants' function is."""
    return FunctionSpec(
        pool,
        FunctionKey("mutants/app/f"),
        "f",
        "__main__",
        Digest("v"),
        _DIGEST,
        _DIGEST,
        resources=resources,
    )


def sound(worker: str, pool: PoolId) -> list[Said]:
    """Return at least one of every message that a broker hears, as they are said.

    Args:
        worker: The id of a worker that the host has been asked for.
        pool: The pool that it is of.
    """
    call, ta = CallId("fc-mutant"), WorkerId(worker)
    lease = LeaseId(1)
    spec = pool_of_mutants(pool)
    parent = ParentInput(call, 0, 1, ta, lease)
    inputs = _frames([(1,), ("two",), ([3],)], batches.FORM_ARGS)
    values = _frames([1, "two", [3]], batches.FORM_VALUE)
    deployed = DeployedFunction("f", spec)
    said: list[tuple[messages.ToBroker, list[bytes]]] = [
        (messages.Hello("client", "cl-mutant"), []),
        (messages.Hello("host", "ho-mutant", resources=HostResources(1.0, 1000)), []),
        (messages.Hello("worker", worker), []),
        (messages.Bye(), []),
        (messages.Draining(), []),
        (messages.StoreObject(_DIGEST), [CONTENT]),
        (messages.Define(spec), []),
        (messages.Submit(call, pool, attached=True, count=3, closed=False), inputs),
        (
            messages.Submit(
                CallId("fc-spawned"),
                pool,
                attached=False,
                count=3,
                closed=True,
                context=CallContext("/"),
                parent=parent,
            ),
            inputs,
        ),
        (
            messages.Submit(
                CallId("fc-stream"), pool, attached=True, count=1, closed=True, streams=True
            ),
            _frames([(1,)], batches.FORM_ARGS),
        ),
        (
            messages.Submit(
                CallId("fc-parts"), pool, attached=False, count=4, closed=True, parts=(2, 2)
            ),
            2 * _frames([(1,), ("two",)], batches.FORM_ARGS),
        ),
        (
            messages.Submit(
                CallId("fc-lined"), pool, attached=True, count=1, closed=True, line="name", deaths=1
            ),
            _frames([(1,)], batches.FORM_ARGS),
        ),
        (messages.AddInputs(call, 3, 3), inputs),
        (messages.CloseInputs(call, 6), []),
        (messages.CancelCall(call), []),
        (messages.PauseCall(call), []),
        (messages.PauseCall(call, paused=False), []),
        (messages.KernelAttached("/run/kernel.json"), []),
        (messages.ConsoleOffered(call, 0, "breakpoint", ta), []),
        (messages.ConsoleSaid(ta), [b"(Pdb) "]),
        (messages.ConsoleClosed(ta), []),
        (messages.ConsoleLine(ta, "continue"), []),
        (messages.ConsoleRefused(ta, "nobody is here"), []),
        (messages.AttachCall(CallId("fc-spawned"), items=1), []),
        (messages.DropObjects((_DIGEST,)), []),
        (messages.ConfigurePool(1, pool, 0, 2, 0, 1.0), []),
        (messages.Provide(1, (HostResources(2.0, 100, (Device(0, "H200"),)),), "a note"), []),
        (messages.Deploy(2, "mutants", (deployed,)), []),
        (messages.UseShelf(3, shelf.Put(_DICT, (b"t" * 24,), only_new=True)), [b"k", b"v"]),
        (messages.UseShelf(4, shelf.Add(_QUEUE, b"p", 60.0, None), (3,)), [b"an item"]),
        (messages.UseShelf(5, shelf.Take(_QUEUE, b"p", 2, 0.1)), []),
        (messages.ShelfWord((4,), (5,), (5,), (3,)), []),
        (messages.Blocked(parent, (call,)), []),
        (messages.Resumed(parent), []),
        (messages.Credit(call, 0, 1, 100), []),
        (messages.WorkerStarted(ta, 4711, "forked"), []),
        (messages.DevicesHeld((0,), ta), []),
        (messages.StartDelayed(ta), [b"building\n"]),
        (messages.StartFailed(ta, "it would not"), [b"an exception"]),
        (messages.WorkerExited(ta, "killed by SIGKILL", lease, 0), []),
        (messages.Done(lease, 0, 3, 0.1), values),
        (messages.Yielded(lease, 0, 0, 3), values),
        (messages.Yielded(lease, 0, 3, 1, CallId("fc-lined")), []),
        (messages.Paused(lease, call, 0, 0), []),
        (messages.InputEnded(lease, 0, Outcome.FAILED, 0.1), [b"an exception"]),
        (messages.InputLeft(lease), []),
        (messages.Returned(lease, 1, 3), []),
        (messages.LineReached(lease, CallId("fc-lined"), 4, 0.1, runs=True), []),
        (messages.Output(call, 0, "stdout", ta), [b"hello\n"]),
    ]
    subjects = {"pool_stats": pool, "hooks": pool, "object": _DIGEST, "attach": worker}
    questions = get_args(get_type_hints(messages.Ask)["what"])
    for number, what in enumerate(questions):
        if what != "stop":
            said.append((messages.Ask(number, what, str(subjects.get(what, call))), []))
    missing = set(get_args(messages.ToBroker)) - {type(message) for message, _ in said}
    assert not missing, missing
    return [(messages.encode(message), frames) for message, frames in said]


def mutate(said: list[Said], chance: random.Random) -> Said:
    """Return one message that has gone wrong (or, now and then, is still sound)."""
    header, frames = chance.choice(said)
    if frames and chance.random() < 0.4:
        return header, _mutated_frames(frames, said, chance)
    if chance.random() < 0.3:
        return mutated_bytes(header, chance), frames
    fields = msgspec.msgpack.decode(header)
    for _ in range(chance.choice((1, 1, 1, 2))):
        fields = _mutated_value(fields, said, chance)
    return msgspec.msgpack.encode(fields), frames


def is_leave(header: bytes) -> bool:
    """Return whether this is well-formed and ends what it is sent to, or the sender's stay."""
    try:
        message = messages.decode_at_broker(header)
    except ProtocolError:
        return False
    if isinstance(message, messages.Ask):
        return message.what == "stop"
    return isinstance(message, messages.Bye | messages.Hello)


def _frames(items: list[Any], form: int) -> list[bytes]:
    return [bytes(frame) for frame in payload.encode_batch(items, form)]


def _mutated_value(value: Any, said: list[Said], chance: random.Random) -> Any:
    """Return `value` with one leaf or branch of it replaced, dropped or doubled."""
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        way = chance.random()
        if way < 0.8:
            return [*value[:at], _mutated_value(value[at], said, chance), *value[at + 1 :]]
        if way < 0.9:
            return [*value[:at], *value[at + 1 :]]
        return [*value[:at], value[at], *value[at:]]
    if chance.random() < 0.3:
        other = msgspec.msgpack.decode(chance.choice(said)[0])
        return chance.choice(other)
    if isinstance(value, int) and chance.random() < 0.5:
        return max(-(2**63), min(value + chance.choice((-2, -1, 1, 2, 1000)), 2**64 - 1))
    return chance.choice(_STRANGE)


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return `content` with bits flipped, cut, doubled or with something in between; or noise."""
    way = chance.randrange(5)
    at = chance.randrange(len(content) + 1)
    if way == 0 and content:
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if way == 1:
        return content[:at]
    if way == 2:
        return content[:at] + chance.randbytes(chance.randint(1, 16)) + content[at:]
    if way == 3:
        return content + content[at:]
    return chance.randbytes(chance.randint(0, 64))


def _mutated_frames(frames: list[bytes], said: list[Said], chance: random.Random) -> list[bytes]:
    way = chance.randrange(5)
    at = chance.randrange(len(frames))
    if way == 0:
        return [*frames[:at], mutated_bytes(frames[at], chance), *frames[at + 1 :]]
    if way == 1:
        return [*frames[:at], *frames[at + 1 :]]
    if way == 2:
        return [*frames, frames[at]]
    if way == 3:
        return chance.choice(said)[1]
    return frames[::-1]
