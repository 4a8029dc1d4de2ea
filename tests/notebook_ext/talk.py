"""What tests of the conversation share: a receiver that remembers, and calls to make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernel_worker.model import CallId, Digest, FunctionKey, FunctionSpec, PoolId
from kernel_worker.wire import messages, payload
from kernel_worker.wire.frames import FORM_ARGS, FORM_VALUE
from notebook_ext.conversation import Conversation
from notebook_ext.cutting import cut
from notebook_ext.submission import Ended, Package, Submission


class Heard:
    """A receiver that writes down what it hears."""

    def __init__(self) -> None:
        self.results: dict[int, object] = {}
        self.ends: list[Ended] = []
        self.other: list[object] = []
        self.is_deaf = False
        self.items: list[tuple[int, object]] = []

    def accepted(self) -> None:
        self.other.append("accepted")

    def rejected(self, error: str, message: str) -> None:
        self.other.append((error, message))

    def succeeded(self, start: int, count: int, position: int, frames: list[bytes]) -> None:
        reader = payload.BatchReader(frames)
        for at in range(count):
            assert start + at not in self.results
            self.results[start + at] = reader[position + at]

    def ended(self, end: Ended) -> None:
        self.ends.append(end)

    def yielded(self, start: int, count: int, frames: list[bytes]) -> None:
        reader = payload.BatchReader(frames)
        self.items += [(start + at, reader[at]) for at in range(count)]

    def offered(self, act: Callable[[bool], object]) -> bool:
        self.other.append(act)
        return not self.is_deaf

    def progressed(self, progress: messages.CallProgress) -> None:
        self.other.append(progress)

    def wrote(self, index: int, stream: str, text: bytes, withheld: int = 0) -> None:
        self.other.append((index, stream, text))


def spec(version: str = "v1", name: str = "f") -> FunctionSpec:
    return FunctionSpec(
        pool=PoolId(f"po-{name}-{version}"),
        key=FunctionKey(f"s/-/{name}"),
        name=name,
        module="m",
        version=Digest(version),
        code=Digest(f"code-{version}"),
        environment=Digest("env"),
    )


def package(version: str = "v1", name: str = "f", **objects: bytes) -> Package:
    held = {Digest(f"code-{version}"): b"c", **{Digest(k): v for k, v in objects.items()}}
    return Package(spec(version, name), objects=held)


def submission(call: str, heard: Any, **fields: Any) -> Submission:
    fields.setdefault("package", package())
    return Submission(CallId(call), receiver=heard, **fields)


def inputs(*values: object) -> list[bytes]:
    return [bytes(f) for f in payload.encode_batch([(v,) for v in values], FORM_ARGS)]


def values(*results: object) -> list[bytes]:
    return [bytes(f) for f in payload.encode_batch(list(results), FORM_VALUE)]


def said(conversation: Conversation) -> list[messages.ToBroker]:
    """Return the messages that were said, and forget them."""
    return [messages.decode_at_broker(bytes(frames[0])) for frames in conversation.take()]


def opened(incarnation: str = "one") -> Conversation:
    conversation = Conversation(cut)
    conversation.connected(incarnation)
    return conversation
