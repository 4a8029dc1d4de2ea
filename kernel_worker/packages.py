"""The versions of what a function imports: where it was captured, and where it is to run.

Theory. On one machine the notebook and its workers have one interpreter, and so the same packages.
On another one they may differ, and what that does is seen late and badly: in the middle of a map,
as an attribute that is not there, or a pickle that cannot be read. So the code of a function says
what it was captured with (`captured`), and a template on another machine, which has imported all
that by then, looks what is there (`check`), before any input runs. Nothing is looked at where the
interpreter is the caller's own, nor in an `Image`, whose packages were chosen.

A version is the module's own `__version__`, or what its installer has recorded under that name; of
a package that says neither nothing is compared but that it is there. What counts, and why:

    a package that is not there   refused, where the function is bound to need it: it is a global,
                                  or imported in a statement that no branch or `try` can pass by
    the first number differs      refused: by that number a package says that what was written for
                                  the one need not run with the other, and pickles of numpy 2 or
                                  pandas 3 are no pickles of the ones before. From 20 on it is a
                                  year or counts releases (attrs 25, pyarrow 24) and says no such
                                  thing: as the next
    the second number differs     a warning: functions, and objects that are pickled (estimators of
                                  scikit-learn, frames), mostly fit, and no rule says which do not
    the rest, and what is behind  nothing: mends, and how it was built (`2.13.0+cpu`)
    `+`

A host that refuses is not asked again while another one might do (`core.pools`), and `NOWHERE` is
said where none does.

cloudpickle is compared as if every function imported it: code travels as its pickles.

Guarantees: `check` imports nothing. Not guaranteed: that versions which fit do the same.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

from kernel_worker.errors import VersionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Versions = tuple[tuple[str, str], ...]
"""Names of modules at the top, and the versions of their packages; empty: not known."""

NOWHERE: Final = "no host has what it needs: "
"""What is said of a function that every host refused begins with this; what each has follows."""
ALWAYS: Final = ("cloudpickle",)
_FIRST_YEAR: Final = 20
"""A first number from here on counts years or releases."""
_NUMBER: Final = re.compile(r"[0-9]+")


def top_of(module: str) -> str:
    """Return `sklearn` for `sklearn.svm`."""
    return module.partition(".")[0]


def captured(modules: Iterable[str]) -> Versions:
    """Return what a function is captured with that needs these installed modules, sorted."""
    names = sorted({*map(top_of, modules), *ALWAYS})
    return tuple((name, version_of(name)) for name in names)


def version_of(name: str) -> str:
    """Return the version of the package of a module at the top; empty where nobody says it."""
    module = sys.modules.get(name)
    # Not by `getattr`: some packages warn whoever asks.
    said = vars(module).get("__version__") if module is not None else None
    if isinstance(said, str):
        return said
    from importlib import metadata  # noqa: PLC0415  only where a module does not say it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check(function: str, host: str, versions: Versions, needs: Sequence[str]) -> list[str]:
    """Compare what a function was captured with, with what is here.

    Args:
        function: its name, for people.
        host: what this machine is called.
        versions: as `captured` returned them there.
        needs: modules at the top that it cannot do without.

    Returns:
        A line for each difference that may matter.

    Raises:
        VersionError: something is missing, or of another major version.
    """
    wanted = dict(versions)
    missing = [name for name in needs if name in wanted and not _is_here(name)]
    if missing:
        raise _missing(function, host, missing[0], wanted[missing[0]])
    warnings = []
    for name, there in versions:
        here = version_of(name) if there else ""
        how = _difference(there, here) if here else ""
        if how == "major":
            text = (
                f"{function} was captured with {name} {there}, but {host} has {name} {here}; "
                f"{_remedy(host, name, there)}"
            )
            raise _refusal(text, f"{host} has {name} {here}")
        if how:
            warnings.append(
                f"{function}: {host} has {name} {here}, the notebook {there}; where results "
                f"differ or objects cannot be unpickled, this may be why\n"
            )
    return warnings


def missing(
    function: str, host: str, versions: Versions, error: ImportError
) -> VersionError | None:
    """Return what to raise for a module that an import did not find; None: it is none of these."""
    name = top_of(error.name or "")
    there = dict(versions).get(name)
    return None if there is None else _missing(function, host, name, there)


def _missing(function: str, host: str, name: str, there: str) -> VersionError:
    what, lack = f"{name} {there}".rstrip(), f"{host} has no {name}"
    return _refusal(f"{function} needs {what}, and {lack}; {_remedy(host, name, there)}", lack)


def _refusal(text: str, lack: str) -> VersionError:
    error = VersionError(text)
    error.lack = lack
    return error


def _remedy(host: str, name: str, version: str) -> str:
    pinned = f"{name}=={version.partition('+')[0]}" if version else name
    return (
        f"install it there ({sys.executable} on {host}), or let the function have an environment "
        f"of its own: image=nb.Image.debian_slim().pip_install({pinned!r}). A host that is started "
        "with NOTEBOOK_EXT_CHECK_PACKAGES=false does not compare"
    )


def _is_here(name: str) -> bool:
    if name in sys.modules:
        return True
    from importlib.util import find_spec  # noqa: PLC0415  only where it was not imported

    return find_spec(name) is not None


def _difference(one: str, other: str) -> str:
    """Return `major`, `minor`, or nothing: how far apart two versions are."""
    first, second = _release(one), _release(other)
    if not first or not second:
        return ""
    if first[0] != second[0]:
        return "major" if max(first[0], second[0]) < _FIRST_YEAR else "minor"
    return "minor" if first[1] != second[1] else ""


def _release(version: str) -> tuple[int, ...]:
    """Return the first two numbers, of `2.13.0rc1+cpu` 2 and 13; nothing where there are none."""
    found = [int(part) for part in _NUMBER.findall(version.partition("+")[0])]
    return (*found, 0)[:2] if found else ()
