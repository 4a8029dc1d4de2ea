"""joblib's backend `notebook_ext`: what has `n_jobs`, as scikit-learn, runs on kernel workers.

    with joblib.parallel_config(backend="notebook_ext"):
        model.fit(x, y)

Workers are kept for the next `Parallel` with as many jobs. Parallel loops inside of what runs there
are threads of that worker, and inside of these run in turn, as joblib does with processes.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from notebook_ext.integrations.executor import Executor

NAME = "notebook_ext"
KEPT_SECONDS = 60.0
"""How long a worker is kept that no loop uses."""

_executors: list[tuple[tuple[Any, ...], Executor]] = []
_lock = threading.Lock()


def register() -> None:
    """Have joblib know the backend: now where it is there, else as soon as it is imported."""
    joblib = sys.modules.get("joblib")
    if joblib is not None and hasattr(joblib, "register_parallel_backend"):
        _register(joblib)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def executor_of(
    jobs: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Executor:
    """Return the executor that all loops with so many jobs, and this initializer, use."""
    from notebook_ext.integrations.executor import Executor  # noqa: PLC0415  when a loop runs

    with _lock:
        for known, executor in _executors:
            if known == (jobs, initializer, initargs):
                return executor
        made = Executor(jobs, None, initializer, initargs, kept_seconds=KEPT_SECONDS)
        if initializer is not None:  # the last one stays: another's workers are of no use any more
            _executors[:] = [each for each in _executors if each[0][1] is None]
        _executors.append(((jobs, initializer, initargs), made))
        return made


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  somebody else may have held it
    _lock = threading.Lock()
    _executors.clear()  # their threads are not here


os.register_at_fork(after_in_child=_after_fork)


def _register(joblib: ModuleType) -> None:
    joblib.register_parallel_backend(NAME, _backend())


def _backend() -> type:
    """Return the backend's class, which needs joblib's."""
    from joblib._parallel_backends import FallbackToBackend, SequentialBackend  # noqa: PLC0415  backends raise it
    from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, cpu_count  # noqa: PLC0415

    class Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
        supports_retrieve_callback = True
        supports_sharedmem = False
        uses_threads = False
        default_n_jobs = -1
        _workers: Executor | None = None

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if n_jobs is None:
                return 1
            return int(n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1))

        def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
            jobs = self.effective_n_jobs(n_jobs)
            if jobs == 1:
                raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
            options = {**self.backend_kwargs, **options}
            self.parallel = parallel
            self.futures: set[Any] = set()
            self._workers = executor_of(
                jobs, options.get("initializer"), tuple(options.get("initargs", ()))
            )
            return jobs

        def submit(self, func: Any, callback: Any = None) -> Any:
            assert self._workers is not None  # noqa: S101  joblib has called `configure`
            future = self._workers.submit(func)
            self.futures.add(future)
            future.add_done_callback(self.futures.discard)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result()

        def terminate(self) -> None:
            self._workers = None  # others use it, and the next loop
            self.reset_batch_stats()

        def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002, ARG002  joblib's
            if self._workers is not None:
                self._workers.abandon(list(self.futures))

    return Backend


class _Finder:
    """Finds joblib, once, as the others would, to be told when it has been imported.

    Not of `importlib.abc`, as its loader: importing that takes as long as half of what is here.
    """

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname != "joblib":
            return None
        import importlib.util  # noqa: PLC0415  now joblib is imported

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)  # it may be installed later
            return None
        spec.loader = _Told(spec.loader)  # type: ignore[assignment]  # as above
        return spec


class _Told:
    """Loads as another loader does, which is the module's again afterwards."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module)
