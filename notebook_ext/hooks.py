"""What is written inside a class: `@nb.method()`, `@nb.enter()`, `@nb.exit()`, `nb.parameter()`.

A hook stays the function that it is, with a mark on it (`wire.instances`). A method becomes a
`MethodDefinition`: on an instance, `self.other(x)` runs here, `self.other.remote(x)` on a worker.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import TYPE_CHECKING, Any

from kernel_worker.errors import InvalidError
from kernel_worker.wire.instances import ENTER, EXIT, SNAP

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING: Any = inspect.Parameter.empty


def method(*misplaced: object) -> Callable[[Callable[..., Any]], Any]:
    """Mark a method of a class with `@app.cls()` as one that can run on workers.

    Raises:
        InvalidError: it was used without parentheses, or on what is no method.
    """
    _refuse(misplaced, "method")

    def decorated(raw: Callable[..., Any]) -> MethodDefinition:
        _check(raw, "method")
        if is_hook(raw):
            raise InvalidError(
                f"{raw.__qualname__} is a hook already, and is not called by users: leave "
                "@nb.method() away."
            )
        return MethodDefinition(raw)

    return decorated


def enter(*misplaced: object, snap: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Mark a method that runs once, before the first input of a worker.

    It may call remote functions (not with `snap=True`), within `startup_timeout`. The worker keeps
    its memory and devices meanwhile, so what it calls needs others.

    Args:
        misplaced: nothing; what stands here was decorated without parentheses.
        snap: run it in the template: the workers forked from it share the memory that it filled.

    Raises:
        InvalidError: it was used without parentheses, or on what is no method.
    """
    _refuse(misplaced, "enter")
    if not isinstance(snap, bool):
        raise InvalidError(f"nb.enter(snap={snap!r}): allowed is True or False.")
    return _marker("enter", SNAP if snap else ENTER)


def exit(*misplaced: object) -> Callable[[Callable[..., Any]], Any]:  # noqa: A001  the documented public name
    """Mark a method that runs before a worker ends on purpose.

    That is when there are too many workers, or when another version has taken its place: it has
    30 s then; and when everything ends, for workers that are idle: 5 s. Not when it is killed.

    Raises:
        InvalidError: it was used without parentheses, or on what is no method.
    """
    _refuse(misplaced, "exit")
    return _marker("exit", EXIT)


def parameter(*misplaced: object, default: Any = _MISSING, init: bool = True) -> Any:
    """Declare a parameter: `name: str = nb.parameter(default="base")`.

    Args:
        misplaced: nothing: the default is given by name.
        default: the value where none is given; without it, one must be.
        init: whether it can be given when an instance is made.

    Raises:
        InvalidError: it was given something else.
    """
    if misplaced:
        raise InvalidError(
            f"nb.parameter({misplaced[0]!r}): write nb.parameter(default={misplaced[0]!r})."
        )
    if not isinstance(init, bool):
        raise InvalidError(f"nb.parameter(init={init!r}): allowed is True or False.")
    return Parameter(default, init=init)


class Parameter:
    """A declared parameter: what a class has until an instance has a value."""

    def __init__(self, default: Any = _MISSING, *, init: bool = True) -> None:
        """See `parameter`."""
        self.default = default
        self.init = init
        self._name = "?"

    def __set_name__(self, owner: type, name: str) -> None:
        """Know the name."""
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return itself for a class; an instance that gets here has no value."""
        if instance is None:
            return self
        raise AttributeError(f"the parameter {self._name!r} has no value yet")

    def __reduce__(self) -> tuple[Any, ...]:
        return _declared, (self._name,)


def _declared(name: str) -> Parameter:
    """Return the mark of a parameter on the other side, where its value is always given."""
    found = Parameter()
    found.__set_name__(Parameter, name)
    return found


class MethodDefinition:
    """A function with `@nb.method()`, as it stands in its class."""

    def __init__(self, raw: Callable[..., Any]) -> None:
        """Wrap `raw`."""
        self._raw = raw
        functools.update_wrapper(self, raw, updated=())

    def get_raw_f(self) -> Callable[..., Any]:
        """Return the plain function."""
        return self._raw

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the method of an instance."""
        if instance is None:
            return self
        return InstanceMethod(instance, self._raw.__name__, self._raw)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, with the instance as first argument; for `Base.method(self, ...)`."""
        if not args:
            raise InvalidError(_no_instance(self._raw))
        return self._raw(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise InvalidError(f".{name}: {_no_instance(self._raw)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return MethodDefinition, (self._raw,)

    def __repr__(self) -> str:
        return f"<method {self._raw.__qualname__}>"


class InstanceMethod:
    """A method of an instance that is here: a call runs here, `.remote` and the like on workers."""

    __slots__ = ("__func__", "__self__", "_name")

    def __init__(self, instance: object, name: str, raw: Callable[..., Any]) -> None:
        """Bind `raw` to `instance`."""
        self.__self__ = instance
        self.__func__ = raw
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here."""
        __tracebackhide__ = True
        return self.__func__(self.__self__, *args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run here."""
        __tracebackhide__ = True
        return self.__func__(self.__self__, *args, **kwargs)

    def get_raw_f(self) -> Callable[..., Any]:
        """Return the plain function."""
        return self.__func__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._remote(), name)

    def __reduce__(self) -> tuple[Any, ...]:
        remote = origins.get(self.__self__)
        return getattr, (self.__self__ if remote is None else remote, self._name)

    def __repr__(self) -> str:
        return f"<method {self.__func__.__qualname__} of an instance that is here>"

    def _remote(self) -> Any:
        remote = origins.get(self.__self__)
        if remote is None:
            kind = type(self.__self__).__qualname__
            raise InvalidError(
                f"{kind}.{self._name} runs here only: the class {kind} is not decorated with "
                "@app.cls(); use it as a plain method."
            )
        return getattr(remote, self._name)


class _Origins:
    """Which remote instance an instance that is here stands for."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    def put(self, instance: object, remote: object) -> None:
        """Note that `instance` was made for `remote`."""
        number = id(instance)
        try:
            reference: Any = weakref.ref(instance, lambda _: self._known.pop(number, None))
        except TypeError:  # a class with slots: it stays
            reference = functools.partial(_itself, instance)
        self._known[number] = (reference, remote)

    def get(self, instance: object) -> Any:
        """Return what `instance` was made for, or None."""
        reference, remote = self._known.get(id(instance), (None, None))
        return remote if reference is not None and reference() is instance else None


def _itself(thing: Any) -> Any:
    return thing


origins = _Origins()


def is_hook(found: object) -> bool:
    """Say whether this is a function with `@nb.enter()` or `@nb.exit()`."""
    marks = getattr(found, "__dict__", {})
    return inspect.isfunction(found) and any(mark in marks for mark in (ENTER, SNAP, EXIT))


def _marker(name: str, mark: str) -> Callable[[Callable[..., Any]], Any]:
    def decorated(raw: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(raw, MethodDefinition):
            raise InvalidError(
                f"{raw.__qualname__} has @nb.method(), and a hook is not called by users: leave "
                "one of the two away."
            )
        _check(raw, name)
        _check_needs_nothing(raw, name)
        setattr(raw, mark, True)
        return raw

    return decorated


def _refuse(misplaced: tuple[object, ...], name: str) -> None:
    if not misplaced:
        return
    found = misplaced[0]
    if callable(found):
        shown = getattr(found, "__qualname__", repr(found))
        raise InvalidError(f"@nb.{name} on {shown}: write it with parentheses, @nb.{name}().")
    raise InvalidError(f"@nb.{name}({found!r}): options are given by name.")


def _check(raw: object, name: str) -> None:
    if isinstance(raw, staticmethod | classmethod | property):
        raise InvalidError(
            f"@nb.{name}() on a {type(raw).__name__}: allowed is a method with self; a "
            f"{type(raw).__name__} is used as it is."
        )
    if inspect.isclass(raw):
        raise InvalidError(f"@nb.{name}() on the class {raw.__qualname__}: use @app.cls().")
    if not inspect.isfunction(raw):
        raise InvalidError(f"@nb.{name}() on {raw!r}: allowed is a method, directly below it.")


def _check_needs_nothing(raw: Callable[..., Any], name: str) -> None:
    needed = [
        each.name
        for each in list(inspect.signature(raw).parameters.values())[1:]
        if each.default is each.empty and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
    ]
    if needed:
        raise InvalidError(
            f"@nb.{name}() on {raw.__qualname__}: a hook is called with self alone, and this one "
            f"needs {', '.join(needed)}; allowed is self. Take the rest from parameters of the "
            "class."
        )


def _no_instance(raw: Callable[..., Any]) -> str:
    owner, dot, name = raw.__qualname__.rpartition(".")
    if not dot or owner.endswith("<locals>"):
        return (
            f"{raw.__qualname__} has @nb.method() and stands in no class: use @app.function(), or "
            "put it into a class with @app.cls()."
        )
    return f"{raw.__qualname__} needs an instance, of a class with @app.cls(): {owner}(...).{name}."
