"""The options of a function: what may be given to `@app.function`, checked when it is given.

Theory: `parse` takes what was written (2024 or 2026 spelling) and returns `Options`, in which
everything is in one form; `with_options` parses again and replaces what was given. Whatever cannot
be is an `InvalidError` that names the option, the value and what is allowed, at the decorator, not
at the first call. An option whose machinery does not exist yet is refused, never ignored.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kernel_worker.errors import InvalidError
from kernel_worker.model import PoolSettings, Resources, RetryPolicy, Schedule
from notebook_ext import cloud
from notebook_ext.secret import Secret, variables

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.image import Image

DEFAULT_TIMEOUT_SECONDS = 300.0
_SPELLINGS_2024 = {
    "keep_warm": "min_containers",
    "concurrency_limit": "max_containers",
    "container_idle_timeout": "scaledown_window",
}
_NOT_YET = ("mounts", "network_file_systems")
_VOLUMES = "volumes"
_MOST_AT_ONCE = 1_000
"""So many inputs at once is the most that a worker runs, or that a group holds."""
_LONGEST_WAIT_MS = 600_000
_MOST_KEPT = 1_000
"""More workers than this no host keeps warm; a slip of the keyboard must not make it try."""
_MOST_MIB = 1 << 40
_GPU = re.compile(r"^(?P<kind>[A-Za-z][\w. -]*?)(?::(?P<count>\d+))?$")


class Retries(msgspec.Struct, frozen=True):
    """How often and how late an input whose attempt failed is tried again.

    Args:
        max_retries: how often, 0 to 10.
        backoff_coefficient: by what each delay is longer than the last, 1.0 to 10.0.
        initial_delay: seconds before the first retry, 0 to 60.
        max_delay: seconds that no delay exceeds, 0 to 86,400.
    """

    max_retries: int
    backoff_coefficient: float = 2.0
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        _integer("max_retries", self.max_retries, 0, 10)
        _number("backoff_coefficient", self.backoff_coefficient, 1.0, 10.0)
        _number("initial_delay", self.initial_delay, 0.0, 60.0)
        _number("max_delay", self.max_delay, 0.0, 86_400.0)

    def policy(self) -> RetryPolicy:
        """Return the form that travels."""
        return RetryPolicy(
            self.max_retries, self.backoff_coefficient, self.initial_delay, self.max_delay
        )


class Options(msgspec.Struct, frozen=True):
    """What a function asks for, in one form."""

    name: str | None = None
    resources: Resources = msgspec.field(default_factory=Resources)
    settings: PoolSettings = msgspec.field(default_factory=PoolSettings)
    retries: RetryPolicy = msgspec.field(default_factory=RetryPolicy)
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    startup_timeout_seconds: float | None = None
    rerun_on_crash: bool = True
    single_use: bool = False
    nested_loops: bool = False
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    image: Image | None = None
    """None: the notebook's own environment."""
    max_inputs: int = 1
    target_inputs: int = 0
    max_batch_size: int = 0
    batch_wait_seconds: float = 0.0
    tags: tuple[tuple[str, str], ...] = ()
    is_generator: bool | None = None
    """None: as the function's code says."""
    schedule: Schedule | None = None

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """The environment that is asked for: `env` before `secrets` before that of `image`."""
        image = self.image.variables if self.image is not None else {}
        return tuple(sorted((image | dict(self.secrets) | dict(self.env)).items()))

    def changes_pool(self) -> tuple[object, ...]:
        """Return what a pool cannot change while it runs; two functions that differ here differ."""
        settings = {"settings", "name", "tags", "is_generator", "schedule", "image"}
        names = self.__struct_fields__
        image = self.image.identity if self.image is not None else ""
        return (*(getattr(self, name) for name in names if name not in settings), image)

    def __repr__(self) -> str:
        """Say all but what may be secret."""
        shown = (name for name in self.__struct_fields__ if name not in {"env", "secrets"})
        return f"Options({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


def parse(given: Mapping[str, Any], start: Options | None = None) -> Options:
    """Return `start` (the defaults) with the options `given` in force.

    Raises:
        InvalidError: an option or a value that cannot be; the message says what is allowed.
    """
    options = start if start is not None else Options()
    for name, value in _modern(given).items():
        options = _READERS[name](options, name, value)
    _check_settings(options.settings)
    _check_sharing(options)
    return options


def with_concurrency(start: Options, max_inputs: object, target_inputs: object) -> Options:
    """Return `start` with several inputs at once in a worker; raise `InvalidError` as `parse`."""
    most, target = concurrency(max_inputs, target_inputs)
    options = replace(start, max_inputs=most, target_inputs=target)
    _check_sharing(options)
    return options


def with_batching(start: Options, max_batch_size: object, wait_ms: object) -> Options:
    """Return `start` with groups of inputs; raise `InvalidError` as `parse`."""
    size, seconds = batching(max_batch_size, wait_ms)
    options = replace(start, max_batch_size=size, batch_wait_seconds=seconds)
    _check_sharing(options)
    return options


def with_marks(start: Options, marks: Mapping[str, Any]) -> Options:
    """Return `start` with what `@concurrent` and `@batched` below say (see `marks`)."""
    options = start
    if "max_inputs" in marks:
        if options.max_inputs > 1:
            raise InvalidError(
                f"allow_concurrent_inputs={options.max_inputs}: @concurrent(max_inputs="
                f"{marks['max_inputs']}) was given too, and is the same option; keep one of them."
            )
        options = with_concurrency(options, marks["max_inputs"], marks["target_inputs"])
    if "max_batch_size" in marks:
        options = with_batching(options, marks["max_batch_size"], marks["wait_ms"])
    return options


def concurrency(max_inputs: object, target_inputs: object = None) -> tuple[int, int]:
    """Return what `@concurrent` says in one form: how many inputs at once, and the target or 0.

    Raises:
        InvalidError: a value that cannot be.
    """
    most = _integer("max_inputs", max_inputs, 1, _MOST_AT_ONCE)
    if target_inputs is None:
        return most, 0
    target = _integer("target_inputs", target_inputs, 1)
    if target > most:
        raise _bad("target_inputs", target_inputs, f"at most max_inputs={most}")
    return most, target if target < most else 0


def batching(max_batch_size: object, wait_ms: object) -> tuple[int, float]:
    """Return what `@batched` says in one form: the size of a group, and how long one waits.

    Raises:
        InvalidError: a value that cannot be.
    """
    size = _integer("max_batch_size", max_batch_size, 1, _MOST_AT_ONCE)
    return size, _integer("wait_ms", wait_ms, 0, _LONGEST_WAIT_MS) / 1000


def accepted() -> set[str]:
    """Return the names that `parse` takes, in the spellings of 2024 and 2026."""
    return {*_READERS, *_SPELLINGS_2024, _VOLUMES}


def check_settings(given: Mapping[str, Any], current: PoolSettings) -> PoolSettings:
    """Return `current` with the autoscaler's options `given` in force.

    Raises:
        InvalidError: as `parse`.
    """
    return parse(given, Options(settings=current)).settings


def _modern(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` in the names of 2026, without what has no meaning here."""
    modern: dict[str, Any] = {}
    for name, value in given.items():
        if name in cloud.NAMES or name == cloud.PROFILE:
            cloud.check("the decorator", {name: value})
            continue
        now = _SPELLINGS_2024.get(name, name)
        if now in modern:
            raise InvalidError(
                f"{name}={value!r}: {now} was given too, and is the same option; give one."
            )
        if now in _NOT_YET:
            _refuse_unbuilt(name, value)
            continue
        if now == _VOLUMES:
            _check_volumes(value)
            continue
        if now not in _READERS:
            raise InvalidError(_unknown(name))
        modern[now] = value
    return modern


def _check_volumes(mounts: object) -> None:
    """Look at where volumes are to be; they are there already, or it is refused."""
    if mounts:
        from notebook_ext.state.volumes import check_mounts  # noqa: PLC0415  where there are any

        check_mounts(mounts)


def _refuse_unbuilt(name: str, value: object) -> None:
    if value is not None and value not in ((), []):
        raise InvalidError(
            f"{name}={value!r}: {name} is not available yet in this version; leave it out."
        )


def _unknown(name: str) -> str:
    known = [*_READERS, *_SPELLINGS_2024, _VOLUMES, *_NOT_YET]
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is no option of a function.{hint} There are: {', '.join(_READERS)}."


def _bad(name: str, value: object, allowed: str) -> InvalidError:
    return InvalidError(f"{name}={value!r}: allowed is {allowed}.")


def _number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return `value` if it is a number in [low, high]."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not good:
        limit = (
            f"a number from {low:g} on" if high == math.inf else f"a number, {low:g} to {high:g}"
        )
        raise _bad(name, value, limit)
    assert isinstance(value, int | float)  # noqa: S101  just checked
    return float(value)


def _positive(name: str, value: object) -> float:
    number = _number(name, value, 0)
    if not 0 < number < math.inf:
        raise _bad(name, value, "a number of seconds above 0")
    return number


def _integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` if it is an int in [low, high]."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not good or value > (sys.maxsize if high is None else high):  # type: ignore[operator]
        limit = f"an int from {low} on" if high is None else f"an int, {low} to {high}"
        raise _bad(name, value, limit)
    assert isinstance(value, int)  # noqa: S101  just checked
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(name, value, "True or False")
    return value


def _read_name(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    if not isinstance(value, str) or not value or "/" in value:
        raise _bad(name, value, "a non-empty str without a slash")
    return replace(options, name=value)


def _read_cpu(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    cpu = _number(name, value, 0)
    if not 0 < cpu < math.inf:
        raise _bad(name, value, "a number of cores above 0")
    return replace(options, resources=_resources(options, cpu=cpu))


def _read_memory(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    request, limit = value if isinstance(value, tuple) and len(value) == 2 else (value, None)  # noqa: PLR2004  a pair
    numbers = (request, request if limit is None else limit)
    if not all(type(each) is int and 1 <= each <= _MOST_MIB for each in numbers):
        raise _bad(name, value, "an int of MiB from 1 on, or (request, limit)")
    if limit is not None and limit < request:
        raise _bad(name, value, "(request, limit) with a limit that is not below the request")
    return replace(
        options, resources=_resources(options, memory_mib=request, memory_limit_mib=limit or 0)
    )


def _read_gpu(options: Options, name: str, value: object) -> Options:
    gpu, kind = _gpu(name, value)
    return replace(options, resources=_resources(options, gpu=gpu, gpu_kind=kind))


def _gpu(name: str, value: object) -> tuple[float, str]:
    """Return how many devices (or which fraction of one) of which kind ("" is any)."""
    allowed = 'None, "any", a kind such as "H200" or "H200:2", an int, or a fraction below 1'
    if value is None:
        return 0.0, ""
    if isinstance(value, str) and (match := _GPU.match(value)):
        count = int(match["count"] or 1)
        if count:
            return float(count), "" if match["kind"].lower() == "any" else match["kind"]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        number = float(value)
        if number < 1 or number.is_integer():
            return number, ""
    raise _bad(name, value, allowed)


def _resources(options: Options, **changed: Any) -> Resources:
    import msgspec  # noqa: PLC0415  only where an option is given

    return msgspec.structs.replace(options.resources, **changed)


def _settings(options: Options, **changed: Any) -> Options:
    import msgspec  # noqa: PLC0415  only where an option is given

    return replace(options, settings=msgspec.structs.replace(options.settings, **changed))


def _read_count(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    return _settings(options, **{name: _integer(name, value, 0, _MOST_KEPT)})


def _read_ceiling(options: Options, name: str, value: object) -> Options:
    return _settings(options, **{name: None if value is None else _integer(name, value, 1)})


def _read_window(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    return _settings(options, scaledown_window_seconds=_positive(name, value))


def _read_timeout(options: Options, name: str, value: object) -> Options:
    return options if value is None else replace(options, timeout_seconds=_positive(name, value))


def _read_startup(options: Options, name: str, value: object) -> Options:
    seconds = None if value is None else _positive(name, value)
    return replace(options, startup_timeout_seconds=seconds)


def _read_retries(options: Options, name: str, value: object) -> Options:
    if value is None:
        return replace(options, retries=RetryPolicy())
    if isinstance(value, Retries):
        return replace(options, retries=value.policy())
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10:  # noqa: PLR2004  documented
        raise _bad(name, value, "an int, 0 to 10, or Retries(...)")
    return replace(options, retries=Retries(value, 1.0).policy())


def _read_rerun(options: Options, name: str, value: object) -> Options:
    return replace(options, rerun_on_crash=_flag(name, value))


def _read_single(options: Options, name: str, value: object) -> Options:
    return replace(options, single_use=_flag(name, value))


def _read_loops(options: Options, name: str, value: object) -> Options:
    return replace(options, nested_loops=_flag(name, value))


def _read_concurrent(options: Options, name: str, value: object) -> Options:
    if value is None:
        return options
    most = _integer(name, value, 1, _MOST_AT_ONCE)
    return replace(options, max_inputs=most, target_inputs=0)


def _read_env(options: Options, name: str, value: object) -> Options:
    pairs = variables(name, {} if value is None else value)
    return replace(options, env=tuple(sorted(pairs.items())))


def _read_secrets(options: Options, name: str, value: object) -> Options:
    given = [] if value is None else value
    if not isinstance(given, list | tuple) or not all(isinstance(each, Secret) for each in given):
        kind = type(given).__name__
        raise InvalidError(
            f"{name}=<{kind}>: allowed is a list of Secret, as in [Secret.from_dict(…)]."
        )
    merged: dict[str, str] = {}
    for each in given:
        merged |= each.values
    return replace(options, secrets=tuple(sorted(merged.items())))


def _read_image(options: Options, name: str, value: object) -> Options:
    if value is None:
        return replace(options, image=None)
    from notebook_ext.image import Image  # noqa: PLC0415  not everybody has one

    if not isinstance(value, Image):
        raise _bad(name, value, "an Image, such as Image.debian_slim().pip_install('numpy')")
    return replace(options, image=value)


def _read_tags(options: Options, name: str, value: object) -> Options:
    return replace(options, tags=_pairs(name, value))


def _pairs(name: str, value: object) -> tuple[tuple[str, str], ...]:
    pairs = {} if value is None else value
    if not isinstance(pairs, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in pairs.items()
    ):
        raise _bad(name, value, "a dict of str to str")
    return tuple(sorted(pairs.items()))


def _read_generator(options: Options, name: str, value: object) -> Options:
    return replace(options, is_generator=None if value is None else _flag(name, value))


def _read_schedule(options: Options, name: str, value: object) -> Options:
    if value is None:
        return replace(options, schedule=None)
    from notebook_ext import schedule  # noqa: PLC0415  only where there is one

    return replace(options, schedule=schedule.read(name, value))


def _read_serialized(options: Options, name: str, value: object) -> Options:
    _flag(name, value)  # every function travels by value
    return options


def _check_settings(settings: PoolSettings) -> None:
    """Raise `InvalidError` where two settings contradict each other."""
    ceiling = settings.max_containers
    if ceiling is not None and settings.min_containers > ceiling:
        raise InvalidError(
            f"min_containers={settings.min_containers}: allowed is at most "
            f"max_containers={ceiling}."
        )


def _check_sharing(options: Options) -> None:
    """Raise `InvalidError` where a worker cannot run inputs at once as they say."""
    if options.max_inputs > 1 and options.max_batch_size:
        raise InvalidError(
            f"max_inputs={options.max_inputs}: a batched function (max_batch_size="
            f"{options.max_batch_size}) runs one group at a time in a worker; use max_containers "
            "for more groups at once, or a larger max_batch_size."
        )
    option = "max_inputs" if options.max_inputs > 1 else "max_batch_size"
    if options.single_use and (options.max_inputs > 1 or options.max_batch_size > 1):
        raise InvalidError(
            f"single_use_containers=True: allowed is {option}=1 beside it: a worker that is used "
            "once runs one input."
        )


_READERS: dict[str, Callable[[Options, str, Any], Options]] = {
    "name": _read_name,
    "cpu": _read_cpu,
    "memory": _read_memory,
    "gpu": _read_gpu,
    "min_containers": _read_count,
    "max_containers": _read_ceiling,
    "buffer_containers": _read_count,
    "scaledown_window": _read_window,
    "timeout": _read_timeout,
    "startup_timeout": _read_startup,
    "rerun_on_crash": _read_rerun,
    "retries": _read_retries,
    "allow_concurrent_inputs": _read_concurrent,
    "single_use_containers": _read_single,
    "nested_loops": _read_loops,
    "env": _read_env,
    "secrets": _read_secrets,
    "image": _read_image,
    "tags": _read_tags,
    "is_generator": _read_generator,
    "schedule": _read_schedule,
    "serialized": _read_serialized,
}
