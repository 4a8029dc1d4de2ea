"""The command line, `notebook-ext`: look at the broker, start it, stop it.

Only what needs no function is here. Errors are one line on stderr and exit status 1.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from kernel_worker import errors, rendezvous, settings
from notebook_ext import inquiry
from notebook_ext.calls import STATES, call_filter
from notebook_ext.widgets.status import NO_BROKER, CallsReport, StatusReport

if TYPE_CHECKING:
    from kernel_worker.rendezvous import Connection


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
@click.option("--app", help="Those of this app alone.")
@click.option("--status", type=click.Choice(STATES), help="Those in this state alone.")
@click.option("--limit", type=click.IntRange(1), default=100, help="How many at most.")
def calls(app: str | None, status: str | None, limit: int) -> None:
    """Show recent calls, also ended ones, newest first."""
    found = inquiry.calls(call_filter(app, status, limit))
    click.echo(repr(CallsReport(found)))
    if found is None:
        sys.exit(1)


@main.group()
def broker() -> None:
    """Start and stop the broker. Remote calls start it by themselves."""


@broker.command("start")
def broker_start() -> None:
    """Start the broker, if none runs, and return when it listens."""
    was_there = inquiry.find()
    connection = was_there or rendezvous.find_or_start(settings.load())
    click.echo(f"{'Already running' if was_there else 'Started'}: {_where(connection)}")


@broker.command("stop")
def broker_stop() -> None:
    """Stop the broker and its workers, and return when it is gone."""
    pid = inquiry.stop()
    click.echo("No broker is running." if pid is None else f"Stopped: pid {pid}")


@broker.command("status")
def broker_status() -> None:
    """Say whether a broker runs, and where it listens."""
    connection = inquiry.find()
    if connection is None:
        click.echo(NO_BROKER)
        sys.exit(1)
    click.echo(f"Running: {_where(connection)}")


def _where(connection: Connection) -> str:
    return f"pid {connection.pid}, {connection.address}"


if __name__ == "__main__":
    main()
