"""`notebook-ext secret`: stores secrets for `Secret.from_name`, lists them, forgets them."""

from __future__ import annotations

from pathlib import Path

import click

from kernel_worker.errors import Error, InvalidError
from notebook_ext import secret_store
from notebook_ext.secret import Secret


@click.group()
def secret() -> None:
    """Store environment variables for functions, by name: `Secret.from_name(NAME)`."""


@secret.command("create")
@click.option(
    "--from-dotenv",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take those of this file.",
)
@click.option("--force", is_flag=True, help="Replace the secret NAME, if there is one.")
@click.argument("name")
@click.argument("variables", nargs=-1, metavar="[KEY=VALUE|KEY]...")
def secret_create(
    from_dotenv: Path | None,
    force: bool,  # noqa: FBT001  a flag
    name: str,
    variables: tuple[str, ...],
) -> None:
    """Store variables as the secret NAME; the value of a KEY without one is asked for, unseen."""
    values = Secret.from_dotenv(from_dotenv).values if from_dotenv is not None else {}
    for each in variables:
        key, equals, value = each.partition("=")
        values[key] = value if equals else click.prompt(key, hide_input=True, err=True)
    if not values:
        raise InvalidError(f"secret {name!r}: give variables, as in KEY=VALUE, or --from-dotenv.")
    where = secret_store.store(name, Secret.from_dict(values).values, replaces=force)
    click.echo(f"Stored: {name} ({', '.join(values)}), in {where}")


@secret.command("list")
def secret_list() -> None:
    """List the names of stored secrets, with their variables and without values."""
    found = secret_store.names()
    for name in found:
        try:
            click.echo(f"{name}  {', '.join(secret_store.load(name))}")
        except Error as error:
            click.echo(f"{name}  cannot be read: {error}")
    if not found:
        click.echo("No secret is stored.")


@secret.command("delete")
@click.argument("name")
def secret_delete(name: str) -> None:
    """Forget the secret NAME."""
    secret_store.delete(name)
    click.echo(f"Deleted: {name}")
