"""`err.rerun_local()`: the input that failed on a worker, run again in this process.

Theory. An exception that stands for a remote input carries a `Replay`: the function that was
called, the object itself, and the encoded arguments, which are decoded anew at each replay. Where
a global that the function captured has another value by now, the one of the call is put in its
place for as long as the replay runs. So `%debug` works where it failed, in the notebook's frames.

Not guaranteed: that functions which it calls, and which were redefined since, are what they were;
that globals hold what the worker had set itself.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from kernel_worker import context
from kernel_worker.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_ext.submission import Ended, Submission


class Replay:
    """Runs one input again, here; called without arguments."""

    __slots__ = ("_end", "_index", "_name")

    def __init__(self, end: Ended, index: int, name: str) -> None:
        """Replay the input at `index`, which ended as `end` says, of the function `name`."""
        self._end = end
        self._index = index
        self._name = name

    def __call__(self) -> Any:
        """Run the same function with the same arguments, unpickled anew, in this process.

        Returns:
            What the function returns: of an `async` one a coroutine, of a generator a generator.

        Raises:
            InvalidError: function or arguments are not in this process.
            BaseException: what the function raises.
        """
        __tracebackhide__ = True
        said = self._end.said
        if said is None or said.raw is None or not self._end.inputs:
            raise self._impossible()
        args, kwargs = self._arguments(said)
        with _as_captured(said):
            return said.raw(*args, **kwargs)

    def __repr__(self) -> str:
        from notebook_ext.outcome import arguments_of  # noqa: PLC0415  for people alone

        return f"<replays {self._name}({arguments_of(self._end, self._index)}) here>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _Gone, (self._name,)

    def _arguments(self, said: Submission) -> tuple[tuple[Any, ...], dict[str, Any]]:
        from kernel_worker.wire import frames, payload  # noqa: PLC0415  only where one replays
        from notebook_ext.stored import objects_of  # noqa: PLC0415  likewise

        end = self._end
        reader = payload.BatchReader(end.inputs)
        item: Any = reader[end.position + self._index - end.index]
        args, kwargs = item if reader.header.form == frames.FORM_CALL else (item, {})
        if said.shared:
            kwargs = {**_opened(said.objects[said.shared]), **kwargs}
        return objects_of(args, kwargs)

    def _impossible(self) -> InvalidError:
        return _impossible(self._name)


def _opened(content: bytes) -> dict[str, Any]:
    """Return the arguments that all inputs of a call share, from the object that holds them."""
    from kernel_worker.store.blobs import Content  # noqa: PLC0415  only where one replays
    from kernel_worker.wire import payload  # noqa: PLC0415  likewise

    if isinstance(content, Content):
        return cast("dict[str, Any]", payload.BatchReader(content.frames)[0])
    return cast("dict[str, Any]", pickle.loads(content))


class _Gone:
    """A replay in another process than the one that made the call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self) -> NoReturn:
        raise _impossible(self._name)


def _impossible(name: str) -> InvalidError:
    return InvalidError(
        f"{name} cannot be run again here: the function, or the arguments of this call, are not in"
        f" this process (a method, a large spawned call, or one of another session). Call"
        f" {name}.local(...) with the arguments."
    )


def equip(error: BaseException, end: Ended, index: int, name: str) -> None:
    """Give an exception that stands for an input its `rerun_local`, outside of workers."""
    if context.worker_identity is None:
        with contextlib.suppress(AttributeError, TypeError):
            error.rerun_local = Replay(end, index, name)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _as_captured(said: Submission) -> Iterator[None]:
    """Let the globals that the call captured have their values of then, while this lasts."""
    changed = _changed(said)
    before = [(names, name, names.get(name, _ABSENT)) for names, name, _ in changed]
    for names, name, value in changed:
        names[name] = value
    try:
        yield
    finally:
        for names, name, value in before:
            if value is _ABSENT:
                names.pop(name, None)
            else:
                names[name] = value


_ABSENT = object()


def _changed(said: Submission) -> list[tuple[dict[str, Any], str, Any]]:
    """Return (namespace, name, value) of each captured global, where anything has changed since."""
    from kernel_worker.wire import bundle  # noqa: PLC0415  only where one replays

    package, now = said.package, said.snapshot_now
    snapshot = package.objects.get(package.snapshot)
    code = package.objects.get(package.spec.code)
    if snapshot is None or code is None or now is None:
        return []
    with contextlib.suppress(Exception):  # what cannot be read now has changed
        if now() == package.snapshot:
            return []
    namespaces = msgspec.msgpack.decode(code, type=bundle.Bundle).namespaces
    found = []
    for value in msgspec.msgpack.decode(snapshot, type=bundle.Snapshot).values:
        for place in value.places:
            if place.kind != bundle.GLOBAL:
                continue
            module = sys.modules.get(namespaces[place.owner].get("__name__", ""))
            names = getattr(said.raw, "__globals__", {})
            if module is not None and names.get("__name__") != module.__name__:
                names = vars(module)
            with contextlib.suppress(Exception):  # it refers to code of the call: as it is now
                buffers = [bytearray(buffer) for buffer in value.buffers]
                found.append((names, place.name, pickle.loads(value.data, buffers=buffers)))
    return found
