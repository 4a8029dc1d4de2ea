"""`Queue`: items go in at one end, and out at the other, from any notebook, script or worker.

What is promised. An item that was put is on the disk when `put` returns, and comes out once, in
order. `get` hands it over: when it has returned, the item is the caller's, and goes with a caller
that is killed then. One that is killed before, while it waits or while the item is on its way,
leaves it at the front of the queue. (In the millisecond in which it arrives it may be seen by him
who dies and by the next; and where a task is cancelled in the moment in which one arrives for it,
that item goes with the task: `timeout=` has no such moment.) Neither does a killed broker lose or
repeat any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from kernel_worker import shelf as words
from kernel_worker.errors import DeserializationError, InvalidError, RequestSizeError
from notebook_ext.state.covers import Cover, packed, unpacked
from notebook_ext.state.handles import Handle, Objects, Pages, seconds
from notebook_ext.twin import Waiting, class_twin, done, stream, twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from kernel_worker.shelf import Shelf

_MOST_TTL: Final = words.LONGEST_TTL_SECONDS


def _look_up(
    kind: type[Queue], /, name: str, *, create_if_missing: bool = False, **cloud_only: object
) -> Waiting[Queue]:
    """Do as `from_name`, and look that it is there.

    Raises:
        NotFoundError: there is none, and `create_if_missing` is not set.
    """
    return kind.from_name(name, create_if_missing=create_if_missing, **cloud_only).hydrate.start()


def _delete(
    kind: type[Queue], /, name: str, *, allow_missing: bool = False, **cloud_only: object
) -> Waiting[None]:
    """Remove the Queue of that name with all that it holds, for good.

    Raises:
        NotFoundError: there is none, and `allow_missing` is not set.
    """
    return kind.objects.delete.start(name, allow_missing=allow_missing, **cloud_only)


class Queue(Handle):
    """A first-in, first-out queue that notebooks, scripts and workers share.

    Items are whatever can be pickled. A queue has any number of partitions, each with an order of
    its own; without `partition` the default one is meant. Every method that waits is there as
    `.aio` too. A remote function that waits in `get` or `put` gives its worker's place up.
    """

    __slots__ = ()

    _kind: ClassVar[words.Kind] = "queue"
    objects: ClassVar[Objects[Queue]]

    lookup = class_twin(_look_up)
    delete = class_twin(_delete)

    # ---- in -----------------------------------------------------------------------------------

    @twin
    def put(
        self,
        v: Any,
        block: bool = True,  # noqa: FBT001, FBT002  as in queue.Queue
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float | None = None,
    ) -> Waiting[None]:
        """Put an item in.

        Args:
            v: the item.
            block: whether to wait where the queue is full (100,000 items in a partition, 4 GiB).
            timeout: how many seconds to wait at most; None for ever.
            partition: a name of 1 to 64 bytes.
            partition_ttl: the partition is emptied when nothing was put in for so many seconds;
                None: after a day, and the default partition never.

        Raises:
            queue.Full: it is full, and stays so.
            SerializationError: the item cannot be pickled.
            RequestSizeError: it is larger than 64 MiB.
        """
        return self._add([v], block, timeout, partition, partition_ttl)

    @twin
    def put_many(
        self,
        vs: Iterable[Any],
        block: bool = True,  # noqa: FBT001, FBT002  as in queue.Queue
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float | None = None,
    ) -> Waiting[None]:
        """Put several items in, next to each other, all or none; see `put`.

        Raises:
            RequestSizeError: they are more than 20,000, or larger than 256 MiB together.
        """
        return self._add(list(vs), block, timeout, partition, partition_ttl)

    # ---- out ----------------------------------------------------------------------------------

    @twin
    def get(
        self,
        block: bool = True,  # noqa: FBT001, FBT002  as in queue.Queue
        timeout: float | None = None,
        *,
        partition: str | None = None,
    ) -> Waiting[Any]:
        """Take the first item out and return it; who waited first gets the next one.

        Args:
            block: whether to wait where the queue is empty.
            timeout: how many seconds to wait at most; None for ever. (`asyncio.wait_for` may lose
                an item that arrives as it cancels.)
            partition: of which partition.

        Raises:
            queue.Empty: there is none, and none comes.
            DeserializationError: it cannot be unpickled here; it is out of the queue.
        """
        return self._take(1, block, timeout, partition).then(lambda found: found[0])

    @twin
    def get_many(
        self,
        n_values: int,
        block: bool = True,  # noqa: FBT001, FBT002  as in queue.Queue
        timeout: float | None = None,
        *,
        partition: str | None = None,
    ) -> Waiting[list[Any]]:
        """Take up to `n_values` items out, as many as there are; wait only for the first one.

        Where `block` is False and there is none, the list is empty.

        Raises:
            queue.Empty: none comes in `timeout` seconds.
            DeserializationError: one cannot be unpickled here; the others are its `items`.
        """
        if not _is_count(n_values):
            raise InvalidError(f"n_values={n_values!r}: allowed is an int from 1 on.")
        found = self._take(min(n_values, words.ACT_FRAMES), block, timeout, partition)
        return found if block else _empty_list(found)

    # ---- as it is -----------------------------------------------------------------------------

    @twin
    def len(self, *, partition: str | None = None, total: bool = False) -> Waiting[int]:
        """Return how many items a partition has, or (`total`) all of them."""
        if total and partition is not None:
            raise InvalidError(
                f"partition={partition!r} with total=True: allowed is one of them; leave the"
                " other out."
            )
        place = _partition(partition)
        return self._use(
            lambda shelf, cover: (words.Count(shelf, cover.partition(place), total), []),
            lambda body, _frames, _cover: int(body),
        )

    @twin
    def clear(self, *, partition: str | None = None, all: bool = False) -> Waiting[None]:  # noqa: A002  Modal's
        """Remove what a partition holds, or all of them."""
        if all and partition is not None:
            raise InvalidError(
                f"partition={partition!r} with all=True: allowed is one of them; leave the other"
                " out."
            )
        place = _partition(partition)
        return self._use(
            lambda shelf, cover: (words.Clear(shelf, cover.partition(place), all), []),
            lambda _body, _frames, _cover: None,
        )

    @stream
    def iterate(self, *, partition: str | None = None, item_poll_timeout: float = 0.0) -> Items:
        """Return the items of a partition, which stay; to be iterated with `for` or `async for`.

        Args:
            partition: which one.
            item_poll_timeout: how many seconds to wait for a further item, at the end.
        """
        patience = seconds("item_poll_timeout", item_poll_timeout)
        return Items(self, _partition(partition), patience)

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        return True

    # ---- acts ---------------------------------------------------------------------------------

    def _add(
        self,
        items: list[Any],
        block: bool,  # noqa: FBT001  the caller's
        timeout: float | None,
        partition: str | None,
        ttl: float | None,
    ) -> Waiting[None]:
        place, patience = _partition(partition), _patience(block, timeout)
        keep = _ttl(place, ttl)
        if len(items) > words.ACT_FRAMES:
            raise RequestSizeError(_too_many(f"{len(items):,} items"))
        contents = [packed(item, "item") for item in items]
        size = sum(map(len, contents))
        if size > words.ACT_BYTES and len(items) > 1:
            raise RequestSizeError(_too_many(f"{size / 2**20:,.0f} MiB"))
        if not items:
            return done(None)

        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            name = cover.partition(place)
            return words.Add(shelf, name, keep, patience), [
                cover.item(content, name) for content in contents
            ]

        return self._use(make, lambda _body, _frames, _cover: None)

    def _take(
        self,
        count: int,
        block: bool,  # noqa: FBT001  the caller's
        timeout: float | None,
        partition: str | None,
    ) -> Waiting[list[Any]]:
        place, patience = _partition(partition), _patience(block, timeout)

        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            return words.Take(shelf, cover.partition(place), count, patience), []

        def read(_body: Any, frames: list[bytes], cover: Cover) -> list[Any]:
            name = cover.partition(place)
            return _unpacked([cover.opened_item(frame, name) for frame in frames])

        return self._use(make, read)

    def _page(self, place: str, after: int) -> Waiting[tuple[list[Any], int, bool]]:
        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            return words.Page(shelf, cover.partition(place), after), []

        def read(body: Any, frames: list[bytes], cover: Cover) -> tuple[list[Any], int, bool]:
            name = cover.partition(place)
            found = [unpacked(cover.opened_item(frame, name)) for frame in frames]
            return found, body[0], body[1]

        return self._use(make, read)

    def _comes(self, place: str, after: int, patience: float | None) -> Waiting[bool]:
        """Wait for an item behind `after`; the result is whether there is one."""

        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            return words.Await(shelf, cover.partition(place), after, patience), []

        return _false_if_empty(self._use(make, lambda _body, _frames, _cover: True))


class Items(Pages[Any]):
    """The items of a partition; see `Queue.iterate`."""

    def __init__(self, queue: Queue, place: str, patience: float | None) -> None:
        """Iterate `place` of `queue`."""
        super().__init__(lambda after: queue._page(place, after))  # noqa: SLF001  this room's
        self._queue = queue
        self._place = place
        self._patience = patience
        self._is_patient = patience != 0.0

    def __iter__(self) -> Iterator[Any]:
        """Yield all, blocking."""
        after, more = 0, True
        while more:
            found, after, more = self._fetch(after).join()
            yield from found
            more = more or (self._is_patient and self._comes(after).join())

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield all."""
        after, more = 0, True
        while more:
            found, after, more = await self._fetch(after)
            for each in found:
                yield each
            more = more or (self._is_patient and await self._comes(after))

    def _comes(self, after: int) -> Waiting[bool]:
        return self._queue._comes(self._place, after, self._patience)  # noqa: SLF001  this room's


Queue.objects = Objects(Queue)


def _unpacked(frames: list[bytes]) -> list[Any]:
    """Return all items that were taken.

    Raises:
        DeserializationError: one cannot be unpickled; the others are not lost with it.
    """
    items: list[Any] = []
    failure: DeserializationError | None = None
    for frame in frames:
        try:
            items.append(unpacked(frame))
        except DeserializationError as error:
            failure = failure or error
    if failure is None:
        return items
    failure.items = items  # type: ignore[attr-defined]
    if items:
        failure.add_note(f"{len(items)} more were taken with it: they are `items` of this error")
    raise failure


def _without(waiting: Waiting[Any], instead: Any) -> Waiting[Any]:
    """Return a waiting that gives `instead` where there is nothing."""
    import queue  # noqa: PLC0415  rarely

    changed: Waiting[Any] = Waiting()

    def result() -> Any:
        try:
            return waiting.result()
        except queue.Empty:
            return instead

    changed.abandoned = waiting.abandon
    waiting.add_callback(lambda: changed.complete(result))
    return changed


def _empty_list(waiting: Waiting[list[Any]]) -> Waiting[list[Any]]:
    return _without(waiting, [])


def _false_if_empty(waiting: Waiting[bool]) -> Waiting[bool]:
    return _without(waiting, instead=False)


def _partition(name: str | None) -> str:
    if name is None:
        return ""
    if not _is_partition(name):
        raise InvalidError(
            f"partition={name!r:.90}: allowed is a str of 1 to {words.PARTITION_BYTES} bytes, or"
            " None, for the default one."
        )
    return name


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_partition(name: object) -> bool:
    try:
        return isinstance(name, str) and 0 < len(name.encode()) <= words.PARTITION_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _patience(block: bool, timeout: float | None) -> float | None:  # noqa: FBT001  the caller's
    patience = seconds("timeout", timeout)
    return patience if block else 0.0


def _ttl(place: str, ttl: float | None) -> float | None:
    if ttl is None:
        return words.PARTITION_TTL_SECONDS if place else None
    if not (_is_number(ttl) and 0 < ttl <= _MOST_TTL):
        raise InvalidError(
            f"partition_ttl={ttl!r}: allowed are more than 0 and up to {_MOST_TTL:.0f} seconds, or"
            " None."
        )
    return float(ttl)


def _too_many(what: str) -> str:
    return (
        f"{what} in one put_many; allowed are {words.ACT_FRAMES:,} items and"
        f" {words.ACT_BYTES >> 20} MiB. Put them in parts; each is all or none."
    )
