"""What `Dict` and `Queue` have in common: how one is found by name, made, removed and travels.

Theory. A handle is a name; nothing is asked before it is used. A remote function that captures one
gets the name. Every operation is one message with its answer (`shelving.py`), and is done once,
also where the broker is killed in between: a new one is asked the same thing again.

Not guaranteed: that what two operations see is one moment's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import msgspec

from kernel_worker import shelf as words
from kernel_worker.context import running_input
from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import NO_CALL
from kernel_worker.shelf import Shelf
from notebook_ext import cloud, exception, process
from notebook_ext.shelving import Request
from notebook_ext.state.covers import Cover
from notebook_ext.twin import Waiting, blocks_thread, has_running_loop, twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kernel_worker.wire import messages
    from notebook_ext.session import Session

    Make = Callable[[Shelf, Cover], tuple[words.Act, list[bytes]]]
    Read = Callable[[Any, list[bytes], Cover], Any]

T = TypeVar("T")
H = TypeVar("H", bound="Handle")

Many = list
"""A list, where a method has that name."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
ALLOWED = "allowed are 1 to 64 letters, digits, dots, dashes and underscores"


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of one of them."""

    name: str
    created_at: float
    """Unix seconds."""
    count: int
    """Entries of a dict, items of all partitions of a queue."""
    size_bytes: int


class Handle:
    """A name of something that the broker keeps."""

    __slots__ = ("__weakref__", "_creates", "_name", "_sealed")

    _kind: ClassVar[words.Kind]

    def __init__(self, name: str, *, creates: bool) -> None:
        """Use `from_name`, `lookup` or `ephemeral`."""
        self._name = name
        self._creates = creates
        self._sealed: bool | None = None
        """Whether it is, as far as that is known."""

    @classmethod
    def from_name(cls, name: str, *, create_if_missing: bool = False, **cloud_only: object) -> Self:
        """Return the one of that name, of all notebooks and scripts of this user.

        Nothing is asked before it is used.

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores.
            create_if_missing: make it where there is none.
            **cloud_only: `environment_name` selects a profile, others change nothing.

        Raises:
            InvalidError: it is no such name.
        """
        cloud.check(f"{cls.__name__}.from_name", cloud_only)
        return cls(checked_name(cls.__name__, name), creates=create_if_missing)

    @classmethod
    def ephemeral(cls, **cloud_only: object) -> Ephemeral[Self]:
        """Return one without a name, for a `with` or `async with`; it ends with that.

        And with this process. Remote functions that get it use the same one.
        """
        cloud.check(f"{cls.__name__}.ephemeral", cloud_only)
        return Ephemeral(cls)

    @classmethod
    def from_id(cls, object_id: str) -> Self:
        """Return the one whose `object_id` that is.

        Raises:
            InvalidError: it is none of this kind.
        """
        kind, _, name = str(object_id).partition("-")
        if kind != cls._kind[:2] or not NAME.fullmatch(name.removeprefix(words.EPHEMERAL)):
            raise InvalidError(
                f"object_id={object_id!r:.90}: allowed is what object_id of a {cls.__name__} says."
            )
        return cls(name, creates=False)

    @property
    def name(self) -> str | None:
        """Its name; None of an ephemeral one."""
        return None if self._name.startswith(words.EPHEMERAL) else self._name

    @property
    def object_id(self) -> str:
        """What it is found again by, while it is there."""
        return f"{self._kind[:2]}-{self._name}"

    @twin
    def hydrate(self) -> Waiting[Any]:
        """Look that it is there, and make it where it may be made; return it.

        Raises:
            NotFoundError: it is not there, and may not be made.
        """
        return self._use(_open, lambda _body, _frames, _cover: self)

    @twin
    def info(self) -> Waiting[Info]:
        """Return what is known of it.

        Raises:
            NotFoundError: it is not there.
        """
        return self._use(_open, lambda body, _frames, _cover: _info(body))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name or 'ephemeral'}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            return NotImplemented
        return (self._kind, self._name) == (other._kind, other._name)

    def __hash__(self) -> int:
        return hash((self._kind, self._name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (type(self), self._name, self._creates)

    # ---- one act ------------------------------------------------------------------------------

    def _use(self, make: Make, read: Read) -> Waiting[Any]:
        """Do an act.

        Args:
            make: returns the act, and its frames; it runs no users' code.
            read: makes of the answer's body and frames what is returned, where one waits.
        """
        return _Use(self, make, read).begin()


class _Use:
    """One act, on its way."""

    def __init__(self, handle: Handle, make: Make, read: Read) -> None:
        self._handle = handle
        self._make = make
        self._read = read
        self._waiting: Waiting[Any] = Waiting()
        self._halts = blocks_thread() and has_running_loop()
        self._running = running_input()
        self._session: Session = process.current()
        self._request: Request | None = None
        self._must_seal = self._session.seals()

    def begin(self) -> Waiting[Any]:
        self._waiting.abandoned = self._abandon
        sealed = self._handle._sealed  # noqa: SLF001  its own room
        self._ask(self._must_seal if sealed is None else sealed)
        return self._waiting

    def _ask(self, sealed: bool) -> None:  # noqa: FBT001  one of two ways
        handle = self._handle
        kind, name = handle._kind, handle._name  # noqa: SLF001  its own room
        cover = Cover(kind, name, self._session.payload_key() if sealed else None)
        shelf = Shelf(kind, name, handle._creates, sealed)  # noqa: SLF001  its own room
        act, frames = self._make(shelf, cover)

        def heard(reply: messages.Reply, answered: list[bytes]) -> None:
            self._heard(reply, answered, cover)

        self._request = Request(act, frames, heard, self._parks)
        self._session.use_shelf(self._request)

    def _heard(self, reply: messages.Reply, frames: list[bytes], cover: Cover) -> None:
        """Take the answer, in the I/O thread."""
        handle = self._handle
        if reply.error == words.SEALED and handle._sealed is None and not self._must_seal:  # noqa: SLF001  its own room
            handle._sealed = True  # noqa: SLF001  its own room
            try:
                self._ask(sealed=True)
            except Exception as error:  # noqa: BLE001  told to who waits
                self._waiting.complete(_raising(error))
            return
        if not reply.error:
            handle._sealed = cover.is_sealed  # noqa: SLF001  its own room
        self._waiting.complete(lambda: self._result(reply, frames, cover))

    def _result(self, reply: messages.Reply, frames: list[bytes], cover: Cover) -> Any:
        __tracebackhide__ = True
        body = msgspec.msgpack.decode(reply.body)
        if reply.error:
            raise _error(self._handle, reply.error, str(body))
        return self._read(body, frames, cover)

    def _parks(self, begins: bool) -> None:  # noqa: FBT001  a callback
        """Give the slot of the input that waits up, and take it again."""
        if self._running is not None:
            self._session.announce(self._running, begins, (NO_CALL,), self._halts)

    def _abandon(self) -> None:
        if self._request is not None:
            self._session.withdraw_from_shelf(self._request)


def _error(handle: Handle, name: str, why: str) -> Exception:
    if name in {words.EMPTY, words.FULL}:
        import queue  # noqa: PLC0415  rarely

        return queue.Empty() if name == words.EMPTY else queue.Full(why)
    if name == words.SEALED:
        return InvalidError(
            f"{handle!r} was made on the broker's own machine, in clear, and what this process"
            " says is sealed: allowed is another name, for one that is sealed from the start."
        )
    return exception.named(name)(why)


def _raising(error: Exception) -> Callable[[], Any]:
    def raising() -> Any:
        raise error

    return raising


class Ephemeral(Generic[H]):
    """What `ephemeral()` returns: makes one as a `with` or `async with` begins, and removes it."""

    def __init__(self, kind: type[H]) -> None:
        """Make one of `kind`."""
        self._made = kind(f"{words.EPHEMERAL}{os.urandom(12).hex()}", creates=False)

    def __enter__(self) -> H:
        """Make it."""
        return self._make().join()

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        removal(self._made).join()

    async def __aenter__(self) -> H:
        """Make it."""
        return await self._make()

    async def __aexit__(self, *_: object) -> None:
        """Remove it."""
        await removal(self._made)

    def _make(self) -> Waiting[H]:
        made = self._made
        return made._use(  # noqa: SLF001  its own room
            lambda shelf, _: (words.Open(msgspec.structs.replace(shelf, creates=True)), []),
            lambda _body, _frames, _cover: made,
        )


def removal(handle: Handle) -> Waiting[bool]:
    """Remove what a handle names with all that it holds; the result is whether it was there."""
    return handle._use(  # noqa: SLF001  its own room
        lambda shelf, _: (words.Remove(shelf), []), lambda body, _frames, _cover: bool(body)
    )


class Objects(Generic[H]):
    """`Dict.objects` and `Queue.objects`: all of them, by name."""

    def __init__(self, kind: type[H]) -> None:
        """Look after those of `kind`."""
        self._of = kind

    @twin
    def create(
        self, /, name: str, *, allow_existing: bool = False, **cloud_only: object
    ) -> Waiting[None]:
        """Make one.

        Raises:
            InvalidError: there is one already, and `allow_existing` is not set.
        """
        cloud.check("create", cloud_only)
        handle = self._of.from_name(name, create_if_missing=True)
        return handle._use(  # noqa: SLF001  its own room
            lambda shelf, _: (words.Open(shelf, not allow_existing), []),
            lambda _body, _frames, _cover: None,
        )

    @twin
    def list(self, /, *, max_objects: int | None = None, **cloud_only: object) -> Waiting[Many[H]]:
        """Return all that have a name, by name."""
        cloud.check("list", cloud_only)
        return self._infos().then(
            lambda found: [self._of(each.name, creates=False) for each in found][:max_objects]
        )

    @twin
    def infos(self) -> Waiting[Many[Info]]:
        """Return what is known of each that has a name."""
        return self._infos()

    @twin
    def delete(
        self, /, name: str, *, allow_missing: bool = False, **cloud_only: object
    ) -> Waiting[None]:
        """Remove one, with all that it holds, for good.

        Raises:
            NotFoundError: there is none, and `allow_missing` is not set.
        """
        cloud.check("delete", cloud_only)
        handle = self._of.from_name(name)
        return removal(handle).then(lambda was_there: _removed(handle, was_there or allow_missing))

    def _infos(self) -> Waiting[Many[Info]]:
        kind = self._of._kind  # noqa: SLF001  its own room
        return self._of("all", creates=False)._use(  # noqa: SLF001  its own room
            lambda _shelf, _cover: (words.List(kind), []),
            lambda body, _frames, _cover: [_info(each) for each in body],
        )


def _removed(handle: Handle, is_well: bool) -> None:  # noqa: FBT001  what came of it
    if not is_well:
        raise NotFoundError(f"there is no {handle!r}")


class Pages(Generic[T]):
    """What `keys()`, `items()`, `iterate()` return: to be iterated with `for` or `async for`.

    It is asked for in pages: what changes meanwhile may be seen, or not. Each iteration begins
    anew.
    """

    def __init__(self, fetch: Callable[[int], Waiting[tuple[list[T], int, bool]]]) -> None:
        """Iterate what `fetch`, given a position, returns, with the next one and whether it is."""
        self._fetch = fetch

    def __iter__(self) -> Iterator[T]:
        """Yield all, blocking."""
        after, more = 0, True
        while more:
            found, after, more = self._fetch(after).join()
            yield from found

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield all."""
        after, more = 0, True
        while more:
            found, after, more = await self._fetch(after)
            for each in found:
                yield each


def checked_name(kind: str, name: object) -> str:
    """Return `name` if it can be one.

    Raises:
        InvalidError: it cannot.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidError(f"the name {name!r} of a {kind}: {ALLOWED}.")
    return name


def seconds(option: str, value: object) -> float | None:
    """Return how long to wait, None for ever.

    Raises:
        InvalidError: it is no time.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:  # noqa: PLR2004  thirty years
        raise InvalidError(f"{option}={value!r}: allowed are seconds from 0 on, or None, for ever.")
    return float(value)


def _open(shelf: Shelf, _cover: Cover) -> tuple[words.Act, list[bytes]]:
    return words.Open(shelf), []


def _info(body: Any) -> Info:
    found = msgspec.convert(body, words.ShelfInfo)
    return Info(found.name, found.created_at, found.count, found.size_bytes)


def _arrive(kind: type[H], name: str, creates: bool) -> H:  # noqa: FBT001  a pickle's
    return kind(name, creates=creates)
