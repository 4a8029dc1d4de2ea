"""One adapter per system: how it is opened, called, mapped over and closed, with two workers.

Every adapter does what the system's own documentation shows for this, with its defaults. A system
that is not installed raises `ImportError` on `load`, before anything is started.
"""

# ruff: noqa: D102, PLC0415  `System` documents the methods; a peer is imported when it is visited

from __future__ import annotations

import os
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks import work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WORKERS = 2


class System(Protocol):
    """What is measured. `load` imports, `open` starts what the system needs; one at a time."""

    def load(self) -> str:
        """Import the library and return its version."""

    def open(self) -> None:
        """Start two workers, or what will start them."""

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Run one call and wait for its result."""

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """Run `function` on each of `arguments`; the results in order, the system's defaults."""

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        """Map `work.noop` in chunks of `size` as the system offers it; None where it need not."""

    def iterate(
        self, function: Callable[[Any], Any], arguments: Sequence[Any]
    ) -> Iterator[Any] | None:
        """Map as `map` does, and give each result when it is there; None where it cannot."""

    def close(self) -> None:
        """End everything that `open` started."""


class NotebookExt:
    """This project, by its public API."""

    def load(self) -> str:
        import notebook_ext

        self._nb = notebook_ext
        return str(notebook_ext.__version__)

    def open(self) -> None:
        self._app = self._nb.App("benchmarks")
        self._functions: dict[Callable[[Any], Any], Any] = {}

    def _remote(self, function: Callable[[Any], Any]) -> Any:
        if function not in self._functions:
            self._functions[function] = self._app.function(max_containers=WORKERS)(function)
        return self._functions[function]

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._remote(function).remote(argument)

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return list(self._remote(function).map(arguments))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        return iter(self._remote(function).map(arguments))

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:  # noqa: ARG002
        return None

    def large_values(self, array: Any) -> dict[str, float]:
        """Return the figures of `benchmarks.arrays` that have no counterpart elsewhere."""
        last = self._app.function(max_containers=WORKERS)(work.last)
        items = self._app.function(max_containers=1, is_generator=True)(work.megabytes)
        list(last.map([0.0] * 4, kwargs={"array": array[:10]}))
        without: list[float] = []
        shared: list[float] = []
        for _ in range(3):
            for spent, given in ((without, array[:10]), (shared, array)):
                begun = time.perf_counter()
                list(last.map([0.001] * 1_000, kwargs={"array": given}))
                spent.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        self.call(work.length, array)
        write = time.perf_counter() - begun
        list(items.remote_gen(2))
        rates = []
        for _ in range(3):
            begun = time.perf_counter()
            count = sum(1 for _ in items.remote_gen(500))
            rates.append(count / 1_000 / (time.perf_counter() - begun))
        return {
            "shared by 1,000 inputs of 1 ms, without its write": (
                (statistics.median(shared) - write) / statistics.median(without)
            ),
            "items of 1 MB, GB/s": statistics.median(rates),
        }

    def close(self) -> None:
        """Leave the broker to the run's sweep: it is meant to outlive its clients."""


class ProcessPool:
    """`concurrent.futures.ProcessPoolExecutor`: no broker, no network, the parent's fork."""

    def load(self) -> str:
        import concurrent.futures
        import platform

        self._executor_type: Any = concurrent.futures.ProcessPoolExecutor
        return f"Python {platform.python_version()}"

    def open(self) -> None:
        self._executor = self._executor_type(max_workers=WORKERS)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._executor.submit(function, argument).result()

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return list(self._executor.map(function, arguments))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        found: Iterator[Any] = self._executor.map(function, arguments)
        return found

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        return list(self._executor.map(work.noop, arguments, chunksize=size))

    def close(self) -> None:
        self._executor.shutdown()


class Loky(ProcessPool):
    """loky's executor, which joblib uses: the same interface as `ProcessPool`."""

    def load(self) -> str:
        import loky

        self._executor_type = loky.ProcessPoolExecutor
        return str(loky.__version__)


class Pool:
    """`multiprocessing.Pool`, which chunks by itself and keeps no record of what runs where."""

    def load(self) -> str:
        import multiprocessing
        import platform

        self._make = multiprocessing.Pool
        return f"Python {platform.python_version()}"

    def open(self) -> None:
        self._pool = self._make(WORKERS)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._pool.apply(function, (argument,))

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return self._pool.map(function, arguments)

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        return self._pool.imap(function, arguments)

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        return self._pool.map(work.noop, arguments, chunksize=size)

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Joblib:
    """joblib over loky, its workers kept; a single call is a list of one, as it knows no other."""

    def load(self) -> str:
        import joblib

        self._joblib: Any = joblib
        return str(joblib.__version__)

    def open(self) -> None:
        self._parallel = self._joblib.Parallel(n_jobs=WORKERS)
        self._parallel.__enter__()

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._parallel([self._joblib.delayed(function)(argument)])[0]

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        delayed = self._joblib.delayed(function)
        return list(self._parallel(delayed(argument) for argument in arguments))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        delayed = self._joblib.delayed(function)
        parallel = self._joblib.Parallel(n_jobs=WORKERS, return_as="generator")
        found: Iterator[Any] = parallel(delayed(argument) for argument in arguments)
        return found

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        delayed = self._joblib.delayed(work.noop)
        with self._joblib.Parallel(n_jobs=WORKERS, batch_size=size) as parallel:
            return list(parallel(delayed(argument) for argument in arguments))

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class Mpire:
    """mpire's pool, its workers kept alive."""

    def load(self) -> str:
        from importlib.metadata import version

        import mpire

        self._module: Any = mpire
        return version("mpire")

    def open(self) -> None:
        self._pool = self._module.WorkerPool(n_jobs=WORKERS, keep_alive=True)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._pool.apply(function, (argument,))

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return list(self._pool.map(function, arguments))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        found: Iterator[Any] = self._pool.imap(function, arguments)
        return found

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        return list(self._pool.map(work.noop, arguments, chunk_size=size))

    def close(self) -> None:
        self._pool.terminate()


class Executorlib(ProcessPool):
    """executorlib on one node, with workers that are kept: the interface of `ProcessPool`."""

    def load(self) -> str:
        from importlib.metadata import version

        self._executor_type = import_module("executorlib").SingleNodeExecutor
        return version("executorlib")

    def open(self) -> None:
        self._executor = self._executor_type(
            max_workers=WORKERS, block_allocation=True, hostname_localhost=True
        )


class Parsl:
    """Parsl's high-throughput executor: an interchange, one block of two workers."""

    def load(self) -> str:
        import parsl

        self._parsl: Any = parsl
        return str(parsl.__version__)

    def open(self) -> None:
        home, here = os.environ["HOME"], str(Path(sys.executable).parent)
        os.environ["PATH"] = f"{here}{os.pathsep}{os.environ['PATH']}"  # it starts scripts by name
        executor = import_module("parsl.executors").HighThroughputExecutor(
            label="two",
            address="127.0.0.1",
            loopback_address="127.0.0.1",
            max_workers_per_node=WORKERS,
            encrypted=False,
            provider=import_module("parsl.providers").LocalProvider(init_blocks=1, max_blocks=1),
        )
        config = self._parsl.Config(executors=[executor], run_dir=f"{home}/parsl")
        self._dfk = self._parsl.load(config)
        self._functions: dict[Callable[[Any], Any], Any] = {}

    def _app(self, function: Callable[[Any], Any]) -> Any:
        if function not in self._functions:
            self._functions[function] = self._parsl.python_app(function)
        return self._functions[function]

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._app(function)(argument).result()

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        app = self._app(function)
        return [future.result() for future in [app(argument) for argument in arguments]]

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        app = self._app(function)
        return (future.result() for future in [app(argument) for argument in arguments])

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        chunks = [list(arguments[at : at + size]) for at in range(0, len(arguments), size)]
        return [value for chunk in self.map(work.noop_each, chunks) for value in chunk]

    def close(self) -> None:
        self._dfk.cleanup()
        self._parsl.clear()


class IPyParallel:
    """ipyparallel: a controller, two engines, a load-balanced view."""

    def load(self) -> str:
        import ipyparallel

        self._module = ipyparallel
        return str(ipyparallel.__version__)

    def open(self) -> None:
        self._cluster = self._module.Cluster(n=WORKERS, log_level=40)
        self._client = self._cluster.start_and_connect_sync(activate=False)
        self._view = self._client.load_balanced_view()

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._view.apply_sync(function, argument)

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return list(self._view.map_sync(function, arguments))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        return iter(self._view.map_async(function, arguments))

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        return list(self._view.map_sync(work.noop, arguments, chunksize=size))

    def close(self) -> None:
        self._client.close()
        self._cluster.stop_cluster_sync()


class Dask:
    """Dask's distributed: a local cluster of two single-threaded worker processes."""

    def load(self) -> str:
        import distributed

        self._module: Any = distributed
        return str(self._module.__version__)

    def open(self) -> None:
        self._cluster = self._module.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        )
        self._client = self._module.Client(self._cluster)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._client.submit(function, argument, pure=False).result()

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        futures = self._client.map(function, arguments, pure=False)
        return list(self._client.gather(futures))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        futures = self._client.map(function, arguments, pure=False)
        return (future.result() for future in futures)

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        chunks = [list(arguments[at : at + size]) for at in range(0, len(arguments), size)]
        return [value for chunk in self.map(work.noop_each, chunks) for value in chunk]

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class Ray:
    """Ray on this machine: two CPUs, dashboard off, on loopback, in the run's own directory."""

    def load(self) -> str:
        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
        import ray

        self._ray = ray
        return str(ray.__version__)

    def open(self) -> None:
        self._ray.init(
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=256 * 1024 * 1024,
            _node_ip_address="127.0.0.1",
            _temp_dir=os.path.join(os.environ["HOME"], "ray"),  # noqa: PTH118  a plain string
        )
        self._functions: dict[Callable[[Any], Any], Any] = {}

    def _remote(self, function: Callable[[Any], Any]) -> Any:
        if function not in self._functions:
            self._functions[function] = self._ray.remote(function)
        return self._functions[function]

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return self._ray.get(self._remote(function).remote(argument))

    def map(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        remote = self._remote(function)
        return list(self._ray.get([remote.remote(argument) for argument in arguments]))

    def iterate(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        remote = self._remote(function)
        refs = [remote.remote(argument) for argument in arguments]
        return (self._ray.get(ref) for ref in refs)

    def map_chunked(self, arguments: Sequence[int], size: int) -> list[int] | None:
        chunks = [list(arguments[at : at + size]) for at in range(0, len(arguments), size)]
        return [value for chunk in self.map(work.noop_each, chunks) for value in chunk]

    def close(self) -> None:
        self._ray.shutdown()


SYSTEMS: dict[str, type[System]] = {
    "notebook-ext": NotebookExt,
    "ProcessPoolExecutor": ProcessPool,
    "multiprocessing.Pool": Pool,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "executorlib": Executorlib,
    "Parsl": Parsl,
    "ipyparallel": IPyParallel,
    "Dask": Dask,
    "Ray": Ray,
}
