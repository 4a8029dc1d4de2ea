"""`Dict`: a dict that notebooks, scripts and workers share; the broker keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kernel_worker import shelf as words
from kernel_worker.errors import RequestSizeError
from notebook_ext.state import keys as key_encoding
from notebook_ext.state.covers import Cover, packed, unpacked
from notebook_ext.state.handles import Handle, Objects, Pages
from notebook_ext.twin import Waiting, class_twin, stream, twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kernel_worker.shelf import Shelf

_NONE: Final = object()


def _look_up(
    kind: type[Dict], /, name: str, *, create_if_missing: bool = False, **cloud_only: object
) -> Waiting[Dict]:
    """Do as `from_name`, and look that it is there.

    Raises:
        NotFoundError: there is none, and `create_if_missing` is not set.
    """
    return kind.from_name(name, create_if_missing=create_if_missing, **cloud_only).hydrate.start()


def _delete(
    kind: type[Dict], /, name: str, *, allow_missing: bool = False, **cloud_only: object
) -> Waiting[None]:
    """Remove the Dict of that name with all that it holds, for good.

    Raises:
        NotFoundError: there is none, and `allow_missing` is not set.
    """
    return kind.objects.delete.start(name, allow_missing=allow_missing, **cloud_only)


class Dict(Handle):
    """A dict that notebooks, scripts and workers share.

    Keys are hashable objects, values whatever can be pickled (a value is what it was when it was
    put: to change it, put it again). What is put is on the disk when `put` returns, and stays until
    it is removed. Every method that waits is there as `.aio` too.
    """

    __slots__ = ()

    _kind: ClassVar[words.Kind] = "dict"
    objects: ClassVar[Objects[Dict]]

    lookup = class_twin(_look_up)
    delete = class_twin(_delete)

    # ---- one entry ----------------------------------------------------------------------------

    @twin
    def get(self, key: Any, default: Any = None) -> Waiting[Any]:
        """Return the value of `key`, or `default`."""
        return self._get(key, default)

    @twin
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> Waiting[bool]:
        """Set the value of `key`; with `skip_if_exists` only where it has none.

        Of several who do that at the same time with `skip_if_exists`, exactly one is told True.

        Returns:
            Whether it was set.

        Raises:
            TypeError: the key is not hashable.
            SerializationError: the value cannot be pickled.
            RequestSizeError: it is larger than 64 MiB, or the Dict is full.
        """
        added = self._put([(key, value)], only_new=skip_if_exists)
        return added.then(lambda count: count == 1 or not skip_if_exists)

    @twin
    def pop(self, key: Any, default: Any = _NONE) -> Waiting[Any]:
        """Remove `key` and return its value; of several who do that, one gets it.

        Raises:
            KeyError: it is not there, and no `default` is given.
        """
        return self._get(key, default, pops=True)

    @twin
    def contains(self, key: Any) -> Waiting[bool]:
        """Return whether `key` is there."""
        encoding = key_encoding.encoded(key)
        return self._use(
            lambda shelf, cover: (words.Has(shelf, cover.token(encoding)), []),
            lambda body, _frames, _cover: bool(body),
        )

    def __getitem__(self, key: Any) -> Any:
        return self._get(key, _NONE).join()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._put([(key, value)]).join()

    def __delitem__(self, key: Any) -> None:
        self._get(key, _NONE, pops=True).join()

    def __contains__(self, key: Any) -> bool:
        return self.contains(key)

    # ---- all of them --------------------------------------------------------------------------

    @twin
    def update(
        self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (), /, **named: Any
    ) -> Waiting[None]:
        """Set several entries, all or none.

        Raises:
            RequestSizeError: they are more than 10,000, or larger than 256 MiB together.
        """
        pairs: Any = other
        if isinstance(other, Mapping | Dict):
            pairs = other.items()
        elif hasattr(pairs, "keys"):
            pairs = [(key, pairs[key]) for key in pairs.keys()]  # noqa: SIM118  as dict.update does
        return self._put([*pairs, *named.items()]).then(lambda _: None)

    @twin
    def len(self) -> Waiting[int]:
        """Return how many entries there are."""
        return self._use(
            lambda shelf, _cover: (words.Count(shelf), []), lambda body, _frames, _cover: int(body)
        )

    @twin
    def clear(self) -> Waiting[None]:
        """Remove all entries."""
        return self._use(
            lambda shelf, _cover: (words.Clear(shelf), []), lambda _body, _frames, _cover: None
        )

    @stream
    def keys(self) -> Pages[Any]:
        """Return the keys, in the order in which they were first put."""
        return Pages(lambda after: self._page(after, lambda key, _: key, values=False))

    @stream
    def values(self) -> Pages[Any]:
        """Return the values, in the order of the keys."""
        return Pages(lambda after: self._page(after, lambda _, value: value))

    @stream
    def items(self) -> Pages[tuple[Any, Any]]:
        """Return the keys with their values."""
        return Pages(lambda after: self._page(after, lambda key, value: (key, value)))

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    # ---- acts ---------------------------------------------------------------------------------

    def _get(self, key: Any, default: Any, *, pops: bool = False) -> Waiting[Any]:
        encoding = key_encoding.encoded(key)
        act = words.Pop if pops else words.Get

        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            return act(shelf, cover.token(encoding)), []

        def read(body: Any, frames: list[bytes], cover: Cover) -> Any:
            if body:
                return unpacked(cover.opened_value(frames[0], cover.token(encoding)))
            if default is _NONE:
                raise KeyError(key)
            return default

        return self._use(make, read)

    def _put(self, pairs: list[tuple[Any, Any]], *, only_new: bool = False) -> Waiting[int]:
        if 2 * len(pairs) > words.ACT_FRAMES:
            raise RequestSizeError(_too_many(f"{len(pairs):,} entries"))
        entries = []
        size = 0
        for key, value in pairs:
            encoding = key_encoding.encoded(key)
            name = packed(key, "key", words.KEY_BYTES)
            content = packed(value, f"value of {key!r:.50}")
            size += len(name) + len(content)
            entries.append((encoding, name, content))
        if size > words.ACT_BYTES and len(pairs) > 1:
            raise RequestSizeError(_too_many(f"{size / 2**20:,.0f} MiB"))

        def make(shelf: Shelf, cover: Cover) -> tuple[words.Act, list[bytes]]:
            tokens = tuple(cover.token(encoding) for encoding, _, _ in entries)
            frames: list[bytes] = []
            for token, (_, name, content) in zip(tokens, entries, strict=True):
                frames += (cover.key(name), cover.value(content, token))
            return words.Put(shelf, tokens, only_new), frames

        return self._use(make, lambda body, _frames, _cover: int(body))

    def _page(
        self, after: int, shown: Any, *, values: bool = True
    ) -> Waiting[tuple[list[Any], int, bool]]:
        def make(shelf: Shelf, _cover: Cover) -> tuple[words.Act, list[bytes]]:
            return words.Page(shelf, after=after, keys=True, values=values), []

        def read(body: Any, frames: list[bytes], cover: Cover) -> tuple[list[Any], int, bool]:
            found = []
            step = 2 if values else 1
            for at in range(0, len(frames), step):
                key = unpacked(cover.opened_key(frames[at]))
                value = None
                if values:
                    token = cover.token(key_encoding.encoded(key)) if cover.is_sealed else b""
                    value = unpacked(cover.opened_value(frames[at + 1], token))
                found.append(shown(key, value))
            return found, body[0], body[1]

        return self._use(make, read)


Dict.objects = Objects(Dict)


def _too_many(what: str) -> str:
    return (
        f"{what} in one update; allowed are {words.ACT_FRAMES // 2:,} entries and"
        f" {words.ACT_BYTES >> 20} MiB. Update in parts; each is all or none."
    )
