"""`notebook-ext broker`, `host` and `provider`: what runs where, and who is let in."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from kernel_worker import rendezvous
from notebook_ext import inquiry
from notebook_ext.config import afresh
from notebook_ext.widgets.status import NO_BROKER

if TYPE_CHECKING:
    from kernel_worker.rendezvous import Connection


@click.group()
def broker() -> None:
    """Start and stop the broker. Remote calls start it by themselves."""


@broker.command("start")
@click.option(
    "--metrics",
    metavar="[HOST:PORT]",
    is_flag=False,
    flag_value="127.0.0.1:9464",
    help="Serve metrics for Prometheus there (127.0.0.1:9464), as long as a broker runs.",
)
@click.option(
    "--listen",
    metavar="tcp://ADDRESS[:PORT]",
    help="Let invited clients of other machines in there too, by their keys (port 9465).",
)
def broker_start(metrics: str | None, listen: str | None) -> None:
    """Start the broker, if none runs, and return when it listens."""
    was_there = inquiry.find_here()
    if listen is not None:
        from notebook_ext import inviting  # noqa: PLC0415  only where it is asked for

        connection = inviting.listen(listen)
    else:
        connection = was_there or rendezvous.find_or_start(afresh())
    click.echo(f"{'Already running' if was_there else 'Started'}: {_where(connection)}")
    if metrics is not None:
        from notebook_ext import metrics as serving  # noqa: PLC0415  only where it is asked for

        click.echo(f"Metrics: {serving.start(metrics)}")


@broker.command("stop")
def broker_stop() -> None:
    """Stop the broker and its workers, and return when it is gone."""
    pid = inquiry.stop()
    click.echo("No broker is running." if pid is None else f"Stopped: pid {pid}")


@broker.command("status")
def broker_status() -> None:
    """Say whether a broker runs, and where it listens."""
    connection = inquiry.find_here()
    if connection is None:
        click.echo(NO_BROKER)
        sys.exit(1)
    click.echo(f"Running: {_where(connection)}")


@broker.command("invite")
@click.argument("name")
@click.option("--address", metavar="tcp://HOST[:PORT]", help="Where NAME finds this broker.")
@click.option("--host", "is_host", is_flag=True, help="For a machine that is to run workers.")
def broker_invite(name: str, address: str | None, is_host: bool) -> None:  # noqa: FBT001  a flag
    """Print a connection file that lets a client on another machine in; call it NAME.

    It holds a secret key: carry FILE of `notebook-ext broker invite NAME > FILE`, which is made
    yours alone, there by a way that you trust, and say `%remote_connect FILE` in the notebook.
    With --host, say `notebook-ext host start --connect FILE` there.
    """
    from notebook_ext import inviting  # noqa: PLC0415  only where it is asked for

    invitation = inviting.invite(name, address, "host" if is_host else "client")
    inviting.make_private(sys.stdout)
    click.echo(msgspec.json.format(msgspec.json.encode(invitation)).decode())
    click.echo(f"{name} will find this broker at {invitation.address}.", err=True)


@broker.command("revoke")
@click.argument("name")
def broker_revoke(name: str) -> None:
    """Let the client or host NAME in no more, and end its connections."""
    from notebook_ext import inviting  # noqa: PLC0415  only where it is asked for

    ended = inviting.revoke(name)
    click.echo(f"Revoked: {name}; connections ended: {ended}")


@broker.command("clients")
def broker_clients() -> None:
    """List who is let in from other machines, with their public keys."""
    from notebook_ext import inviting  # noqa: PLC0415  only where it is asked for

    for name, key in inviting.listed("client").items():
        click.echo(f"{name}  {key}")
    for name, key in inviting.listed("host").items():
        click.echo(f"{name}  {key}  host")


@broker.command("tunnel", hidden=True)
def broker_tunnel() -> None:
    """Be the far end of `ssh://`: what ssh starts on the broker's machine."""
    from notebook_ext.ssh import far_end  # noqa: PLC0415  only where it is asked for

    sys.exit(far_end.serve())


@click.group()
def host() -> None:
    """Let a machine run workers for the broker of another one."""


@host.command("start")
@click.option(
    "--connect",
    metavar="FILE|ssh://HOST",
    required=True,
    help="Made on the broker's machine by `notebook-ext broker invite --host NAME`; or that "
    "machine, where ssh reaches it from here without a password.",
)
@click.option("--name", help="What this machine is called; its host name, unless given.")
@click.option("--cpus", type=click.IntRange(1), help="At most so many workers run code at once.")
@click.option("--gpus", help="auto, none, or indices such as 0,2.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    help="How long what runs may take to end when this is told to (30).",
)
def host_start(connect: str, **options: object) -> None:
    """Run workers here, until this is interrupted (Ctrl-C, SIGTERM).

    What runs then may end; a second one does not wait. It dials the broker, at two ports, and
    listens at none.
    """
    if connect.startswith("ssh://"):
        from notebook_ext.ssh.tunnel import Tunnel  # noqa: PLC0415  only where it is asked for

        tunnel = Tunnel(connect, "host")
        tunnel.bequeath()
        connect = str(tunnel.file)
    command = [sys.executable, "-P", "-m", "kernel_worker.broker.outpost", "--connect", connect]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    os.execv(sys.executable, command)  # noqa: S606  no shell, and this process is it from now on


@click.group()
def provider() -> None:
    """Let a cluster that is there already give this machine's broker hosts."""


@provider.command("start")
@click.argument("target")
@click.option("--max-hosts", type=click.IntRange(1), help="How many hosts at most (8).")
@click.option("--min-hosts", type=click.IntRange(0), help="How many are kept, used or not (0).")
@click.option("--idle", type=click.IntRange(0), help="Seconds until an unused one goes (60).")
@click.option("--cpus", type=click.IntRange(1), help="Cores of a host, at most.")
@click.option("--gpus", help="GPUs of a host, at most: 2, or H200:2.")
@click.option("--memory", type=click.IntRange(1), help="MiB to reserve for a host.")
@click.option("--account", help="Of Slurm: who pays.")
@click.option("--walltime", help="Of Slurm: how long a host may last: 90, 1-12:00:00 (4 h).")
@click.option("--scheduler-options", help="Of Slurm: more options of sbatch.")
@click.option("--worker-init", help="Of Slurm: lines of the shell before a host starts.")
@click.option("--python", help="Of Slurm: the interpreter there.")
@click.option(
    "--listen", metavar="tcp://ADDRESS[:PORT]", help="Where hosts find the broker, if none runs."
)
@click.option("--connect", metavar="FILE", help="A client's, where the broker is elsewhere.")
@click.option("--hosts", metavar="FILE", help="A host's, where the broker is elsewhere.")
def provider_start(
    target: str,
    listen: str | None,
    connect: str | None,
    hosts: str | None,
    **options: object,
) -> None:
    """Have hosts come from TARGET while there is work for them.

    TARGET is ray://auto, ray://HOST:10001, dask://HOST:8786 or slurm://PARTITION.

    It returns when the cluster has answered. On a machine of the cluster, in the Python of the
    cluster, give --connect and --hosts, the files of `notebook-ext broker invite` with and without
    --host on the broker's machine: then it runs in the foreground.
    """
    if (connect is None) != (hosts is None):
        raise click.UsageError("--connect and --hosts are given both, or none of them")
    if connect is not None:
        command = [sys.executable, "-P", "-m", "kernel_worker.providers", target]
        command += ["--connect", connect, "--hosts", str(hosts)]
        for name, value in options.items():
            if value is not None:
                command += ["--option", f"{name}={value}"]
        os.execv(sys.executable, command)  # noqa: S606  as of a host
    from notebook_ext import providing  # noqa: PLC0415  only where it is asked for

    click.echo(providing.begin(target, options, listen))


@provider.command("stop")
@click.argument("name")
def provider_stop(name: str) -> None:
    """Give all hosts of NAME back; what they run has 30 s to end, and runs elsewhere then."""
    from notebook_ext import providing  # noqa: PLC0415  only where it is asked for

    click.echo(f"Stopped: pid {providing.end(name)}")


@provider.command("list")
def provider_list() -> None:
    """List the clusters that give hosts, by the names that `stop` takes."""
    from notebook_ext import providing  # noqa: PLC0415  only where it is asked for

    for name, pid in providing.living().items():
        click.echo(f"{name}  pid {pid}")


def _where(connection: Connection) -> str:
    return ", ".join(filter(None, [f"pid {connection.pid}", connection.address, connection.door]))
