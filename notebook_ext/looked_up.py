"""Functions that are found by the names of their app and of their own: what was deployed.

A function that was looked up is a name; the broker puts the version that is in force in its place
at each call. So it never grows old, travels inside other functions, and needs no code here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kernel_worker.errors import InvalidError
from kernel_worker.model import DeployedFunction, FunctionKey, deployed_key
from notebook_ext import cloud, process

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from notebook_ext.cls import Cls
    from notebook_ext.constructor import Shape
    from notebook_ext.function import Function
    from notebook_ext.twin import Waiting


class FromName:
    """`Function.from_name(app, name)`."""

    def __call__(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Function[..., Any]:
        """Return the function `name` of the deployed app `app_name`; asks nobody yet.

        Args:
            app_name: the app's name.
            name: the function's name.
            tag: the same, as it was called in 2024.
            cloud_only: `environment_name` names a profile; `client` and `namespace` mean nothing.

        Raises:
            InvalidError: a name that cannot be.
        """
        from notebook_ext.function import Function  # noqa: PLC0415  it needs this module

        cloud.check("Function.from_name", cloud_only)
        key = deployed_key(_name("app_name", app_name), _function_name(name, tag))
        return Function.reference(key, key.rpartition("/")[2], "deployed")


class Lookup:
    """`Function.lookup(app, name)` and `await Function.lookup.aio(app, name)`."""

    def __call__(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Function[..., Any]:
        """Do as `Function.from_name`, and ask whether there is such a function.

        Raises:
            NotFoundError: there is none; the message has the nearest names.
        """
        __tracebackhide__ = True
        return _asked(app_name, name, tag, cloud_only).join()

    def aio(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Coroutine[Any, Any, Function[..., Any]]:
        """Do the same in the running task."""
        return _asked(app_name, name, tag, cloud_only)


class _OfTheClass:
    """What `Cls` has and its instances do not: users' classes may use the name."""

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None:
            raise AttributeError
        return self


class ClassFromName(_OfTheClass):
    """`Cls.from_name(app, name)`."""

    def __call__(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Cls:
        """Return the class `name` of the deployed app `app_name`; asks nobody yet.

        Calls of its instances run the version that is in force, as those of functions do.

        Args:
            app_name: the app's name.
            name: the class's name.
            tag: the same, as it was called in 2024.
            cloud_only: `environment_name` names a profile; `client` and `namespace` mean nothing.

        Raises:
            InvalidError: a name that cannot be.
        """
        from notebook_ext.cls import Cls  # noqa: PLC0415  it needs this module

        cloud.check("Cls.from_name", cloud_only)
        key = deployed_key(_name("app_name", app_name), _function_name(name, tag))
        return Cls.reference(key, key.rpartition("/")[2], "deployed", None)


class ClassLookup(_OfTheClass):
    """`Cls.lookup(app, name)` and `await Cls.lookup.aio(app, name)`."""

    def __call__(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Cls:
        """Do as `Cls.from_name`, and ask whether there is such a class.

        Raises:
            NotFoundError: there is none; the message has the nearest names.
        """
        __tracebackhide__ = True
        return _asked_class(app_name, name, tag, cloud_only).join()

    def aio(
        self, app_name: str, name: str | None = None, *, tag: str | None = None, **cloud_only: Any
    ) -> Coroutine[Any, Any, Cls]:
        """Do the same in the running task."""
        return _asked_class(app_name, name, tag, cloud_only)


def ask_class(key: FunctionKey) -> Waiting[Shape]:
    """Ask what the class looks like that is in force under a key."""
    return ask(key).then(_shape)


def _asked_class(
    app_name: str, name: str | None, tag: str | None, cloud_only: dict[str, Any]
) -> Waiting[Cls]:
    found = ClassFromName()(app_name, name, tag=tag, **cloud_only)
    return ask_class(found.key).then(found.learn)


def _shape(found: DeployedFunction) -> Shape:
    if not found.shape:
        raise InvalidError(f"{found.name} is a function: use Function.from_name.")
    from notebook_ext.constructor import Shape  # noqa: PLC0415  of classes only

    return msgspec.msgpack.decode(found.shape, type=Shape)


def ask(key: FunctionKey) -> Waiting[DeployedFunction]:
    """Ask what is in force under a key."""
    return process.current().ask("lookup", key, DeployedFunction)


def _asked(
    app_name: str, name: str | None, tag: str | None, cloud_only: dict[str, Any]
) -> Waiting[Function[..., Any]]:
    function = FromName()(app_name, name, tag=tag, **cloud_only)

    def known(found: DeployedFunction) -> Function[..., Any]:
        if found.shape and not _shape(found).function:
            raise InvalidError(f"{found.name} is a class: use Cls.from_name.")
        function.is_generator = found.is_generator
        return function

    return ask(function.key).then(known)


def _function_name(name: str | None, tag: str | None) -> str:
    if name is not None and tag is not None:
        raise InvalidError(f"tag={tag!r}: name={name!r} was given too; allowed is one of the two.")
    return _name("name", name if tag is None else tag)


def _name(option: str, value: object) -> str:
    if not isinstance(value, str) or not value or "/" in value:
        raise InvalidError(f"{option}={value!r}: allowed is a non-empty str without a slash.")
    return value
