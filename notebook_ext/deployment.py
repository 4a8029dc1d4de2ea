"""`app.deploy()`: what an app's functions are now, known by name from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.errors import InvalidError
from kernel_worker.wire.messages import ScheduleInfo
from notebook_ext import process
from notebook_ext.marks import is_endpoint
from notebook_ext.package import deployable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kernel_worker.wire import messages
    from notebook_ext.app import App
    from notebook_ext.cls import Cls
    from notebook_ext.function import Function
    from notebook_ext.twin import Waiting


class Deployment(msgspec.Struct, frozen=True):
    """One version of a deployed app."""

    app: str
    version: int
    functions: tuple[str, ...]
    """Their names, and those of its classes."""
    deployed_at: float
    """Unix seconds."""
    tag: str = ""
    schedules: tuple[ScheduleInfo, ...] = ()
    """Those of its functions that are called by themselves, and when they are next."""
    urls: dict[str, str] = {}
    """Where its endpoints are served, by name."""

    def __repr__(self) -> str:
        return f"<Deployment {self.app} v{self.version}: {', '.join(self.functions)}>"

    @classmethod
    def of(cls, info: messages.DeploymentInfo) -> Deployment:
        """Return what the broker said of a deployment."""
        shown = (info.functions, info.deployed_at, info.tag, info.schedules)
        return cls(info.app, info.version, *shown)


def deploy(app: App, name: str | None, tag: str) -> Waiting[Deployment]:
    """Deploy `app` under `name`, or its own.

    Raises:
        InvalidError: it has neither a name nor functions.
    """
    name = name if name is not None else app.name
    if not isinstance(name, str) or not name or "/" in name:
        raise InvalidError(
            f"deploy(name={name!r}): allowed is a non-empty str without a slash; give the app one, "
            "as in App('shop'), or name=."
        )
    if not isinstance(tag, str):
        raise InvalidError(f"deploy(tag={tag!r}): allowed is a str.")
    functions, classes = app.registered_functions, app.registered_classes
    if both := functions.keys() & classes.keys():
        raise InvalidError(
            f"deploy(name={name!r}): {min(both)!r} is a function and a class of the app; give one "
            "of them another name."
        )
    roots: dict[str, Function[Any, Any] | Cls] = {**functions, **classes}
    if not roots:
        raise InvalidError(f"deploy(name={name!r}): the app has no functions; define one on it.")
    if _have_endpoints(classes):
        from notebook_ext.web import deployed as endpoints  # noqa: PLC0415  asyncio: 30 ms

        endpoints.check(name, classes.items())
    found, objects = deployable(name, roots)
    session = process.current()
    for each in found:
        if each.schedule is not None and session.is_far:
            raise InvalidError(
                f"deploy(name={name!r}): {each.name} has a schedule, and what it gives and writes "
                "could not be sealed, as all else from here is: nobody is there then. Call deploy "
                "on the broker's machine."
            )
    deployed = session.deploy(name, found, objects, tag).then(Deployment.of)
    return deployed.then(lambda done: _with_urls(done, classes))


def _have_endpoints(classes: Mapping[str, Cls]) -> bool:
    return any(is_endpoint(cls.definition.get_raw_f()) for cls in classes.values())


def _with_urls(done: Deployment, classes: Mapping[str, Cls]) -> Deployment:
    """Have the endpoints served of what is deployed now, and those no more that were."""
    if (
        not _have_endpoints(classes)
        and not process.endpoints_file(process.current().settings).exists()
    ):
        return done
    from notebook_ext.web import deployed  # noqa: PLC0415  asyncio: 30 ms

    urls = deployed.announce(done.app, classes.items())
    return msgspec.structs.replace(done, urls=urls)
