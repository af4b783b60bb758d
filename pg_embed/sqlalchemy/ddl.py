"""Vectorizers come with their tables and go with them: what create_all and drop_all do besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import orjson
from sqlalchemy import Connection, Table, event, text
from sqlalchemy.sql.ddl import SchemaDropper, SchemaGenerator

from pg_embed import statements
from pg_embed.errors import NotInstalled
from pg_embed.models.presets import presets
from pg_embed.sqlalchemy.declarations import Vectorizer, declared, declared_chunks


@event.listens_for(Table, "before_create")
def check_installed(table: Table, connection: Connection, **kw: Any) -> None:
    """Say what is missing before a type of pgvector is."""
    if not _is_migration(kw) and _wanted(table) and not _ask(connection, "installed"):
        hint = f"run: pg-embed install DSN, before {table} is created"
        raise NotInstalled("pg_embed is not installed in this database", hint=hint)


@event.listens_for(Table, "after_create")
def create_vectorizers(table: Table, connection: Connection, **kw: Any) -> None:
    """Make what a table is declared to have, and the models of it that the database lacks."""
    if _is_migration(kw):
        return
    for vectorizer in _wanted(table):
        for model in filter(None, (vectorizer.model, vectorizer.sparse_model)):
            _create_model(connection, model)
        source = _name(table, connection)
        name = _ask(connection, "create_vectorizer", **_arguments(vectorizer), source=source)
        if vectorizer.chunk_view is not None:
            said = _ask(connection, "declare", name=name)
            connection.exec_driver_sql(said, execution_options={"no_parameters": True})


@event.listens_for(Table, "before_drop")
def drop_vectorizers(table: Table, connection: Connection, **kw: Any) -> None:
    """Remove all vectorizers of a table that was declared to have any, with their chunks."""
    if not _is_migration(kw) and _wanted(table) and _ask(connection, "installed"):
        _ask(connection, "drop_vectorizers", source=_name(table, connection))


def _wanted(table: Table) -> list[Vectorizer]:
    return [*declared(table), *declared_chunks(table)]


def _is_migration(kw: Mapping[str, Any]) -> bool:
    """Whether it is Alembic that makes the table: a migration says itself what becomes of vectorizers."""
    return not isinstance(kw.get("_ddl_runner"), (SchemaGenerator, SchemaDropper))


def _create_model(connection: Connection, name: str) -> None:
    preset = presets().get(name)
    if preset is None or _ask(connection, "has_model", name=name):
        return  # of one that nobody knows the database complains
    card = preset.card
    _ask(
        connection,
        "create_model",
        name=name,
        family=None if card is None else preset.family,  # without a card, the sidecar tells
        options=orjson.dumps({} if card is None else dict(preset.options)).decode(),
        card=None if card is None else orjson.dumps(card.as_dict()).decode(),
    )


def _arguments(wanted: Vectorizer) -> dict[str, Any]:
    told = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
    return {name: value for name, value in told.items() if name not in ("table", "schema")}


def _name(table: Table, connection: Connection) -> str:
    """The table as SQL writes it, in the schema that the connection translates its own to."""
    preparer = connection.dialect.identifier_preparer
    schema = connection.schema_for_object(table)
    own = preparer.quote(table.name)
    return own if schema is None else f"{preparer.quote_schema(schema)}.{own}"


def _ask(connection: Connection, statement: str, **parameters: Any) -> Any:
    """The one value that a statement gives, or None."""
    return connection.execute(text(statements.load("sqlalchemy")[statement]), parameters).scalar()
