"""`notebook-ext dict`, `queue` and `volume`: look at what programs share, and change it.

Keys and values are text as it is typed; with `--literal` they are what Python reads: a number, a
list, a dict. What is shown is a str as it is, anything else as Python writes it.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import queue as queues
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from notebook_ext.state.dicts import Dict
    from notebook_ext.state.handles import Info
    from notebook_ext.state.queues import Queue
    from notebook_ext.state.volumes import Volume

_name = click.argument("name")
_literal = click.option(
    "-l", "--literal", is_flag=True, help="Read keys and values as Python: a number, a list, …"
)
_partition = click.option("-p", "--partition", help="The partition that is meant.")
_yes = click.option("-y", "--yes", is_flag=True, help="Ask nothing.")


def _dict(name: str, *, creates: bool = False) -> Dict:
    from notebook_ext.state.dicts import Dict  # noqa: PLC0415  a status needs none

    return Dict.from_name(name, create_if_missing=creates)


def _queue(name: str, *, creates: bool = False) -> Queue:
    from notebook_ext.state.queues import Queue  # noqa: PLC0415  as above

    return Queue.from_name(name, create_if_missing=creates)


# ---- dict -----------------------------------------------------------------------------------


@click.group("dict")
def dict_group() -> None:
    """Look at the dicts that programs share, and change them."""


@dict_group.command("list")
def dict_list() -> None:
    """List all, with how many entries each has."""
    from notebook_ext.state.dicts import Dict  # noqa: PLC0415  as above

    _show_infos(Dict.objects.infos(), "entries")


@dict_group.command("create")
@_name
def dict_create(name: str) -> None:
    """Make the dict NAME."""
    _dict(name, creates=True).hydrate()


@dict_group.command("get")
@_literal
@_name
@click.argument("key")
def dict_get(literal: bool, name: str, key: str) -> None:  # noqa: FBT001  a flag
    """Print the value of KEY in NAME; the exit status is 1 where there is none."""
    found = _dict(name)
    try:
        click.echo(_shown(found[_read(key, literal=literal)]))
    except KeyError:
        raise click.ClickException(f"there is no key {key!r} in {found!r}") from None


@dict_group.command("put")
@_literal
@_name
@click.argument("key")
@click.argument("value")
def dict_put(literal: bool, name: str, key: str, value: str) -> None:  # noqa: FBT001  a flag
    """Set KEY to VALUE in NAME, which is made if it is not there."""
    made = _dict(name, creates=True)
    made[_read(key, literal=literal)] = _read(value, literal=literal)


@dict_group.command("pop")
@_literal
@_name
@click.argument("key")
def dict_pop(literal: bool, name: str, key: str) -> None:  # noqa: FBT001  a flag
    """Remove KEY from NAME, and print its value."""
    found = _dict(name)
    try:
        click.echo(_shown(found.pop(_read(key, literal=literal))))
    except KeyError:
        raise click.ClickException(f"there is no key {key!r} in {found!r}") from None


@dict_group.command("items")
@_name
@click.argument("count", type=click.IntRange(1), default=20)
def dict_items(name: str, count: int) -> None:
    """Print the first COUNT entries of NAME (20), one a line: key, tab, value."""
    _show_some((f"{key!r}\t{value!r}" for key, value in _dict(name).items()), count)


@dict_group.command("len")
@_name
def dict_len(name: str) -> None:
    """Print how many entries NAME has."""
    click.echo(_dict(name).len())


@dict_group.command("clear")
@_yes
@_name
def dict_clear(yes: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Remove all entries of NAME."""
    _confirm(f"Remove all entries of the dict {name}?", yes=yes)
    _dict(name).clear()


@dict_group.command("delete")
@_yes
@_name
def dict_delete(yes: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Remove NAME with all that it holds."""
    _confirm(f"Remove the dict {name} with all that it holds?", yes=yes)
    type(_dict(name)).delete(name)


# ---- queue ----------------------------------------------------------------------------------


@click.group("queue")
def queue_group() -> None:
    """Look at the queues that programs share, and change them."""


@queue_group.command("list")
def queue_list() -> None:
    """List all, with how many items each has."""
    from notebook_ext.state.queues import Queue  # noqa: PLC0415  as above

    _show_infos(Queue.objects.infos(), "items")


@queue_group.command("create")
@_name
def queue_create(name: str) -> None:
    """Make the queue NAME."""
    _queue(name, creates=True).hydrate()


@queue_group.command("put")
@_literal
@_partition
@_name
@click.argument("values", nargs=-1, required=True)
def queue_put(literal: bool, partition: str | None, name: str, values: tuple[str, ...]) -> None:  # noqa: FBT001  a flag
    """Put VALUES into NAME, which is made if it is not there."""
    items = [_read(value, literal=literal) for value in values]
    _queue(name, creates=True).put_many(items, partition=partition)


@queue_group.command("next")
@_partition
@click.option("--timeout", type=click.FloatRange(0), default=0.0, help="Seconds to wait for one.")
@_name
def queue_next(partition: str | None, timeout: float, name: str) -> None:
    """Take the next item out of NAME and print it; the exit status is 1 where there is none."""
    found = _queue(name)
    try:
        click.echo(_shown(found.get(timeout=timeout, partition=partition)))
    except queues.Empty:
        raise click.ClickException(f"there is nothing in {found!r}") from None


@queue_group.command("peek")
@_partition
@_name
@click.argument("count", type=click.IntRange(1), default=1)
def queue_peek(partition: str | None, name: str, count: int) -> None:
    """Print the next COUNT items of NAME (1), which stay there."""
    items = _queue(name).iterate(partition=partition)
    _show_some(map(_shown, items), count)


@queue_group.command("len")
@_partition
@click.option("--total", is_flag=True, help="Of all partitions.")
@_name
def queue_len(partition: str | None, total: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Print how many items NAME has."""
    click.echo(_queue(name).len(partition=partition, total=total))


@queue_group.command("clear")
@_partition
@click.option("--all", "every", is_flag=True, help="All partitions.")
@_yes
@_name
def queue_clear(partition: str | None, every: bool, yes: bool, name: str) -> None:  # noqa: FBT001  flags
    """Remove the items of NAME."""
    _confirm(f"Remove the items of the queue {name}?", yes=yes)
    _queue(name).clear(partition=partition, all=every)


@queue_group.command("delete")
@_yes
@_name
def queue_delete(yes: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Remove NAME with all that it holds."""
    _confirm(f"Remove the queue {name} with all that it holds?", yes=yes)
    type(_queue(name)).delete(name)


# ---- volume ---------------------------------------------------------------------------------


@click.group("volume")
def volume_group() -> None:
    """Look at the volumes of this machine, and at the files in them."""


@volume_group.command("list")
def volume_list() -> None:
    """List all, with where each lies."""
    from notebook_ext.state.volumes import Volume  # noqa: PLC0415  as above

    found = Volume.objects.list()
    for each in found:
        click.echo(f"{each.name}  {each.path}")
    if not found:
        click.echo("There are none.")


@volume_group.command("create")
@_name
def volume_create(name: str) -> None:
    """Make the volume NAME."""
    click.echo(_volume(name, creates=True).path)


@volume_group.command("path")
@_name
def volume_path(name: str) -> None:
    """Print the directory that NAME is."""
    click.echo(_volume(name).path)


@volume_group.command("ls")
@_name
@click.argument("path", default="/")
def volume_ls(name: str, path: str) -> None:
    """List the files in PATH of NAME: bytes, when they were written, names."""
    with _of_the_system():
        entries = _volume(name).listdir(path)
    for entry in entries:
        at = datetime.fromtimestamp(entry.mtime).astimezone().strftime("%Y-%m-%d %H:%M")
        mark = "/" if entry.type.name == "DIRECTORY" else ""
        click.echo(f"{entry.size:>12,}  {at}  {_in_one_line(entry.path)}{mark}")


@volume_group.command("put")
@click.option("-f", "--force", is_flag=True, help="Replace what is there.")
@_name
@click.argument("local", type=click.Path(exists=True))
@click.argument("remote", default="/")
def volume_put(force: bool, name: str, local: str, remote: str) -> None:  # noqa: FBT001  a flag
    """Copy the file or directory LOCAL to REMOTE in NAME, which is made if it is not there."""
    with _of_the_system(), _volume(name, creates=True).batch_upload(force=force) as batch:
        if Path(local).is_dir():
            batch.put_directory(local, remote)
        else:
            batch.put_file(local, remote)


@volume_group.command("get")
@click.option("-f", "--force", is_flag=True, help="Replace what is there.")
@_name
@click.argument("remote")
@click.argument("local", default=".")
def volume_get(force: bool, name: str, remote: str, local: str) -> None:  # noqa: FBT001  a flag
    """Copy the file REMOTE of NAME to LOCAL; - prints it."""
    with _of_the_system():
        chunks = iter(_volume(name).read_file(remote))
        first = next(chunks, b"")  # before anything is made here: it may not be there
        if local == "-":
            for chunk in itertools.chain([first], chunks):
                click.echo(chunk, nl=False)
            return
        target = Path(local) / Path(remote).name if Path(local).is_dir() else Path(local)
        with target.open("wb" if force else "xb") as file:
            file.writelines(itertools.chain([first], chunks))


@volume_group.command("cp")
@click.option("-r", "--recursive", is_flag=True, help="Directories too.")
@_name
@click.argument("paths", nargs=-1, required=True)
def volume_cp(recursive: bool, name: str, paths: tuple[str, ...]) -> None:  # noqa: FBT001  a flag
    """Copy the first of PATHS within NAME to the last one, or all but that into it."""
    if len(paths) == 1:
        raise click.UsageError("give what to copy, and then to where")
    with _of_the_system():
        _volume(name).copy_files(paths[:-1], paths[-1], recursive=recursive)


@volume_group.command("rm")
@click.option("-r", "--recursive", is_flag=True, help="Directories too.")
@_name
@click.argument("path")
def volume_rm(recursive: bool, name: str, path: str) -> None:  # noqa: FBT001  a flag
    """Remove PATH from NAME."""
    with _of_the_system():
        _volume(name).remove_file(path, recursive=recursive)


@volume_group.command("rename")
@_name
@click.argument("new_name")
def volume_rename(name: str, new_name: str) -> None:
    """Give the volume NAME the name NEW_NAME."""
    type(_volume(name)).rename(name, new_name)


@volume_group.command("delete")
@_yes
@_name
def volume_delete(yes: bool, name: str) -> None:  # noqa: FBT001  a flag
    """Remove NAME with all its files."""
    _confirm(f"Remove the volume {name} with all its files?", yes=yes)
    type(_volume(name)).delete(name)


def _volume(name: str, *, creates: bool = False) -> Volume:
    from notebook_ext.state.volumes import Volume  # noqa: PLC0415  as above

    return Volume.from_name(name, create_if_missing=creates)


@contextlib.contextmanager
def _of_the_system() -> Iterator[None]:
    """Show what the system says of a file in one line."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(str(error)) from error


# ---- what is typed and shown ----------------------------------------------------------------


def _read(text: str, *, literal: bool) -> Any:
    if not literal:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise click.BadParameter(f"{text!r} is nothing that Python reads as a literal") from None


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _in_one_line(name: str) -> str:
    """Return a file's name, with what a terminal would not show as `repr` has it."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in name)


def _show_some(lines: Iterable[str], count: int) -> None:
    for at, line in enumerate(lines):
        if at == count:
            click.echo("…", err=True)
            return
        click.echo(line)


def _show_infos(found: list[Info], what: str) -> None:
    if not found:
        click.echo("There are none.")
        return
    rows = [("name", what, "MiB", "made")]
    rows += [
        (
            each.name,
            f"{each.count:,}",
            f"{each.size_bytes / 2**20:,.1f}",
            datetime.fromtimestamp(each.created_at).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
        for each in found
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        click.echo("  ".join(f"{row[at]:{widths[at]}}" for at in range(4)).rstrip())


def _confirm(question: str, *, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)
