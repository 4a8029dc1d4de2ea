"""`nb.config`: the settings, to read, to set and to look at.

What is set here is stronger than environment variables and `pyproject.toml` (see
`kernel_worker.settings`), and holds for sessions made afterwards; `progress`,
`log_prefix`, `keep_failed_seconds` and `max_request_mib` hold at once.
"""

from __future__ import annotations

import html
import os
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from kernel_worker.settings import Settings


class _State:
    """What was set here, and what that makes together with the other sources."""

    chosen: ClassVar[dict[str, object]] = {}
    loaded: Settings | None = None


def current() -> Settings:
    """Return the settings in force.

    Raises:
        InvalidError: a value somewhere is not allowed; the message says where and what is.
    """
    if _State.loaded is None:
        from kernel_worker import settings  # noqa: PLC0415  not for an import alone

        _State.loaded = settings.load(_State.chosen)
    return _State.loaded


def afresh() -> Settings:
    """Return what the sources say now; what is in force stays as it is."""
    from kernel_worker import settings  # noqa: PLC0415  not for an import alone

    return settings.load(_State.chosen)


def reload() -> Settings:
    """Read environment variables and `pyproject.toml` again."""
    _State.loaded = None
    return current()


def choose(profile: str | None) -> None:
    """Let this process go by another profile, and what it starts too; None: by the same."""
    if profile is not None:
        os.environ["NOTEBOOK_EXT_PROFILE"] = profile
        reload()


class Config:
    """The settings as attributes; prints as a table with where each value came from."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(current(), _full_name(name))

    def __setattr__(self, name: str, value: object) -> None:
        from kernel_worker import settings  # noqa: PLC0415  not for an import alone

        chosen = {**_State.chosen, name: value}
        _State.loaded = settings.load(chosen)
        _State.chosen = chosen

    def __dir__(self) -> list[str]:
        return _names()

    def __repr__(self) -> str:
        rows = [("setting", "value", "from"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n".join(f"{n:{widths[0]}}  {v:{widths[1]}}  {o}".rstrip() for n, v, o in rows)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        return (
            "<table><thead><tr><th>setting</th><th>value</th><th>from</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        settings = current()
        return [
            (name, str(getattr(settings, name)), settings.origins.get(name, "default"))
            for name in _names()
        ]


def _names() -> list[str]:
    from kernel_worker import settings  # noqa: PLC0415  not for an import alone

    return list(settings.NAMES)


def _full_name(name: str) -> str:
    names = _names()
    for candidate in (name, f"{name}_seconds"):
        if candidate in names:
            return candidate
    raise AttributeError(f"There is no setting {name}; there are: {', '.join(names)}.")


config = Config()
