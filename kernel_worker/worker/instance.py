"""An instance in a worker: made once, entered before the first input, left before the end.

Theory. It stands where the `Binding` of a function stands: a lease names a method, `select` takes
it up, and `function` is that method, bound. A template whose class has `enter(snap=True)` hooks
makes the instance itself (`make`), and the workers forked from it share what these hooks loaded;
otherwise each worker makes its own. The names that the class reads are bound before, from the
snapshot that the function spec names: another value of a name that a hook reads is another pool.

Guarantees: the instance is made once, each hook runs once in a process, or once in its template.
Not guaranteed: `exit` hooks of a process that is killed.
"""

from __future__ import annotations

import inspect
import pickle
from types import MethodType
from typing import TYPE_CHECKING, Any

from kernel_worker.wire import instances

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kernel_worker.worker.binding import Binding

    Runner = Callable[[Coroutine[Any, Any, Any]], Any]


class Instance:
    """One instance of the class that a binding holds."""

    def __init__(self, binding: Binding, parameters: bytes, initial: bytes) -> None:
        """Make nothing yet.

        Args:
            binding: the class.
            parameters: the object that `FunctionSpec.parameters` names.
            initial: the snapshot that `FunctionSpec.initial` names.
        """
        self.name = binding.name
        """The qualified name of the class, for people."""
        self.is_async = False
        """Calling the selected method returns a coroutine."""
        self.is_generator = False
        """Calling the selected method returns a generator, plain or asynchronous."""
        self._binding = binding
        self._parameters = parameters
        self._initial = initial
        self._instance: Any = None
        self._selected = ""
        self._methods: dict[str, MethodType] = {}

    @property
    def function(self) -> Callable[..., Any]:
        """The selected method, bound to the instance."""
        return self._methods[self._selected]

    @property
    def namespace(self) -> dict[str, Any]:
        """The globals of the module in which the class is defined."""
        return self._binding.namespace

    def bind(self, snapshot: bytes) -> None:
        """Set what the class captured; see `Binding.bind`."""
        self._binding.bind(snapshot)

    def select(self, method: str) -> None:
        """Let `function` be this method.

        Raises:
            NotFoundError: there is none.
        """
        if method == self._selected:
            return
        bound = self._methods.get(method)
        if bound is None:
            raw = instances.method(type(self._instance), method)
            bound = self._methods[method] = MethodType(raw, self._instance)
        self._selected = method
        self.is_async = inspect.iscoroutinefunction(bound)
        self.is_generator = inspect.isgeneratorfunction(bound) or inspect.isasyncgenfunction(bound)

    def make(self, run: Runner) -> None:
        """Make the instance and run its `enter(snap=True)` hooks, unless that was done.

        Args:
            run: runs a coroutine to its end.

        Raises:
            Exception: whatever the class or a hook raises.
        """
        if self._instance is not None:
            return
        self._binding.bind(self._initial)
        parameters = instances.decode(self._parameters)
        kind: Any = self._binding.function
        instance = instances.construct(kind, parameters)
        pickle.loads(parameters.origin).adopt(instance, self._parameters)
        instances.run_hooks(instance, [instances.SNAP], run)
        self._instance = instance

    def enter(self, run: Runner) -> None:
        """Do all that comes before the first input; see `make`."""
        self.make(run)
        instances.run_hooks(self._instance, [instances.ENTER], run)

    def leave(self, run: Runner) -> None:
        """Run the `exit` hooks."""
        instances.run_hooks(self._instance, [instances.EXIT], run)
