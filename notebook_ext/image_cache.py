"""`notebook-ext image`: the images that are kept on this machine, to look at and to remove."""

from __future__ import annotations

from datetime import datetime

import click

from kernel_worker import images
from kernel_worker.errors import NotFoundError
from notebook_ext.config import afresh

_UNITS = 2**20


@click.group()
def image() -> None:
    """Look at the environments that were built for `nb.Image`, and remove them."""


@image.command("list")
def image_list() -> None:
    """List what is kept, the last used first."""
    found = images.kept(images.folder_of(afresh()))
    click.echo(_table(found) if found else "No image is kept.")


@image.command("prune")
@click.option(
    "--unused-days",
    type=click.FloatRange(0),
    help="Only what nobody has used for so long; otherwise all that is not in use now.",
)
@click.argument("names", nargs=-1)
def image_prune(unused_days: float | None, names: tuple[str, ...]) -> None:
    """Remove images; only NAMES, as `list` shows them, where some are given.

    What a function needs again is built again.
    """
    folder = images.folder_of(afresh())
    known = {one.name for one in images.kept(folder)}
    if missing := set(names) - known:
        raise NotFoundError(
            f"there is no image {', '.join(sorted(missing))} here; `notebook-ext image list` "
            "shows what there is"
        )
    removed = images.prune(folder, (unused_days or 0) * 86_400, names)
    for one in removed:
        click.echo(f"Removed: {one.name} ({one.about.title})")
    size = sum(one.about.bytes for one in removed) / _UNITS
    click.echo(f"{len(removed)} removed, {size:,.0f} MiB.")
    if unused_days is None:
        left = {one.name for one in images.kept(folder)} & (set(names) or known)
        for name in sorted(left):
            click.echo(f"In use, and left: {name}; `notebook-ext broker stop` ends what uses it.")


def _table(found: list[images.Kept]) -> str:
    rows = [("image", "MiB", "built in", "last used", "what is in it")]
    rows += [
        (
            one.name,
            f"{one.about.bytes / _UNITS:,.1f}",
            f"{one.about.seconds:.1f} s",
            datetime.fromtimestamp(one.used_at).astimezone().strftime("%Y-%m-%d %H:%M"),
            one.about.title,
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(f"{row[c]:{widths[c]}}" for c in range(4)), row[4]]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
