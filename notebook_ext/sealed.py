"""What a client seals, and opens: the payloads of calls that are sealed from end to end.

Those of clients on other machines are, and of calls that are nested in them. The id of each says
so, wherever it is looked up. The key is in the connection file that a client was invited by; on the
broker's machine it lies beside the journal, and is read when something has to be opened.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, assert_never

import msgspec

from kernel_worker.errors import ConnectionError, DeserializationError, Error  # noqa: A004  ours
from kernel_worker.model import SEALED_CALL, CallId, Digest, Outcome, digest_of, is_sealed
from kernel_worker.store.blobs import brought
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kernel_worker.rendezvous import Connection
    from kernel_worker.wire.frames import Frame
    from kernel_worker.wire.sealing import Key

_log = logging.getLogger(__name__)
_OPENED: Final = frozenset({messages.Results, messages.Items, messages.Failure, messages.Output})
_Opened = messages.Results | messages.Items | messages.Failure | messages.Output
_Asked = messages.Ask | messages.ConfigurePool | messages.Deploy
_entries = msgspec.msgpack.Decoder(list[messages.LogEntry])


class Seals:
    """What is between one client and its broker."""

    def __init__(self) -> None:
        """Know no key yet."""
        self._connection: Connection | None = None
        self._found: Key | None = None

    @property
    def has_found(self) -> bool:
        """Whether a broker was found yet."""
        return self._connection is not None

    def use(self, connection: Connection) -> None:
        """Take the key of a broker that was found: another one where clients were invited anew."""
        self._connection, self._found = connection, None

    def sealed(self, message: messages.ToBroker, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Return what goes beside a message in the place of `frames`."""
        from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

        match message:
            case messages.StoreObject(digest=digest):
                return [self.key().seal(frames[0], sealing.object_named(digest))]
            case messages.Submit(call=call) | messages.AddInputs(call=call) if is_sealed(call):
                place = sealing.inputs_of(call)
                frames = brought(frames)
                if isinstance(message, messages.AddInputs):
                    return self.key().seal_batch(frames, place, message.start)
                if not message.parts:
                    return self.key().seal_batch(frames, place, 0)
                first, sealed = 0, []
                for at, count in enumerate(message.parts):
                    sealed += self.key().seal_batch(frames[2 * at : 2 * at + 2], place, first)
                    first += count
                return sealed
            case _:
                return frames

    @staticmethod
    def concerns(message: messages.ToClient, frame: bytes) -> bool:
        """Return whether the frames of a message, of which this is the first, are to be opened."""
        if type(message) not in _OPENED:
            return False
        if message.call.startswith(SEALED_CALL):  # type: ignore[union-attr]
            return True
        return type(message) is messages.Failure and batches.is_sealed(frame)

    def opened(
        self, message: messages.ToClient, frames: list[bytes]
    ) -> Iterator[tuple[messages.ToClient, list[bytes]]]:
        """Yield what a message says that `concerns` this: itself, opened.

        What cannot be opened becomes an input that failed, with an error that says so.
        """
        assert isinstance(message, _Opened)  # noqa: S101  whoever calls this has looked
        try:
            yield message, self._opened(message, frames)
        except Error as error:
            _log.warning("%s", error)
            yield from _refused(message, error)

    def reply(self, asked: _Asked, frames: list[bytes], *, strict: bool = False) -> list[bytes]:
        """Return the frames of the reply to a question in clear.

        Args:
            asked: the question.
            frames: what the broker replies.
            strict: whoever asks believes the broker nothing: an object that comes in clear has to
                be what its digest says.

        Raises:
            DeserializationError: they are not what was sealed, or asked for.
            AuthError: there is no key.
        """
        if not isinstance(asked, messages.Ask) or not frames:
            return frames
        from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

        if asked.what == "object" and batches.is_sealed(frames[0]):
            place = sealing.object_named(Digest(asked.subject))
            return [self.key().open(frames[0], place)]
        if asked.what == "object" and strict and digest_of(frames[0]) != asked.subject:
            text = f"the object {asked.subject} is refused: what came is another one, in clear"
            raise DeserializationError(text)
        if asked.what == "logs" and is_sealed(asked.subject):
            return [self._log(asked.subject, frame) for frame in frames]
        return frames

    def _log(self, call: str, frame: bytes) -> bytes:
        from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

        entries = [
            entry
            if entry.stream == "notice"
            else msgspec.structs.replace(entry, data=_built(self.key(), entry.data))
            if entry.stream == "build"
            else msgspec.structs.replace(
                entry,
                data=self.key().open(entry.data, sealing.output_of(CallId(call), entry.index)),
            )
            for entry in _entries.decode(frame)
        ]
        return msgspec.msgpack.encode(entries)

    def _opened(self, message: _Opened, frames: list[bytes]) -> list[bytes]:
        from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

        call, key = message.call, self.key()
        match message:
            case messages.Results():
                return _whole(key.open_batch(frames, sealing.values_of(call), message.first))
            case messages.Items():
                return _whole(key.open_batch(frames, sealing.items_of(call), message.start))
            case messages.Failure(outcome=Outcome.INIT_FAILED):
                if not batches.is_sealed(frames[0]):
                    return []  # of a function that did not come sealed: what it says is not read
                return [key.open(frames[0], sealing.START)]
            case messages.Failure():
                return [key.open(frames[0], sealing.exception_of(call, message.index))]
            case messages.Output():
                if not frames[0] and message.withheld:
                    return frames
                if message.stream == "build":
                    return [_built(key, frames[0])]
                return [key.open(frames[0], sealing.output_of(call, message.index))]
            case _:
                assert_never(message)

    def key(self) -> Key:
        """Return the key.

        Raises:
            ConnectionError: no broker was found yet.
            AuthError: it is not there.
        """
        if self._found is None:
            from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

            if self._connection is None:
                raise ConnectionError("no broker was found whose key opens this")
            self._found = sealing.Key(self._connection.read_payload_key())
        return self._found


def _built(key: Key, text: bytes) -> bytes:
    """Return what a build says in clear, as it is where the function did not come sealed."""
    from kernel_worker.wire import sealing  # noqa: PLC0415  only where something is sealed

    return key.open(text, sealing.BUILD) if batches.is_sealed(text) else text


def _refused(message: _Opened, error: Error) -> Iterator[tuple[messages.ToClient, list[bytes]]]:
    """Yield what is said in the place of a message that cannot be opened."""
    from kernel_worker.wire import failures  # noqa: PLC0415  only where something is wrong

    if isinstance(message, messages.Output):
        yield msgspec.structs.replace(message, stream="stderr"), [f"{error}\n".encode()]
        return
    first, count = (
        (message.start, message.count)
        if isinstance(message, messages.Results)
        else (message.index, 1)
    )
    exception = failures.capture(error)
    for index in range(first, first + count):
        yield messages.Failure(message.call, index, 1, Outcome.FAILED, 1, str(error)), [exception]


def _whole(parts: Sequence[Frame]) -> list[bytes]:
    return [part if isinstance(part, bytes) else bytes(part) for part in parts]
