"""What every test may use: directories of its own, and an ordinary kernel to type cells into.

Each run has its own runtime and data directories, short enough for unix sockets, and brokers
that leave soon after their last client. At the end of the run no process that knows these
directories may be left, and no file but lock files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from kernel_worker.store import owning
from tests import leftovers
from tests.plain_kernel import PlainKernel
from tests.waiting import wait_until
from tools.own_directories import PREFIX, stop_broker, variables

IDLE_EXIT_SECONDS = 5.0
BASE = pytest.StashKey[Path]()
TIERS = ("", "acceptance", "suites", "documentation", "notebooks", "browser")
"""Folders below tests/ by how long they take; every other one is a room's, and quick."""

hypothesis.settings.register_profile(
    "beside others", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("beside others")
"""What asserts that something is soon over is marked `clock` and runs alone; these do not."""

KernelStarter = Callable[..., PlainKernel]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the directory in which everything of this run lies, `tmp_path` included."""
    config.stash[BASE] = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    config.option.basetemp = config.option.basetemp or str(config.stash[BASE] / "t")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: a child too
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove that directory, unless it may tell why a test failed."""
    base = session.config.stash[BASE]
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        print(f"\nkept for a look: {base}")  # noqa: T201  the report of a failed run
    else:
        shutil.rmtree(base, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quick tiers first; within a tier the order stays random."""
    items.sort(key=_tier)


def _tier(item: pytest.Item) -> int:
    below = item.path.relative_to(Path(__file__).parent).parts[0]
    return TIERS.index(below) if below in TIERS else 0


@pytest.fixture(scope="session", autouse=True)
def own_directories(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give this run directories of its own, and look at its end that nothing of it is left."""
    base = request.config.stash[BASE]
    more = {
        "NOTEBOOK_EXT_IDLE_EXIT_SECONDS": str(IDLE_EXIT_SECONDS),
        "NOTEBOOK_EXT_BROKER_GRACE_SECONDS": str(IDLE_EXIT_SECONDS),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (variables(base) | more).items():
            patch.setenv(name, value)
        yield base
        _look_for_leftovers(base)


def _look_for_leftovers(base: Path) -> None:
    if any((base / "r").rglob("connection.json")):
        stop_broker()
    try:
        wait_until(lambda: not leftovers.processes(base), IDLE_EXIT_SECONDS + 10)
    except AssertionError:
        left = leftovers.processes(base)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail(f"processes are left (and were killed): {left}")
    if files := leftovers.files(base / "r"):
        pytest.fail(f"files are left: {files}")

    def is_swept() -> bool:
        """A client and its broker were killed together: the next one sweeps, of any run here."""
        owning.sweep(base / "r")
        return not leftovers.stores(base / "r")

    try:
        wait_until(is_swept, 10)
    except AssertionError:
        pytest.fail(f"shared memory is left: {leftovers.stores(base / 'r')}")


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[KernelStarter]:
    """Start ordinary kernels, `start_kernel(directory=…, …)`, that end with the test."""
    kernels: list[PlainKernel] = []

    def start(
        directory: Path = tmp_path,
        variables: dict[str, str] | None = None,
        interpreter: Path | None = None,
    ) -> PlainKernel:
        kernels.append(PlainKernel(directory, variables, interpreter))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()


@pytest.fixture
def kernel(start_kernel: KernelStarter) -> PlainKernel:
    """Return an ordinary kernel in an empty directory."""
    return start_kernel()
