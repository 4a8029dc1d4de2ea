"""`notebook-ext serve FILE`: its endpoints, served from here and reloaded when a file changes.

The file is run again in this process, so that what it has defined anew takes the place of what it
had; modules of its folder are imported again. A file that cannot be run leaves what was served.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kernel_worker.errors import Error, InvalidError
from notebook_ext import script
from notebook_ext.web import here
from notebook_ext.web.endpoints import endpoints_of
from notebook_ext.web.function import WebFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notebook_ext.app import App

DEBOUNCE_MS: Final = 50


def serve(target: str, *, is_module: bool, users_errors: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C.

    Args:
        target: `FILE[::APP]` or `MODULE[::APP]`.
        is_module: which of the two it is.
        users_errors: shows an exception of the user's code, and ends the program.

    Raises:
        InvalidError: it has no endpoints, or the group `web` is not installed.
    """
    if find_spec("watchfiles") is None:
        raise InvalidError("serve needs watchfiles: pip install 'notebook-ext[web]'.")
    from watchfiles import PythonFilter, watch  # noqa: PLC0415  optional

    with users_errors(target):
        loaded = script.load(target, is_module=is_module)
    served = _serve(loaded.app(), set())
    if not served:
        raise InvalidError(
            f"{target} has no endpoints: write @nb.fastapi_endpoint() below @app.function() in it."
        )
    folder = _folder(target, is_module=is_module)
    for _ in watch(
        folder,
        watch_filter=PythonFilter(),
        debounce=DEBOUNCE_MS,
        ignore_permission_denied=True,
    ):
        click.echo("Reloading.")
        _forget_modules(folder)
        try:
            with users_errors(target):
                served = _serve(script.load(target, is_module=is_module).app(), served)
        except (SystemExit, click.exceptions.Exit, click.Abort):
            pass  # said already, or the file's own way to end
        except (Error, click.ClickException) as error:
            click.echo(f"Error: {error}", err=True)


def _serve(app: App, before: set[str]) -> set[str]:
    """Serve the endpoints of an app, and no others; return their labels."""
    urls = dict(_urls(app))
    for name, url in urls.items():
        click.echo(f"Serving {name}: {url}")
    labels = set(here.gateway().labels)
    now = {label for label in labels if here.gateway().url(label) in urls.values()}
    for label in before - now:
        here.gateway().withdraw(label)
    return now


def _urls(app: App) -> Iterator[tuple[str, str]]:
    for name, cls in app.registered_classes.items():
        if isinstance(cls, WebFunction):
            yield name, cls.web_url
            continue
        kind: Any = cls.definition.get_raw_f()
        for function in endpoints_of(kind):
            yield f"{name}.{function}", getattr(cls(), function).web_url


def _folder(target: str, *, is_module: bool) -> Path:
    place = target.partition("::")[0]
    if not is_module:
        return Path(place).resolve().parent
    found = sys.modules[place].__file__
    return Path(found or ".").resolve().parent


def _forget_modules(folder: Path) -> None:
    """Have modules of a folder imported again, by whoever imports them next."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not file:
            continue
        path = Path(file).resolve()
        if folder in path.parents and "site-packages" not in path.parts:
            del sys.modules[name]
