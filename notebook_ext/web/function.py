"""`WebFunction`: a function with a URL; `WebMethod`: a method with one.

Theory. A function that is an endpoint is called by HTTP alone, on workers that make its app when
they are entered and end it when they leave: so it is a class with that one endpoint, whose pool is
the function's. A class of the user's that has endpoints gets the same (`serving.equip`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kernel_worker.errors import InvalidError, NotFoundError
from kernel_worker.model import digest_of
from notebook_ext import options as options_
from notebook_ext.cls import Cls
from notebook_ext.instance import Obj, instance_of
from notebook_ext.twin import Waiting, twin
from notebook_ext.web import serving
from notebook_ext.web.endpoints import endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from notebook_ext.app import App
    from notebook_ext.autoscaler import Autoscaler
    from notebook_ext.options import Options
    from notebook_ext.web.endpoints import Endpoint

SERVER_INPUTS = 100
"""So many requests at once a `@web_server` gets that says nothing of it."""
_REMOTE = (
    "for_each",
    "map",
    "remote",
    "remote_gen",
    "spawn",
    "spawn_map",
    "starmap",
)


class WebFunction(Cls):
    """A function that is called by HTTP; `App.function` makes it of one that is marked so."""

    def __init__(
        self, raw: Callable[..., Any], app: App, options: Options, variant: str = ""
    ) -> None:
        """Wrap `raw`; see `App.function`."""
        name = raw.__name__
        kind = type(
            name,
            (),
            {
                "__module__": raw.__module__,
                "__qualname__": raw.__qualname__,
                "__doc__": raw.__doc__,
                name: staticmethod(raw),
            },
        )
        serving.equip(kind)
        self._plain = raw
        self._function_name = name
        self._endpoint = endpoints_of(kind)[name]
        super().__init__(kind, app, _fitting(options, self._endpoint, raw.__qualname__), variant)
        self._shape = self.shape._replace(function=name)

    @property
    def shown_endpoint(self) -> str:
        """The name of its only endpoint."""
        return self.name

    @property
    def web_url(self) -> str:
        """The URL at which it is served, from now on: here, as long as this process lives.

        What is deployed has another one: `Function.from_name(app, name).web_url`.
        """
        return _served(self, _only_instance, self._function_name, self._endpoint)

    @twin
    def get_web_url(self, /) -> Waiting[str | None]:
        """Return `web_url`."""
        return _known(lambda: self.web_url)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, as the plain function would; the same as `local`."""
        __tracebackhide__ = True
        return self._plain(*args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, as the plain function would."""
        __tracebackhide__ = True
        return self._plain(*args, **kwargs)

    def get_raw_f(self) -> Any:
        """Return the plain function."""
        return self._plain

    def _variant(self, options: Options) -> WebFunction:
        mark = digest_of(repr((options.changes_pool(), options.settings)).encode())[:8]
        return WebFunction(self._plain, self._own_app(), options, f"~{mark}")

    def instance(self) -> Obj:
        """Return the instance whose workers serve it."""
        return _only_instance(self)

    @property
    def keep_warm(self) -> Any:
        """Keep so many workers warm; see `Function.keep_warm`."""
        return self.instance().keep_warm

    @property
    def update_autoscaler(self) -> Any:
        """Change how many workers there are; see `Function.update_autoscaler`."""
        return self.instance().update_autoscaler

    @property
    def autoscaler(self) -> Autoscaler:
        """The same by other names."""
        return self.instance().autoscaler

    @property
    def get_current_stats(self) -> Any:
        """Return how many requests wait and how many workers there are."""
        return self.instance().get_current_stats

    @property
    def version(self) -> str:
        """The content hash of the code as it is now."""
        return str(self.read().spec.version)

    def __getattr__(self, name: str) -> Any:
        """Say of what functions have that it is called by HTTP."""
        if name in _REMOTE:
            raise InvalidError(
                f"{self.name}.{name}: {self.name} has @{self._endpoint.kind}, and is called by "
                f"HTTP at {self.name}.web_url; call .local(...) to run it here."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<Function {self.__module__}.{self.name}, @{self._endpoint.kind}>"


class WebMethod:
    """An endpoint of an instance: `Model("base").web`."""

    def __init__(self, instance: Obj, name: str, endpoint: Endpoint) -> None:
        """Stand for the method `name` of `instance`."""
        self._instance = instance
        self._name = name
        self._endpoint = endpoint

    @property
    def web_url(self) -> str:
        """The URL at which it is served, from now on: here, as long as this process lives."""
        instance = self._instance
        cls, parameters = instance._cls, instance._pool.encoded  # noqa: SLF001  its own
        return _served(
            cls, lambda newest: instance_of(newest, parameters), self._name, self._endpoint
        )

    @twin
    def get_web_url(self, /) -> Waiting[str | None]:
        """Return `web_url`."""
        return _known(lambda: self.web_url)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, on an instance that is made and entered when it is first used here."""
        __tracebackhide__ = True
        return getattr(self._instance._here(), self._name)(*args, **kwargs)  # noqa: SLF001  its own

    local = __call__

    def __getattr__(self, name: str) -> Any:
        """Say of what methods have that it is called by HTTP."""
        if name in _REMOTE:
            raise InvalidError(
                f"{self._name}.{name}: {self._name} has @{self._endpoint.kind}, and is called by "
                f"HTTP at {self._name}.web_url; call .local(...) to run it here."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<method {self._instance._cls.name}.{self._name}, @{self._endpoint.kind}>"  # noqa: SLF001  its own


def check_options(options: Options, kind: Any) -> Options:
    """Return the options of a class with endpoints; see `_fitting`."""
    for name, endpoint in endpoints_of(kind).items():
        options = _fitting(options, endpoint, f"{kind.__qualname__}.{name}")
    return options


def _fitting(options: Options, endpoint: Endpoint, name: str) -> Options:
    """Return the options of an endpoint; raise `InvalidError` for those that it cannot have."""
    if options.retries.max_retries:
        raise InvalidError(
            f"retries={options.retries.max_retries}: {name} has @{endpoint.kind}, and whoever sent "
            "a request knows whether to send it again; allowed is 0."
        )
    if options.max_batch_size:
        raise InvalidError(
            f"max_batch_size={options.max_batch_size}: {name} has @{endpoint.kind}, which takes "
            "one request at a time; use @concurrent, or call a batched function in it."
        )
    if endpoint.kind != "web_server":
        return options
    most = options.settings.max_containers
    if (most is not None and most > 1) or options.settings.min_containers > 1:
        raise InvalidError(
            f"max_containers={most}: {name} has @web_server({endpoint.port}), and two servers "
            "cannot listen at one port; allowed is 1. Its worker serves many requests at once."
        )
    options = replace(
        options, settings=replace(options.settings, max_containers=1, buffer_containers=0)
    )
    if options.max_inputs == 1:
        options = options_.with_concurrency(options, SERVER_INPUTS, None)
    return options


def _only_instance(cls: Cls) -> Obj:
    return Obj(cls, cls.pool(cls.shape.constructor.bound((), {})))


def _served(cls: Cls, instance: Any, name: str, endpoint: Endpoint) -> str:
    if cls.is_looked_up:
        return _deployed(cls, name)
    from notebook_ext.web import here  # noqa: PLC0415  asyncio, and a thread: where one is asked for

    return here.serve(cls, instance, name, endpoint)


def _deployed(cls: Cls, name: str) -> str:
    from notebook_ext.web import deployed  # noqa: PLC0415  where one is asked for

    url = deployed.url_of(cls.key, name)
    if url is None:
        raise NotFoundError(f"{cls.name}.{name} is not deployed")
    return url


def _known(find: Callable[[], str | None]) -> Waiting[str | None]:
    waiting: Waiting[str | None] = Waiting()
    waiting.complete(find)
    return waiting
