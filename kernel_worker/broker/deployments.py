"""What is deployed: functions that are known by app and name, to everybody and after a restart.

Theory. A deployed function's key (`deployed/<app>/<name>`) may stand wherever a client names a
pool: the door puts the version in its place that is in force at that moment, with its snapshot and
its table. So a client that looked a function up, however long ago, calls the newest version and
needs no word about a new one; and no answer is older than the question.

To the core, what is deployed is defined by a client that never leaves (`KEEPER`): it holds the
floors, which keep the broker awake, as schedules do (`schedules`). Deployments without one do not;
the next client starts a broker, which finds them in the journal.

A class has no pool; its instances are names too (`<class>(<digest of the parameters>)`), of which
the pool is derived from the class that is in force. It is defined in the name of the client that
uses it, so that nothing stays of instances that nobody uses. One whose settings were changed is
from then on a part of the deployment, like a function.

Guarantees: a version is in force when it is on the disk, and then from the next call on; calls that
are open stay with the version that they began with, whose workers end with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kernel_worker import moments
from kernel_worker.broker.bounds import check_numbers
from kernel_worker.core import events
from kernel_worker.errors import Error, InvalidError, NotFoundError
from kernel_worker.model import ClientId, Digest, deployed_key, instance_parts
from kernel_worker.records import Deployment
from kernel_worker.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kernel_worker.broker.lookups import Lookups
    from kernel_worker.broker.loop import Broker
    from kernel_worker.broker.peers import Client
    from kernel_worker.model import DeployedFunction, FunctionKey, FunctionSpec

KEEPER = ClientId("deployed")
"""The client that never leaves."""
_NEAR = 0.5


class Register:
    """The versions of all apps, and which are in force."""

    def __init__(self) -> None:
        """Know none."""
        self.in_force: dict[str, Deployment] = {}
        self._history: dict[str, list[messages.DeploymentInfo]] = {}

    def restore(self, deployments: Iterable[tuple[Deployment, float | None]]) -> None:
        """Know again what the journal holds, oldest first."""
        for deployment, ended_at in deployments:
            self._history.setdefault(deployment.app, []).append(_info(deployment, ended_at))
            if ended_at is None:
                self.in_force[deployment.app] = deployment

    def next_version(self, app: str) -> int:
        """Return the number of the app's next version."""
        versions = self._history.get(app)
        return versions[-1].version + 1 if versions else 1

    def enforce(self, deployment: Deployment) -> messages.DeploymentInfo:
        """Put a new version in the place of the one before."""
        self.end(deployment.app, deployment.deployed_at)
        info = _info(deployment, None)
        self._history.setdefault(deployment.app, []).append(info)
        self.in_force[deployment.app] = deployment
        return info

    def end(self, app: str, at: float) -> messages.DeploymentInfo | None:
        """Have no version of the app in force; return which one was."""
        if self.in_force.pop(app, None) is None:
            return None
        ended = msgspec.structs.replace(self._history[app][-1], ended_at=at)
        self._history[app][-1] = ended
        return ended

    def listed(self, app: str) -> list[messages.DeploymentInfo]:
        """Return all versions of `app`, or those of all apps that are in force; newest first.

        Raises:
            NotFoundError: the app was never deployed.
        """
        if not app:
            current = [self._history[name][-1] for name in self.in_force]
            return sorted(current, key=lambda info: info.deployed_at, reverse=True)
        if app not in self._history:
            raise NotFoundError(_unknown(f"no app {app!r} was deployed", app, self._history))
        return self._history[app][::-1]

    def resolve(self, key: str) -> DeployedFunction:
        """Return the function behind a key, in the version that is in force.

        Raises:
            NotFoundError: there is none; the message has the nearest names.
        """
        app, _, name = key.partition("/")[2].partition("/")
        deployment = self.in_force.get(app)
        if deployment is None:
            message = f"no app {app!r} is deployed, of which {name!r} could be a function"
            raise NotFoundError(_unknown(message, app, self.in_force))
        kind, parameters = instance_parts(name)
        for function in deployment.functions:
            if function.name == name:
                return function
        for function in deployment.functions:
            if parameters and function.name == kind and function.spec.is_abstract:
                return function.instance(parameters)
        names = [each.name for each in deployment.functions if not each.is_instance]
        message = f"the app {app!r} (version {deployment.version}) has no function {kind!r}, "
        raise NotFoundError(_unknown(f"{message}and no such class", kind, names))

    def runnable(self, key: str) -> DeployedFunction:
        """Return the function or the instance behind a key; see `resolve`.

        Raises:
            NotFoundError: there is none; the message has the nearest names.
            InvalidError: it is a class.
        """
        found = self.resolve(key)
        if found.spec.is_abstract:
            text = (
                f"{found.name} is a class: find it with Cls.from_name, and call a method of an"
                " instance"
            )
            raise InvalidError(text)
        return found


def _unknown(message: str, wanted: str, names: Iterable[str]) -> str:
    """Return the message with the nearest of `names`, or with all where none is near."""
    import difflib  # noqa: PLC0415  a broker that nobody asks for a wrong name stays small

    known = list(names)
    near = difflib.get_close_matches(wanted, known, 3, _NEAR) or sorted(known)[:10]
    return f"{message}; {'nearest' if near else 'there are none'}{': ' * bool(near)}" + ", ".join(
        near
    )


def _info(deployment: Deployment, ended_at: float | None) -> messages.DeploymentInfo:
    return messages.DeploymentInfo(
        deployment.app,
        deployment.version,
        deployment.deployed_at,
        ended_at,
        tuple(each.name for each in deployment.functions if not each.is_instance),
        deployment.tag,
    )


class Deployments:
    """Serves those who deploy, stop and ask."""

    def __init__(self, broker: Broker, register: Register, lookups: Lookups) -> None:
        """Serve `broker`; `lookups` says when the journal has what was written before."""
        self._broker = broker
        self._register = register
        self._lookups = lookups
        self._promised: dict[str, int] = {}
        """The newest version of each app, also where it is on its way to the disk."""

    def restore(self, deployments: list[tuple[Deployment, float | None]]) -> None:
        """Have the core know what the journal holds; the objects are there."""
        self._register.restore(deployments)
        for deployment in self._register.in_force.values():
            self._own(deployment)
            self._define(deployment)
        self._broker.schedules.adopt()

    # ---- what is asked --------------------------------------------------------------------------

    def ask(self, client: Client, ask: messages.Ask) -> None:
        """Answer a question about what is deployed."""
        try:
            body: object
            if ask.what == "lookup":
                body = self._register.resolve(ask.subject)
            elif ask.what == "deployments":
                described = self._broker.schedules.described
                body = [described(each) for each in self._register.listed(ask.subject)]
            else:
                self._stop(client, ask)
                return
        except Error as error:
            self._fail(client, ask.request, error)
        else:
            self._reply(client, ask.request, body)

    def deploy(self, client: Client, message: messages.Deploy) -> None:
        """Write a new version down, then put it in force and answer."""
        check_numbers(message.functions)
        if wrong := _wrong_names(message) or _wrong_schedules(message.functions):
            self._fail(client, message.request, InvalidError(wrong))
            return
        contents = self._contents(message.functions)
        missing = [digest for digest, content in contents.items() if content is None]
        if missing:
            text = f"{message.app} names object {missing[0]}, which the broker does not have"
            self._fail(client, message.request, NotFoundError(text))
            return
        promised = self._promised.get(message.app, 0)
        version = max(promised + 1, self._register.next_version(message.app))
        self._promised[message.app] = version
        now = self._broker.now()
        deployment = Deployment(message.app, version, now, message.functions, message.tag)
        self._own(deployment)
        self._broker.keep_deployment(deployment, contents)

        def put_in_force() -> None:
            former = self._register.in_force.get(message.app)
            info = self._register.enforce(deployment)
            self._define(deployment)
            if former is not None:
                self._release(former, kept=_specs(deployment.functions))
            self._broker.schedules.adopt()
            self._reply(client, message.request, self._broker.schedules.described(info))

        self._lookups.when_written(put_in_force)

    def _stop(self, client: Client, ask: messages.Ask) -> None:
        app, now = ask.subject, self._broker.now()
        if app not in self._register.in_force:
            text = _unknown(f"no app {app!r} is deployed", app, self._register.in_force)
            raise NotFoundError(text)
        self._broker.end_deployment(app, now)

        def end() -> None:
            former = self._register.in_force.get(app)
            info = self._register.end(app, now)
            if former is not None:
                self._release(former, kept={})
            self._broker.schedules.adopt()
            self._reply(client, ask.request, info)

        self._lookups.when_written(end)

    def enlist(self, client: Client, key: FunctionKey) -> None:
        """Have the core know the pool of an instance that `client` names; others it knows."""
        try:
            found = self._register.resolve(key)
        except NotFoundError:
            return  # whoever asks for more says so
        spec = found.spec
        if not spec.parameters or spec.pool in client.instances:
            return
        if not self._broker.objects.missing(spec.objects):
            client.instances[spec.pool] = key
            self._broker.define(client.id, spec)
            self._broker.hook_tables.keep(spec, found.table, found.requires)

    def configured(self, key: FunctionKey) -> None:
        """Write down that the settings of a deployed function or instance have changed."""
        app = key.split("/", 2)[1]
        deployment = self._register.in_force[app]
        found, functions = self._register.resolve(key), deployment.functions
        contents: dict[Digest, bytes | memoryview | None] = {}
        if found not in functions:
            functions = (*functions, found)
            contents[found.spec.parameters] = self._broker.objects.get(found.spec.parameters)
        functions = tuple(self._as_configured(each) for each in functions)
        changed = msgspec.structs.replace(deployment, functions=functions)
        self._register.in_force[app] = changed
        self._own(changed)
        self._define(changed)
        self._broker.keep_deployment(changed, contents)

    def _as_configured(self, function: DeployedFunction) -> DeployedFunction:
        counts = self._broker.scheduler.pool_stats(function.spec.pool)
        if counts is None or counts.settings == function.spec.settings:
            return function
        spec = msgspec.structs.replace(function.spec, settings=counts.settings)
        return msgspec.structs.replace(function, spec=spec)

    # ---- the core and the objects ---------------------------------------------------------------

    def _define(self, deployment: Deployment) -> None:
        for spec in _specs(deployment.functions).values():
            self._broker.define(KEEPER, spec)
        for function in deployment.functions:
            for spec in (*function.nested, function.spec):
                self._broker.hook_tables.keep(spec, function.table, function.requires)

    def _release(self, former: Deployment, kept: Mapping[str, FunctionSpec]) -> None:
        for pool, spec in _specs(former.functions).items():
            if pool not in kept:
                self._broker.handle(events.FunctionReleased(KEEPER, spec.pool))
        for client in list(self._broker.peers.clients.values()):
            self._dismiss(client, former.app)
        if self._register.in_force.get(former.app) is not former:
            self._broker.objects.forget(_owner(former))
        self._broker.release_pools()

    def _dismiss(self, client: Client, app: str) -> None:
        """Let go of the instances of former versions that `client` has used."""
        for pool, key in list(client.instances.items()):
            if not key.startswith(deployed_key(app, "")):
                continue
            try:
                spec = self._register.resolve(key).spec
            except NotFoundError:
                spec = None
            if spec is not None and spec.pool == pool:
                self._broker.define(client.id, spec)  # the options that make no pool may differ
            else:
                del client.instances[pool]
                self._broker.handle(events.FunctionReleased(client.id, pool))

    def _own(self, deployment: Deployment) -> None:
        self._broker.objects.own(_owner(deployment), objects_of(deployment.functions))

    def _contents(
        self, functions: Iterable[DeployedFunction]
    ) -> dict[Digest, bytes | memoryview | None]:
        return {digest: self._broker.objects.get(digest) for digest in objects_of(functions)}

    # ---- answers --------------------------------------------------------------------------------

    def _reply(self, client: Client, request: int, body: object) -> None:
        self._say(client, messages.Reply(request, msgspec.Raw(msgspec.msgpack.encode(body))))

    def _fail(self, client: Client, request: int, error: Error) -> None:
        body = msgspec.Raw(msgspec.msgpack.encode(str(error)))
        self._say(client, messages.Reply(request, body, type(error).__name__))

    def _say(self, client: Client, reply: messages.Reply) -> None:
        if self._broker.peers.clients.get(client.id) is client:
            self._broker.send(client.routing, messages.encode(reply))


def _wrong_names(message: messages.Deploy) -> str:
    """Return why nobody could call what is deployed by its name, or an empty string."""
    app = message.app
    if not app or "/" in app or not message.functions:
        return f"app={app!r}: allowed is a name without a slash, of an app with functions"
    for function in message.functions:
        if function.spec.key != deployed_key(app, function.name):
            return f"{function.spec.key} is not the key of {function.name!r} of {app!r}"
    return ""


def _wrong_schedules(functions: Iterable[DeployedFunction]) -> str:
    """Return which function could not be called by itself as it says, or an empty string."""
    for function in functions:
        try:
            if function.schedule is not None:
                moments.check(function.schedule)
        except InvalidError as error:
            return f"{function.name}: {error}"
        if function.schedule is not None and function.shape:
            return f"{function.name} is a class: allowed is a schedule of a function"
    return ""


def objects_of(functions: Iterable[DeployedFunction]) -> set[Digest]:
    """Return the objects that calls of these functions may need."""
    found: set[Digest] = set()
    for function in functions:
        found |= {function.snapshot, function.table, *function.requires}
        for spec in (function.spec, *function.nested):
            found |= set(spec.objects)
    return found - {Digest("")}


def _specs(functions: Iterable[DeployedFunction]) -> dict[str, FunctionSpec]:
    """Return what these functions run, themselves last, so that their settings are in force.

    Classes have no pools.
    """

    def every() -> Iterator[FunctionSpec]:
        kept = list(functions)
        for function in kept:
            yield from function.nested
        for function in kept:
            if not function.spec.is_abstract:
                yield function.spec

    return {spec.pool: spec for spec in every()}


def _owner(deployment: Deployment) -> str:
    return deployed_key(deployment.app, str(deployment.version))
