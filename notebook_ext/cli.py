"""The command line, `notebook-ext`: run and deploy scripts, and look at what the broker does.

What is done with brokers, hosts, calls, secrets and state stands in rooms named `…commands`.
Errors of ours are one line on stderr and exit status 1, wrong options exit status 2; an exception
of the user's code shows its traceback from the user's file on.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import traceback
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from kernel_worker import errors
from notebook_ext import call_commands, inquiry, machine_commands
from notebook_ext.call import FunctionCall
from notebook_ext.call_status import STATES, call_filter
from notebook_ext.config import afresh, choose
from notebook_ext.image_cache import image
from notebook_ext.secret_commands import secret
from notebook_ext.state import commands as state_commands
from notebook_ext.widgets.status import (
    CallsReport,
    StatusReport,
    moment,
    next_moment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.wire import messages


class _Group(click.Group):
    """A group in which our errors are one line and no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.Error as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.version_option(version("notebook-ext"), prog_name="notebook-ext")
def main() -> None:
    """Look at and control what runs the notebooks' remote functions."""


@main.command()
def status() -> None:
    """Show the broker, hosts, pools, workers and recent calls; starts nothing."""
    report = StatusReport(inquiry.status())
    click.echo(repr(report))
    if report.status is None:
        sys.exit(1)


@main.command()
@click.option("--once", is_flag=True, help="Print it once, and return.")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=1.0, help="Seconds between two looks."
)
def top(once: bool, interval: float) -> None:  # noqa: FBT001  a flag
    """Show live what runs where: hosts, pools, open calls. The key q quits."""
    from notebook_ext import top as display  # noqa: PLC0415  it needs rich

    sys.exit(display.run(once=once, interval_seconds=interval))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--limit",
    type=click.FloatRange(0.1),
    default=60.0,
    help="Seconds that a worker may take to answer.",
)
def doctor(as_json: bool, limit: float) -> None:  # noqa: FBT001  a flag
    """Look at the installation, the machine and the connection, and say what to do.

    The exit status is 1 where there is a problem.
    """
    from notebook_ext import doctor as looks  # noqa: PLC0415  it needs rich and packaging

    sys.exit(looks.run(as_json=as_json, limit_seconds=limit))


@main.command()
@click.option("--app", help="Those of this app alone.")
@click.option("--status", type=click.Choice(STATES), help="Those in this state alone.")
@click.option("--limit", type=click.IntRange(1), default=100, help="How many at most.")
def calls(app: str | None, status: str | None, limit: int) -> None:
    """Show recent calls, also ended ones, newest first."""
    found = inquiry.calls(call_filter(app, status, limit))
    click.echo(repr(CallsReport(found)))
    if found is None:
        sys.exit(1)


@main.command()
@click.argument("call")
@click.option("--prefix", is_flag=True, help="Begin each line with its input.")
def logs(call: str, prefix: bool) -> None:  # noqa: FBT001  a flag
    """Print what CALL has written: stdout here to stdout, the rest to stderr."""
    for record in FunctionCall.from_id(call).logs():
        mark = f"[#{record.index}] " if prefix and record.index >= 0 else ""
        click.echo(f"{mark}{record}", err=record.stream not in ("stdout", "display"))


_profile = click.option(
    "-e", "--env", "profile", help="The profile (environment) whose broker is meant."
)
_as_module = click.option("-m", "--module", is_flag=True, help="TARGET is MODULE[::NAME].")
_any_arguments = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@main.command(context_settings=_any_arguments)
@_profile
@_as_module
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(profile: str | None, module: bool, target: str, arguments: tuple[str, ...]) -> None:  # noqa: FBT001  click's
    """Run TARGET, FILE[::NAME]: its local entrypoint, or its function on a worker.

    ARGUMENTS are options made from the signature; see them with `TARGET --help`.
    """
    choose(profile)
    script, entrypoint, function = _scripts()
    with _users_errors(target):
        loaded = script.load(target, arguments, is_module=module)
    runnable = loaded.runnable()
    is_remote = isinstance(runnable, function.Function)
    raw = runnable.get_raw_f() if is_remote else runnable
    name = runnable.name if is_remote else raw.__name__
    given = entrypoint.parse(raw, name, arguments)
    call = runnable.remote if is_remote else raw
    with _users_errors(target):
        result = call(*given.positional, **given.named)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    if is_remote and result is not None:
        click.echo(repr(result))


async def _awaited(result: Any) -> Any:
    return await result


@main.command()
@_profile
@_as_module
@click.option("--name", help="The name to deploy under, where it is not the app's own.")
@click.option("--tag", default="", help="What you call this version.")
@click.argument("target")
def deploy(profile: str | None, module: bool, name: str | None, tag: str, target: str) -> None:  # noqa: FBT001  click's
    """Deploy the app of TARGET, FILE[::APP]: its functions are known by name from then on."""
    choose(profile)
    script, _, _ = _scripts()
    with _users_errors(target):
        loaded = script.load(target, is_module=module)
    done = loaded.app().deploy(name, tag=tag)
    click.echo(f"Deployed {done.app} v{done.version}: {', '.join(done.functions)}")
    for each in done.schedules:
        click.echo(f"{each.name}: {each.schedule}, next {next_moment(each)}")
    for each, url in done.urls.items():
        click.echo(f"  {each}: {url}")


@main.command()
@_profile
@_as_module
@click.argument("target")
def serve(profile: str | None, module: bool, target: str) -> None:  # noqa: FBT001  click's
    """Serve the endpoints of the app of TARGET, FILE[::APP], until Ctrl-C.

    Where a file beside it changes, TARGET is run again, and its endpoints are those of the new one.
    """
    choose(profile)
    from notebook_ext.web import reloading  # noqa: PLC0415  it needs the group `web`

    reloading.serve(target, is_module=module, users_errors=_users_errors)


@main.group()
def web() -> None:
    """Look at deployed web endpoints, and at the token."""


@web.command("list")
@_profile
def web_list(profile: str | None) -> None:
    """List the deployed endpoints and their URLs."""
    choose(profile)
    from notebook_ext.web import deployed  # noqa: PLC0415  not for a status

    for each in deployed.entries():
        click.echo(f"{each['app']}  {each['shown']}  {each['url']}")


@web.command("token")
@_profile
def web_token(profile: str | None) -> None:
    """Print the token that requests need from other machines; it is made now if there is none."""
    choose(profile)
    from notebook_ext.web.places import Places  # noqa: PLC0415  not for a status

    click.echo(Places(afresh()).token())


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def migrate(file: str) -> None:
    """Tell what of the Modal script FILE is not covered, and what to write instead; runs nothing.

    The exit status is 1 where something is not covered.
    """
    from notebook_ext import migrate as reading  # noqa: PLC0415  only where it is asked for

    with open(file, encoding="utf-8", errors="replace") as text:  # noqa: PTH123  click's word
        report = reading.look(text.read(), file)
    for line in reading.lines(report, file):
        click.echo(line)
    if report.findings:
        sys.exit(1)


@main.group()
def app() -> None:
    """Look at deployed apps, and stop them."""


@app.command("list")
@_profile
def app_list(profile: str | None) -> None:
    """List what is deployed."""
    choose(profile)
    found = inquiry.deployments("")
    click.echo(_table(found) if found else "Nothing is deployed.")


@app.command("history")
@_profile
@click.argument("name")
def app_history(profile: str | None, name: str) -> None:
    """List all versions of the app NAME, newest first."""
    choose(profile)
    found = inquiry.deployments(name)
    if not found:
        raise errors.NotFoundError(f"no app {name!r} was deployed")
    click.echo(_table(found))


@app.command("stop")
@_profile
@click.argument("name")
def app_stop(profile: str | None, name: str) -> None:
    """End the deployment of the app NAME; its calls in flight end by themselves."""
    choose(profile)
    stopped = inquiry.stop_app(name)
    from notebook_ext.web import deployed  # noqa: PLC0415  not for a status

    deployed.withdraw(name)
    click.echo(f"Stopped: {stopped.app} v{stopped.version}")


main.add_command(state_commands.dict_group)
main.add_command(state_commands.queue_group)
main.add_command(state_commands.volume_group)
main.add_command(machine_commands.broker)
main.add_command(machine_commands.host)
main.add_command(machine_commands.provider)
main.add_command(call_commands.cancel)
main.add_command(call_commands.attach)
app.add_command(call_commands.app_logs)
main.add_command(image)
main.add_command(secret)


def _table(found: list[messages.DeploymentInfo]) -> str:
    rows = [("app", "version", "tag", "deployed", "ended", "functions", "next")]
    rows += [
        (
            each.app,
            f"v{each.version}",
            each.tag,
            moment(each.deployed_at),
            "" if each.ended_at is None else moment(each.ended_at),
            ", ".join(each.functions),
            ", ".join(f"{one.name} {next_moment(one)}" for one in each.schedules),
        )
        for each in found
    ]
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    lines = ["  ".join(f"{row[at]:{widths[at]}}" for at in used).rstrip() for row in rows]
    return "\n".join(lines)


def _scripts() -> tuple[Any, Any, Any]:
    """Import what runs scripts: a status needs none of it."""
    from notebook_ext import entrypoint, function, script  # noqa: PLC0415  as said

    return script, entrypoint, function


@contextlib.contextmanager
def _users_errors(target: str) -> Iterator[None]:
    """Show an exception of the user's code with its traceback, from the user's file on."""
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit, SystemExit):
        raise
    except Exception as error:
        place = target.partition("::")[0]
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != place:
            trace = trace.tb_next
        if trace is None and isinstance(error, errors.Error):
            raise
        if isinstance(error, SyntaxError) and trace is None and error.filename == place:
            error.__traceback__ = None  # it says the place itself, and all else is ours
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        sys.exit(1)


if __name__ == "__main__":
    main()
