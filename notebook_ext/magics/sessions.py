"""Sessions of `%%remote_run --session NAME`: a worker each, which keeps the names of its cells.

Theory. A session is a pool of one worker. What its cells assign stays there, whether or not it
comes back too. A name that a cell reads is sent where the notebook has something else under it than
the session was sent, or gave, last: another object, or the same one changed in place. So what lives
in the session is overwritten by what the notebook assigns or changes, and by nothing else.

Guarantees: no cell runs where the names of earlier ones are gone; the one that would have is told
so, and the next begins with nothing. A session outlives changes of the environment.
"""

from __future__ import annotations

from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from kernel_worker.errors import InternalFailure, SerializationError
from kernel_worker.model import FunctionKey
from kernel_worker.wire.cell import SessionCell
from notebook_ext import options as decorator_options
from notebook_ext.app import App
from notebook_ext.function import Function, scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from notebook_ext.capture import Captured, Capturer
    from notebook_ext.capture.watch import Fingerprint
    from notebook_ext.magics.options import Grammar
    from notebook_ext.magics.run_options import RunLine
    from notebook_ext.magics.running import RunningCell
    from notebook_ext.package import Version

_FILE: Final = str(Path(__file__).with_name("a session"))
"""One of ours: tracebacks leave it out."""
_MISSING: Final = object()
_app = App()
_sessions: dict[str, Session] = {}


def names() -> list[str]:
    """Return the names of the sessions of this notebook."""
    return sorted(_sessions)


def of(wanted: RunLine, grammar: Grammar) -> Session:
    """Return the session that a line names, made where it is new or to begin anew.

    Raises:
        UsageError: it has other options.
    """
    name = wanted.session
    assert name is not None  # noqa: S101  asked for by its callers
    found = _sessions.get(name)
    if found is None or wanted.restart:
        _sessions[name] = Session(name, wanted.given, number=0 if found is None else found.number)
        return _sessions[name]
    if wanted.given and wanted.given != found.given:
        raise grammar.error(
            f"session {name!r} was begun with {_spelled(found.given)}; leave the options out, or "
            "give --restart to begin it anew"
        )
    return found


def described(name: str) -> str:
    """Return how a session was begun, and what it keeps, in a line."""
    return _sessions[name].described()


def end(name: str) -> None:
    """Let the worker of a session go."""
    _sessions.pop(name).end()


def _spelled(given: Mapping[str, Any]) -> str:
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(words) or "no options"


class Session:
    """One session; used by one cell at a time."""

    _begins: bool
    """No cell has run in it yet."""
    _owned: dict[str, object]
    """What the notebook had under each name that the session has, when it last got it."""
    _tokens: dict[str, tuple[Capturer, Captured]]
    """How those names read that the notebook has sent …"""
    _came: dict[str, Fingerprint]
    """… and what those looked like that the session has given, where they can change in place."""
    _function: SessionFunction

    def __init__(self, name: str, given: Mapping[str, Any], number: int) -> None:
        """Start nothing: the first cell does."""
        self.name = name
        self.given = dict(given)
        self.number = number
        """How many workers it has had."""
        self._begin()

    def run(
        self, typed: RunningCell, wanted: RunLine, sent: Sequence[str], back: tuple[str, ...]
    ) -> Any:
        """Run a cell in the session; as `RunningCell.started`."""
        __tracebackhide__ = True
        before = dict(typed.namespace)
        kept = [name for name in self._owned if self._has(name, typed)]
        going = [name for name in sent if name not in kept]
        changed = [name for name in self._owned if name in before and name not in (*kept, *going)]
        try:
            captured = self._capture(typed, [*going, *changed])
            going += changed
        except SerializationError:  # nobody reads what has changed, or this says what cannot go
            captured = self._capture(typed, going)
        call = SessionCell(
            self.name,
            self._begins,
            captured.objects[captured.code],
            captured.objects[captured.snapshot],
            tuple(kept),
            typed.cell(wanted, back),
        )
        self._function.take(captured)
        self._begins = False
        for name in going:
            self._owned[name] = before[name]
        try:
            value = typed.called(self._function, wanted, call)
        except InternalFailure as error:
            lost = ", ".join(sorted(self._owned)) or "nothing"
            error.add_note(
                f"Session {self.name!r} has lost its worker, and with it {lost}. Its next cell "
                "begins with an empty namespace."
            )
            self._begin()
            raise
        except BaseException:
            self._note(typed, before, failed=True)
            raise
        self._note(typed, before, failed=False)
        return value

    def described(self) -> str:
        """Return its options and the names that it keeps."""
        return f"{_spelled(self.given)}; keeps {', '.join(sorted(self._owned)) or 'nothing'}"

    def end(self) -> None:
        """Let its worker go, once it is idle."""
        if not self._begins:
            self._function.update_autoscaler(min_containers=0, scaledown_window=0.1)

    def _begin(self) -> None:
        self.number += 1
        self._begins = True
        self._owned = {}
        self._tokens = {}
        self._came = {}
        self._function = SessionFunction(self.name, self.number, self.given)

    def _has(self, name: str, typed: RunningCell) -> bool:
        """Whether the session has what the notebook means by `name`."""
        value = typed.namespace.get(name, _MISSING)
        if self._owned.get(name, _MISSING) is not value:
            self._tokens.pop(name, None)
            self._came.pop(name, None)
            return False
        known = self._tokens.get(name)
        if known is None:  # given by the session: here it is a copy
            came, seen = self._came.get(name), _fingerprint(value)
            return came is None or seen is None or seen == came
        now = known[0].read()
        return now.version == known[1].version and now.snapshot == known[1].snapshot

    def _capture(self, typed: RunningCell, going: Sequence[str]) -> Captured:
        from notebook_ext.capture import Capturer  # noqa: PLC0415  cloudpickle: 20 ms

        captured = Capturer(typed.reader(going)).read()
        for name in going:
            capturer = Capturer(typed.reader([name], alone=True))
            self._tokens[name] = (capturer, capturer.read())
            self._came.pop(name, None)
        return captured

    def _note(self, typed: RunningCell, before: Mapping[str, object], *, failed: bool) -> None:
        """Remember what the session has by now, and what the notebook has beside it."""
        for name in typed.names.coming_back:
            value = typed.namespace.get(name, _MISSING)
            if not failed or value is not before.get(name, _MISSING) or value is _MISSING:
                self._owned[name] = value
                self._tokens.pop(name, None)
                self._came.pop(name, None)
                seen = _fingerprint(value)
                if seen is not None:
                    self._came[name] = seen
        for name in typed.names.deleted:
            if name not in typed.names.assigned:
                self._owned.pop(name, None)


def _fingerprint(value: object) -> Fingerprint | None:
    """Return what differs once `value` was changed in place; None where that is not to be seen.

    What has become unlike anything that pickle takes (the notebook has its class anew) counts as it
    was: the session's own is newer than the copy here.
    """
    from notebook_ext.capture import picklers, watch  # noqa: PLC0415  cloudpickle: 20 ms

    seen = None if watch.is_immutable(value) else watch.fingerprint(value)
    if seen is None:
        return None
    data, buffers = seen
    return picklers.digest(memoryview(data)), buffers


class SessionFunction(Function[..., Any]):
    """What the cells of a session are called by: one pool, whatever a cell brings along."""

    is_cell = True

    def __init__(self, name: str, number: int, given: Mapping[str, Any]) -> None:
        """Make one that no worker has been started for."""
        defaults = {
            "min_containers": 1,
            "max_containers": 1,
            "rerun_on_crash": False,
            "timeout": 30 * 86_400.0,
        }
        options = decorator_options.parse({**defaults, **given})
        super().__init__(_raw(name, number), _app, options)
        self._key = FunctionKey(f"{scope()}/-/%%session {name}")
        self._fixed: Version | None = None
        self._brought: Captured | None = None

    def take(self, captured: Captured) -> None:
        """Let the next call bring what was captured."""
        self._brought = captured

    def read(self) -> Version:
        """Return the version that its worker was started for, with what the next call brings."""
        if self._fixed is None:
            self._fixed = super().read()
        brought = self._brought
        if brought is None:
            return self._fixed
        return self._fixed._replace(
            objects={**self._fixed.objects, **brought.stored},
            references=brought.references,
            requires=tuple(brought.stored),
        )


def _raw(name: str, number: int) -> FunctionType:
    """Return a function whose code no other session has."""
    source = (
        "def session(call):\n"
        "    from kernel_worker.worker.cell_session import run\n"
        f"    return run(call) if {number} else None\n"
    )
    code = compile(source, _FILE, "exec", dont_inherit=True).co_consts[0]
    made = FunctionType(code, {"__name__": "notebook_ext.session"}, f"session {name}")
    made.__qualname__ = f"session {name}"
    made.__module__ = "notebook_ext.session of a worker"
    return made
