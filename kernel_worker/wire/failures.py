"""An exception on the wire: the original object with frames that show the original source.

Theory. An exception is pickled without its traceback; frames travel as plain data (file, line,
columns, function) and are made anew on the other side: code objects that claim to be the original
function, stopped at the original place, so that whatever prints a traceback finds the file's text,
be it a file or a notebook's cell. Causes, contexts and members of groups are exceptions like it:
all of them are one list, and name each other by position.

Guarantees: the original class (the notebook's own, where it defined it), args, attributes, notes,
`__cause__`, `__context__`, `__suppress_context__`, members; no frames of ours. What cannot be
rebuilt is an `ExecutionError` with type, message, traceback text and the reason; both functions
answer any input without raising.
Not guaranteed: local variables of frames; attributes that cannot be pickled (a note names them).
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import linecache
import pickle
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from kernel_worker.errors import OUR_FILES, Error, ExecutionError
from kernel_worker.wire import byvalue, culprit

if TYPE_CHECKING:
    from collections.abc import Iterator

_MACHINERY = (f"{Path(contextlib.__file__).parent / 'asyncio'}/",)
"""Where the frames between ours and the user's lie."""
_MAX_EXCEPTIONS = 64
_MAX_FRAMES = 60
_NONE = -1
_NO_MEMBER = Exception("no member yet")


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One frame of a traceback."""

    file: str
    line: int
    first_line: int
    name: str
    """The qualified name of the function."""
    text: str = ""
    """The line, for a file that the other side does not have."""
    columns: tuple[int, int, int] = (_NONE, _NONE, _NONE)
    """Last line, first column, last column of the expression."""


class Described(msgspec.Struct, frozen=True, array_like=True):
    """One exception; others are named by their position in the list, -1 for none."""

    kind: str
    message: str
    frames: tuple[Frame, ...] = ()
    notes: tuple[str, ...] = ()
    whole: bytes = b""
    """A pickle of the exception as its class says; empty where that fails."""
    parts: bytes = b""
    """A pickle of `(class, args, attributes)`; empty where that fails."""
    why: str = ""
    """Why there is no pickle."""
    cause: int = _NONE
    context: int = _NONE
    suppress_context: bool = False
    members: tuple[int, ...] = ()


_decoder = msgspec.msgpack.Decoder(list[Described])
_shown_as: dict[str, str] = {}


def show_as(file: str, name: str) -> None:
    """Let frames of `file` carry `name`: the caller's present name of an equal cell."""
    if file == name:
        _shown_as.pop(file, None)
    else:
        _shown_as[file] = name


# ---- where it was raised --------------------------------------------------------------------


def capture(exc: BaseException, called: object = None) -> bytes:
    """Return the frame that describes `exc`, its traceback and what it is linked to.

    Args:
        exc: what was raised.
        called: the user's function whose call raised it; where that has no frame, since the
            arguments do not fit, its definition stands for one.
    """
    linked = _linked(exc)
    positions = {id(found): position for position, found in enumerate(linked)}
    described = [_describe(found, positions) for found in linked]
    if not described[0].frames and not isinstance(exc, Error):
        described[0] = msgspec.structs.replace(described[0], frames=_definition(called))
    return msgspec.msgpack.encode(described)


def packed_traceback(traceback: types.TracebackType) -> bytes:
    """Return a traceback that is itself a value, as `sys.exc_info()[2]`, as plain data."""
    return msgspec.msgpack.encode(_frames(traceback))


def unpacked_traceback(packed: bytes) -> types.TracebackType | None:
    """Return the traceback with frames made anew; None where all its frames were ours."""
    return _traceback(tuple(msgspec.msgpack.decode(packed, type=list[Frame])))


def _linked(exc: BaseException) -> list[BaseException]:
    """Return `exc` and all exceptions that it leads to, each once."""
    found = [exc]
    seen = {id(exc)}
    for current in found:
        links = [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            links += current.exceptions
        for link in links:
            if link is not None and id(link) not in seen and len(found) < _MAX_EXCEPTIONS:
                seen.add(id(link))
                found.append(link)
    return found


def _describe(exc: BaseException, positions: dict[int, int]) -> Described:
    members: tuple[int, ...] = ()
    whole, why = b"", ""
    if isinstance(exc, BaseExceptionGroup):
        members = tuple(positions[id(e)] for e in exc.exceptions if id(e) in positions)
    else:
        with contextlib.suppress(Exception):
            whole = byvalue.dumps(exc)
    notes = [str(note) for note in getattr(exc, "__notes__", ())]
    try:
        parts, left_out = _parts(exc)
        notes += left_out
    except Exception as error:  # noqa: BLE001  the class itself cannot travel
        parts, why = b"", f"{type(error).__name__}: {error}"
    return Described(
        kind=f"{type(exc).__module__}.{type(exc).__qualname__}",
        message=_text(exc),
        frames=tuple(_frames(exc.__traceback__)),
        notes=tuple(notes),
        whole=whole,
        parts=parts,
        why=why,
        cause=positions.get(id(exc.__cause__), _NONE),
        context=positions.get(id(exc.__context__), _NONE),
        suppress_context=exc.__suppress_context__,
        members=members,
    )


def _parts(exc: BaseException) -> tuple[bytes, list[str]]:
    """Return the pickle of class, args and attributes, and notes on what was left out."""
    args = exc.args[:1] if isinstance(exc, BaseExceptionGroup) else exc.args
    state = {name: value for name, value in vars(exc).items() if name != "__notes__"}
    with contextlib.suppress(Exception):
        return byvalue.dumps((type(exc), args, state)), []
    left_out: list[str] = []
    kept = tuple(
        arg if _can(arg) else _left_out(f"args[{index}]", arg, left_out)
        for index, arg in enumerate(args)
    )
    attributes = {
        name: value if _can(value) else _left_out(name, value, left_out)
        for name, value in state.items()
    }
    return byvalue.dumps((type(exc), kept, attributes)), left_out


def _can(value: object) -> bool:
    try:
        byvalue.dumps(value)
    except Exception:  # noqa: BLE001  users' code may raise anything
        return False
    return True


def _left_out(name: str, value: object, notes: list[str]) -> str:
    path = culprit.find(value, name, byvalue.dumps)
    notes.append(f"[{path} cannot be pickled: {name} is its text]")
    return _text(value, repr)


def _text(value: object, form: Any = str) -> str:
    try:
        return str(form(value))
    except Exception as error:  # noqa: BLE001  users' code may raise anything
        return f"<no text: {type(error).__name__}>"


def _frames(traceback: types.TracebackType | None) -> list[Frame]:
    steps = list(_steps(traceback))
    if len(steps) > _MAX_FRAMES:  # runaway recursion: its ends
        half = _MAX_FRAMES // 2
        steps = steps[:half] + steps[-half:]
    return [_frame(step) for step in steps]


def _steps(traceback: types.TracebackType | None) -> Iterator[types.TracebackType]:
    """Yield the steps of a traceback that are not ours, nor the loop's between us and the user."""
    below_ours = False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.startswith(OUR_FILES):
            below_ours = True
        elif not (below_ours and file.startswith(_MACHINERY)):
            below_ours = False
            yield traceback
        traceback = traceback.tb_next


def _definition(called: object) -> tuple[Frame, ...]:
    code = getattr(called, "__code__", None)
    if not isinstance(code, types.CodeType):
        return ()
    file, line = code.co_filename, code.co_firstlineno
    text = linecache.getline(file, line).rstrip()
    return (Frame(_shown_as.get(file, file), line, line, code.co_qualname, text),)


def _frame(step: types.TracebackType) -> Frame:
    code = step.tb_frame.f_code
    file = _shown_as.get(code.co_filename, code.co_filename)
    place = next(itertools.islice(code.co_positions(), step.tb_lasti // 2, None), (None,) * 4)
    line, *columns = place
    known = line == step.tb_lineno and None not in columns
    return Frame(
        file=file,
        line=step.tb_lineno,
        first_line=code.co_firstlineno,
        name=code.co_qualname,
        text=linecache.getline(code.co_filename, step.tb_lineno, step.tb_frame.f_globals).rstrip(),
        columns=(columns[0] or 0, columns[1] or 0, columns[2] or 0) if known else (_NONE,) * 3,
    )


# ---- where it is raised again ---------------------------------------------------------------


def summary(frame: bytes | bytearray | memoryview) -> str:
    """Return `Type: message` of the exception that `frame` describes; nothing is unpickled."""
    try:
        first = _decoder.decode(frame)[0]
    except (msgspec.DecodeError, IndexError):
        return "an exception that cannot be read"
    name = first.kind.rpartition(".")[2]
    return f"{name}: {first.message}" if first.message else name


def rebuild(frame: bytes | bytearray | memoryview, note: str = "") -> BaseException:
    """Return the exception that `frame` describes, ready to be raised.

    Args:
        frame: what `capture` returned.
        note: a line to add to the exception's notes; empty for none.
    """
    try:
        described = _decoder.decode(frame)
        built = [_build(one) for one in described]
        for position in range(len(built)):
            _fill_group(position, described, built)
        for exc, one in zip(built, described, strict=True):
            _dress(exc, one, built)
        top = built[0]
    except Exception as error:  # noqa: BLE001  bytes of another process
        top = ExecutionError(f"a remote exception that cannot be read here: {error!r}")
    if note:
        top.add_note(note)
    return top


def _build(described: Described) -> BaseException:
    """Return the exception without its links and frames."""
    why = described.why
    try:
        if described.parts:
            kind, args, state = pickle.loads(described.parts)
            whole = _whole(described.whole, kind, args)
            return _assembled(kind, args, state) if whole is None else whole
    except Exception as error:  # noqa: BLE001  users' classes may raise anything
        why = f"{type(error).__name__}: {error}"
    text = "\n".join(_lines(described))
    return ExecutionError(
        f"{described.kind}: {described.message}\n"
        f"(the exception itself cannot be had here: {why})\n{text}"
    )


def _whole(pickled: bytes, kind: type, args: tuple[Any, ...]) -> BaseException | None:
    """Return the exception as its class rebuilds it, if that gives the same one.

    A class whose `__init__` makes the message out of other arguments gives another, or fails.
    """
    with contextlib.suppress(Exception):
        found = pickle.loads(pickled)
        if type(found) is kind and isinstance(found, BaseException) and _equal(found.args, args):
            return found
    return None


def _equal(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return len(first) == len(second) and all(
        type(one) is type(other) and _text(one, repr) == _text(other, repr)
        for one, other in zip(first, second, strict=True)
    )


def _assembled(kind: Any, args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Return an exception of `kind` without calling its `__init__`."""
    exc: BaseException
    if issubclass(kind, BaseExceptionGroup):
        exc = kind.__new__(kind, args[0], [_NO_MEMBER])
    else:
        exc = kind.__new__(kind, *args)
        exc.args = args
    vars(exc).update(state)
    return exc


def _fill_group(position: int, described: list[Described], built: list[BaseException]) -> None:
    """Replace a group that has no members yet by one that has, its inner groups first."""
    shell, one = built[position], described[position]
    if not isinstance(shell, BaseExceptionGroup) or shell.exceptions != (_NO_MEMBER,):
        return
    for member in one.members:
        _fill_group(member, described, built)
    kind = type(shell)
    group = kind.__new__(kind, shell.message, [built[member] for member in one.members])
    vars(group).update(vars(shell))
    built[position] = group


def _dress(exc: BaseException, described: Described, built: list[BaseException]) -> None:
    exc.__cause__ = _at(built, described.cause)
    exc.__context__ = _at(built, described.context)
    exc.__suppress_context__ = described.suppress_context
    if described.notes:
        exc.__notes__ = list(described.notes)
    exc.__traceback__ = _traceback(described.frames)


def _at(built: list[BaseException], position: int) -> BaseException | None:
    return built[position] if position != _NONE else None


def _lines(described: Described) -> Iterator[str]:
    yield "Remote traceback:"
    for frame in described.frames:
        yield f'  File "{frame.file}", line {frame.line}, in {frame.name}'
        if frame.text:
            yield f"    {frame.text.strip()}"


def _traceback(frames: tuple[Frame, ...]) -> types.TracebackType | None:
    found: types.TracebackType | None = None
    for frame in reversed(frames):
        if frame.text and not linecache.getline(frame.file, frame.line):
            _remember(frame)
        made = _stopped(frame)
        found = types.TracebackType(found, made.tb_frame, made.tb_lasti, frame.line)
    return found


def _remember(frame: Frame) -> None:
    """Let the source of a file that only the other side has show at least its known lines."""
    size, mtime, lines, name = linecache.cache.get(frame.file, (0, None, [], frame.file))[:4]  # type: ignore[misc]
    lines = [*lines, *["\n"] * (frame.line - len(lines))]
    lines[frame.line - 1] = f"{frame.text}\n"
    linecache.cache[frame.file] = (size, mtime, lines, name)


def _stopped(frame: Frame) -> types.TracebackType:
    """Return a traceback with a real frame that claims to have stopped at this place."""
    first = max(frame.first_line, 1)
    code = compile("raise __stop__", frame.file, "exec")
    code = code.replace(
        co_name=frame.name.rpartition(".")[2],
        co_qualname=frame.name,
        co_firstlineno=first,
        co_linetable=_location_table(len(code.co_code) // 2, first, frame),
    )
    scope = {"__name__": frame.name, "__file__": frame.file, "__builtins__": builtins}
    stop = _Stop()
    with contextlib.suppress(_Stop):
        exec(code, {**scope, "__stop__": stop})  # noqa: S102  our own two instructions
    here = cast("types.TracebackType", stop.__traceback__)
    return cast("types.TracebackType", here.tb_next)


class _Stop(Exception):  # noqa: N818  never seen by anybody
    """What makes a frame."""


_LONG_ENTRY = 0x80 | 14 << 3
_NO_COLUMNS_ENTRY = 0x80 | 13 << 3
_ENTRY_UNITS = 8


def _location_table(units: int, first: int, frame: Frame) -> bytes:
    """Return a table that places every instruction at the frame's line and columns.

    Format: CPython 3.11 and later, `Objects/locations.md` (PEP 657).
    """
    last_line, start, end = frame.columns
    out, delta = bytearray(), frame.line - first
    while units > 0:
        count = min(units, _ENTRY_UNITS)
        step = _varint((-delta << 1) | 1 if delta < 0 else delta << 1)
        if last_line >= frame.line and start >= 0 and end >= 0:
            out.append(_LONG_ENTRY | (count - 1))
            out += step + _varint(last_line - frame.line) + _varint(start + 1) + _varint(end + 1)
        else:
            out.append(_NO_COLUMNS_ENTRY | (count - 1))
            out += step
        units, delta = units - count, 0
    return bytes(out)


def _varint(number: int) -> bytes:
    out = bytearray()
    more = 64
    while number >= more:
        out.append(more | (number & (more - 1)))
        number >>= 6
    out.append(number)
    return bytes(out)
