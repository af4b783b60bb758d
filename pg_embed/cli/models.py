"""`pg-embed models`: list the models of a database, and add one."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Annotated, Any

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import NO_DSN, Json, OptionalDsnOption
from pg_embed.cli.output import print_json, print_rows, say

models = typer.Typer(help="List the models of a database, or add one.")
app.add_typer(models, name="models")


@models.callback(invoke_without_command=True)
def show(context: typer.Context, dsn: OptionalDsnOption = None, as_json: Json = False) -> None:
    """List the models of a database, or add one."""
    context.obj = (dsn, as_json)
    if context.invoked_subcommand is None:
        from pg_embed.cli.database import ask

        print_rows(ask(_named(dsn), "models"), as_json=as_json, nothing="there is no model")


@models.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What SQL calls it.", show_default=False)],
    family: Annotated[
        str | None, typer.Option(help="Such as openai; not needed for a model that is known by its name.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the family; may be given often.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="The database's default model.")] = False,
    dsn: OptionalDsnOption = None,
    as_json: Json = False,
) -> None:
    """Load a model here, without a sidecar, and enter it in the catalog with what it says of itself."""
    from psycopg.types.json import Jsonb

    from pg_embed.cli.database import ask
    from pg_embed.models.presets import known_spec
    from pg_embed.models.registry import default_registry
    from pg_embed.records import ModelSpec

    database = _named(dsn or context.obj[0])
    options = dict(_option(text) for text in option or [])
    say(f"loading {name} …")
    spec = ModelSpec(name, family, options) if family else known_spec(name, options)
    with closing(default_registry().load(spec)) as embedder:
        card = embedder.card.as_dict()
    words = {"name": name, "family": spec.family, "options": Jsonb(dict(spec.options)), "card": Jsonb(card)}
    ask(database, "create_model", **words, is_default=default)
    if as_json or context.obj[1]:
        print_json({"name": name, "card": card})
    else:
        typer.echo(f"model {name}: {card['dimensions']} dimensions, {card['metric']}")


def _named(dsn: str | None) -> str:
    if not dsn:
        raise typer.BadParameter(NO_DSN)
    return dsn


def _option(text: str) -> tuple[str, Any]:
    """`dimensions=256` is a number, `query_prompt=find:` a text: what is JSON is read as JSON."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
