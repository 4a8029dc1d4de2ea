"""What a class is made from: its declared parameters, or the arguments of its `__init__`.

Read once, where the class is defined; plain data, so that a worker which knows the class by key
alone makes the same of the same arguments.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from kernel_worker.errors import InvalidError
from kernel_worker.wire import instances
from kernel_worker.wire.instances import Parameters
from notebook_ext.hooks import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHECKED = {kind.__name__: kind for kind in (str, int, float, bool, bytes)}


class Field(NamedTuple):
    """One declared parameter."""

    name: str
    type_name: str
    """One of those that are checked; empty for any."""
    default: bytes
    """A pickle; empty where there is none."""
    init: bool


class Argument(NamedTuple):
    """One argument of `__init__`."""

    name: str
    kind: int
    """As `inspect.Parameter.kind`."""
    has_default: bool


class Constructor(NamedTuple):
    """How instances of one class are made."""

    name: str
    fields: tuple[Field, ...] = ()
    arguments: tuple[Argument, ...] = ()

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parameters:
        """Return the parameters that these arguments mean; equal ones for equal instances.

        Raises:
            InvalidError: they do not fit; the message names what, and what is allowed.
            SerializationError: one of them cannot be pickled.
        """
        if self.fields:
            return Parameters(values=tuple(self._values(args, kwargs)))
        signature = inspect.Signature([_parameter(argument) for argument in self.arguments])
        try:
            found = signature.bind(*args, **kwargs)
        except TypeError as error:
            shown = str(signature).replace("Ellipsis", "...")
            raise InvalidError(
                f"{self.name}{shown}: {error}; allowed is what __init__ takes."
            ) from None
        return Parameters(
            tuple(
                instances.pickled(value, f"{self.name}(args[{place}])")
                for place, value in enumerate(found.args)
            ),
            tuple(
                (name, instances.pickled(value, f"{self.name}({name})"))
                for name, value in sorted(found.kwargs.items())
            ),
        )

    def _values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        given = self._given(args, kwargs)
        found: list[tuple[str, bytes]] = []
        for field in self.fields:
            if field.name in given:
                value = self._checked(field, given[field.name])
                found.append((field.name, instances.pickled(value, f"{self.name}.{field.name}")))
            elif field.default:
                found.append((field.name, field.default))
            elif field.init:
                raise InvalidError(
                    f"{self.name}: the parameter {field.name!r} has no default and was not given: "
                    f"give it, {self.name}({field.name}=...)."
                )
        return found

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = [field.name for field in self.fields if field.init]
        listed = ", ".join(names) or "none"
        if len(args) > len(names):
            raise InvalidError(
                f"{self.name} has {len(names)} parameters ({listed}), and {len(args)} were given; "
                "leave the rest out."
            )
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise InvalidError(
                    f"{self.name}: the parameter {name!r} was given twice; give it once."
                )
            if name not in names:
                hidden = any(field.name == name for field in self.fields)
                why = "is declared with init=False" if hidden else "is no parameter"
                raise InvalidError(f"{self.name}({name}=...): {name} {why}. There are: {listed}.")
            given[name] = value
        return given

    def _checked(self, field: Field, value: Any) -> Any:
        wanted = _CHECKED.get(field.type_name)
        if wanted is None or type(value) is wanted:
            return value
        if wanted is float and type(value) is int:
            return float(value)
        if isinstance(value, wanted) and not isinstance(value, bool):
            return value
        raise InvalidError(
            f"{self.name}({field.name}={value!r}): allowed is {field.type_name}, and this is "
            f"{type(value).__name__}."
        )


class Shape(NamedTuple):
    """What a class looks like to those who use it; plain data."""

    constructor: Constructor
    methods: tuple[str, ...]
    generators: tuple[str, ...]
    """Those of the methods that give items."""
    function: str = ""
    """The function's name, of one that is called by HTTP: it is a class to workers alone."""


def of(kind: type) -> Constructor:
    """Return how instances of `kind` are made.

    Raises:
        InvalidError: the class has both parameters and an `__init__`, or a default that is none.
    """
    declared = _declared(kind)
    if declared and _init_of(kind) is not object.__init__:
        raise InvalidError(
            f"{kind.__qualname__} has both nb.parameter() and __init__: put what __init__ does "
            "into a method with @nb.enter(), or take all arguments in __init__."
        )
    if declared:
        name = kind.__qualname__
        fields = [_field(name, *one) for one in declared.items()]
        open_ = Constructor(name, tuple(fields))
        for field, (parameter, _) in zip(fields, declared.values(), strict=True):
            if field.default:
                open_._checked(field, parameter.default)  # noqa: SLF001  its own class
        return open_
    return Constructor(kind.__qualname__, arguments=_arguments(kind))


def _declared(kind: type) -> dict[str, tuple[Parameter, Any]]:
    """Return the parameters by name, those of base classes first, with their annotations."""
    found: dict[str, tuple[Parameter, Any]] = {}
    for owner in reversed(kind.__mro__):
        annotations = inspect.get_annotations(owner)
        for name, value in vars(owner).items():
            if isinstance(value, Parameter):
                found[name] = (value, annotations.get(name))
            elif name in found:
                del found[name]  # the subclass has settled it
    return found


def _field(owner: str, name: str, declared: tuple[Parameter, Any]) -> Field:
    parameter, annotation = declared
    shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    type_name = shown if shown in _CHECKED else ""
    default = b""
    if parameter.default is not inspect.Parameter.empty:
        default = instances.pickled(parameter.default, f"the default of {owner}.{name}")
    return Field(name, type_name, default, parameter.init)


def _init_of(kind: Any) -> Any:
    return kind.__init__


def _arguments(kind: type) -> tuple[Argument, ...]:
    init = _init_of(kind)
    if init is object.__init__:
        return ()
    found = list(inspect.signature(init).parameters.values())[1:]
    return tuple(Argument(p.name, int(p.kind), p.default is not p.empty) for p in found)


def _parameter(argument: Argument) -> inspect.Parameter:
    kinds = list(inspect._ParameterKind)  # noqa: SLF001  an enumeration without a public name
    default: Any = ... if argument.has_default else inspect.Parameter.empty
    return inspect.Parameter(argument.name, kinds[argument.kind], default=default)
