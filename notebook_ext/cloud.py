"""Parameters that mean something on a cloud only: accepted, and said once to mean nothing here."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from kernel_worker.errors import InvalidError
from notebook_ext import process
from notebook_ext.config import config, current

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("region", "cloud", "client", "namespace")
PROFILE = "environment_name"
_warned: set[str] = set()


def check(what: str, given: Mapping[str, object]) -> None:
    """Take what was given to `what` in these names; `environment_name` selects the profile.

    Raises:
        InvalidError: another name, or a profile that cannot be had any more.
    """
    for name, value in given.items():
        if name == PROFILE:
            select_profile(value)
        elif name in NAMES:
            warn_once(name, value)
        else:
            raise InvalidError(
                f"{name}={value!r}: allowed in {what} beside the names is {PROFILE}."
            )


def warn_once(name: str, value: object) -> None:
    """Say that the parameter changes nothing, the first time that it is given."""
    if value is None or name in _warned:
        return
    _warned.add(name)
    warnings.warn(
        f"{name}={value!r} means something on a cloud only and is ignored here.",
        UserWarning,
        stacklevel=7,
    )


def select_profile(name: object) -> None:
    """Have this process use the profile `name` from now on; None changes nothing.

    Raises:
        InvalidError: it is no name, or the process is connected under another profile.
    """
    if name is None or name == current().profile:
        return
    if not isinstance(name, str) or not name:
        raise InvalidError(f"{PROFILE}={name!r}: allowed is a non-empty str, a profile's name.")
    connected = process.connected()
    if connected is not None:
        raise InvalidError(
            f"{PROFILE}={name!r}: this process is connected under the profile "
            f"{connected.settings.profile!r}; allowed is that, or set nb.config.profile before "
            "the first call."
        )
    config.profile = name
