"""What the workers' side opens of calls whose payloads are sealed, and seals of what it says.

The ids of such calls say so (`model.is_sealed`). The key lies beside the broker's journal
(`kernel_worker.keys`); it is read when the first such call comes, and never where none does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel_worker import context, rendezvous
from kernel_worker.errors import AuthError
from kernel_worker.model import is_sealed
from kernel_worker.wire import frames as batches
from kernel_worker.wire import messages, sealing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_worker.model import CallId, Digest
    from kernel_worker.wire.frames import Frame


class Seals:
    """What is between one worker, or host agent, and its broker."""

    def __init__(self, connection_file: str) -> None:
        """Find the key by the broker's connection file."""
        self._file = connection_file
        self._found: sealing.Key | None = None
        self.is_on = False
        """Whether there was anything yet that is sealed."""

    def begin(self) -> None:
        """Note that a lease of a sealed call has come: what is said of such calls is sealed."""
        self.is_on = True
        context.seals = True

    def inputs(self, lease: messages.Lease, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Return the inputs of a lease in clear.

        Raises:
            DeserializationError: they are not what a client has sealed for this call.
            AuthError: there is no key.
        """
        if not is_sealed(lease.call):
            return frames
        return self._key().open_batch(frames, sealing.inputs_of(lease.call), lease.first)

    def content(self, digest: Digest, content: bytes) -> bytes:
        """Return an object in clear.

        Raises:
            DeserializationError: it is not what a client has sealed.
            AuthError: there is no key.
        """
        if not batches.is_sealed(content):
            return content
        return self._key().open(content, sealing.object_named(digest))

    def output(self, said: messages.Output, text: bytes) -> tuple[messages.Output, bytes]:
        """Return a message and its frame: of a sealed call sealed, and how many lines it has."""
        if not is_sealed(said.call):
            return said, text
        lines = 0 if said.stream == "display" else text.count(b"\n")
        place = sealing.output_of(said.call, said.index)
        return msgspec.structs.replace(said, lines=lines), self._sealed(text, place)

    def answer(
        self, message: messages.ToBroker, frames: Sequence[Frame], call: CallId
    ) -> Sequence[Frame]:
        """Return the frames to send with a message: sealed where it answers a sealed call.

        Args:
            message: what is said.
            frames: its payload, in clear.
            call: the call that it is about. One that nobody names counts as sealed: what is said
                of it opens nowhere.
        """
        if not frames or (call and not is_sealed(call)):
            return frames
        match message:
            case messages.Done(start=start):
                return self._key().seal_batch(frames, sealing.values_of(call), start)
            case messages.Yielded(start=start):
                return self._key().seal_batch(frames, sealing.items_of(call), start)
            case messages.InputEnded(index=index):
                return [self._sealed(frames[0], sealing.exception_of(call, index))]
            case _:
                return frames

    def start_failure(self, exception: bytes) -> bytes:
        """Return why a worker could not start, sealed."""
        return self._sealed(exception, sealing.START)

    def build(self, text: bytes) -> bytes:
        """Return what the build of an image says, sealed."""
        return self._sealed(text, sealing.BUILD)

    def _sealed(self, frame: Frame, place: str) -> bytes:
        """Return a frame sealed; without the key, of which it may tell, what nobody can open."""
        try:
            return self._key().seal(frame, place)
        except AuthError:
            return batches.MARK

    def _key(self) -> sealing.Key:
        if self._found is None:
            connection = rendezvous.read_connection(self._file)
            if connection is None:
                raise AuthError(f"{self._file} is gone, which says where the key for payloads is")
            self._found = sealing.Key(connection.read_payload_key())
        return self._found
