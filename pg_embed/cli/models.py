"""`pg-embed models`: list the models that are known, or those of a database, and add one."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from pg_embed.cli import options as given
from pg_embed.cli.app import app
from pg_embed.cli.output import print_json, print_rows, say

models = typer.Typer(help="List the models known, or those of a database, or add one.")
app.add_typer(models, name="models")


@models.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    dsn: given.OptionalDsnOption = None,
    known: given.Known = False,
    hosted: given.Hosted = None,
    outputs: given.Outputs = None,
    language: given.Language = None,
    as_json: given.Json = False,
) -> None:
    """List the models known, or those of a database, or add one."""
    context.obj = (dsn, as_json)
    if context.invoked_subcommand is not None:
        return
    narrowed = any(told is not None for told in (hosted, outputs, language))
    if known or narrowed or not dsn:
        from pg_embed.cli.known import print_known

        print_known(hosted=hosted, output=outputs, language=language, as_json=as_json)
    else:
        from pg_embed.cli.database import ask

        print_rows(ask(dsn, "models"), as_json=as_json, nothing="there is no model")


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
    dsn: given.OptionalDsnOption = None,
    as_json: given.Json = False,
) -> None:
    """Load a model here, and enter it in the catalog.

    No sidecar is needed. The catalog keeps what the model says of itself.
    """
    from psycopg.types.json import Jsonb

    from pg_embed.cli.database import ask
    from pg_embed.models.presets import known_spec
    from pg_embed.models.registry import default_registry
    from pg_embed.records import ModelSpec

    if not (database := dsn or context.obj[0]):
        raise given.no_dsn()
    options = dict(given.named_value(text) for text in option or [])
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
