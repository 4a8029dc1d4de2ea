"""`notebook-ext cancel`, `attach` and `app logs`: what is done with calls from the command line."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import click

from kernel_worker.errors import NotFoundError
from notebook_ext import inquiry
from notebook_ext.call import FunctionCall
from notebook_ext.call_status import call_filter
from notebook_ext.config import choose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_worker.wire import messages
    from notebook_ext.logs import LogRecord


@click.command()
@click.argument("call")
@click.option("--kill", is_flag=True, help="Kill the workers that run it; others go on elsewhere.")
def cancel(call: str, kill: bool) -> None:  # noqa: FBT001  a flag
    """Cancel CALL: what of it has not begun never does, what runs is interrupted."""
    found = FunctionCall.from_id(call)
    before = found.status()
    found.cancel(terminate_containers=kill)
    click.echo(f"{before.state}: {call}, not cancelled" if before.done else f"Cancelled: {call}")


@click.command()
@click.argument("subject", metavar="WORKER_OR_CALL")
def attach(subject: str) -> None:
    """Make a live worker a Jupyter kernel too, and print how to attach to it."""
    from notebook_ext.attaching import attach as attached  # noqa: PLC0415  rarely

    click.echo(repr(attached(subject)))


@click.command("logs")
@click.option("-e", "--env", "profile", help="The profile (environment) whose broker is meant.")
@click.option("--calls", "limit", type=click.IntRange(1), default=100, help="Of how many (100).")
@click.option("--prefix", is_flag=True, help="Begin each line with its function and call.")
@click.argument("name")
def app_logs(profile: str | None, limit: int, prefix: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Print what the newest calls of the app NAME have written, in the order of time.

    Those that were spawned or made by a schedule.
    """
    choose(profile)
    found = inquiry.calls(call_filter(name, None, limit))
    if not found and not any(each.app == name for each in inquiry.deployments("")):
        raise NotFoundError(f"no app {name!r} is deployed, or has calls; see `notebook-ext calls`")
    lines = heapq.merge(*map(_lines, found or ()), key=lambda line: line[0].written_at)
    for record, call in lines:
        mark = f"[{call.name} {call.call}] " if prefix else ""
        click.echo(f"{mark}{record}", err=record.stream not in ("stdout", "display"))


def _lines(call: messages.CallInfo) -> Iterator[tuple[LogRecord, messages.CallInfo]]:
    for record in FunctionCall.from_id(call.call).logs():
        yield record, call
