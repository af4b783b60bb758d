"""What a database has of ours, read for a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from pg_embed import statements
from pg_embed.alembic.operations import quoted
from pg_embed.models.presets import presets
from pg_embed.records import Output

SQL = statements.load("alembic")
VECTOR = re.compile(r"(.*\.)?vector\(")  # with its schema where that is not on the search_path
FIELD = re.compile(r"\{([^{}]+)\}")  # of a template
Name = tuple[str | None, str]  # schema, None for the default one, and name


@dataclass(frozen=True)
class Present:
    """A vectorizer that the database has; `added` are columns of its table that pg_embed added itself.

    While its vectors move from chunks to columns it is what it will be.
    """

    name: str
    schema: str | None
    table: str
    template: str
    filter: str | None
    models: dict[str, str]  # the model of each output
    columns: dict[str, Output]  # outputs by column
    index: str
    max_attempts: int
    added: frozenset[str]
    chunking: dict[str, Any] | None = (
        None  # how it splits texts, if it has a table of chunks, with the columns
    )
    chunk_table: str | None = None
    chunk_view: str | None = None
    next_model: str | None = None  # to which a switch is under way
    next_chunking: dict[str, Any] | None = None  # how it will split texts then
    is_switched: bool = False  # whether a switch is under way, or has kept vectors: both refuse a move
    has_kept: bool = False  # vectors of before a switch
    types: Mapping[str, str] = field(default_factory=dict)  # of its columns, as in "vector(3)"
    column_type: str | None = None  # "vector" for chunks whose dense vectors are no halfvec
    keys: frozenset[str] = frozenset()  # columns of its table that tell its rows apart
    has_postings: bool = False  # over its sparse vectors
    parked: frozenset[str] = frozenset()  # columns of a switch in its table, before or after the swap
    prepare: str | None = None  # the hook that makes its text
    paused: bool = False
    replication: str = "origin"
    declared: bool = False  # whether its chunks are those of a model
    index_settings: Mapping[str, Any] = field(default_factory=dict)  # given to embed.create_index

    @property
    def model(self) -> str:
        """Its model, that of sparse vectors aside where they have one of their own."""
        return self.models.get("dense") or next(iter(self.models.values()))

    @property
    def indexing(self) -> str | dict[str, Any]:
        """The kind of its index, with its settings where it has any."""
        return {"kind": self.index, **self.index_settings} if self.index_settings else self.index

    def reads(self, column: str) -> bool:
        """Whether its text needs a column, or its filter names one so."""
        fields = FIELD.findall(self.template.replace("{{", "").replace("}}", ""))
        spelled = re.escape(column.replace('"', '""'))
        return column in fields or bool(re.search(rf"(?<!\w){spelled}(?!\w)", self.filter or ""))

    @property
    def key(self) -> Name:
        """Its table."""
        return self.schema, self.table


@dataclass(frozen=True)
class Catalog:
    """All that a database has of ours."""

    vectorizers: tuple[Present, ...] = ()
    chunks: frozenset[Name] = frozenset()  # tables of them
    indexes: frozenset[Name] = frozenset()
    models: frozenset[str] = frozenset()
    installed: bool = False

    def of(self, table: Name) -> list[Present]:
        """The vectorizers of a table."""
        return [present for present in self.vectorizers if present.key == table]


def read(connection: Connection) -> Catalog:
    """The catalog of a database, an empty one where nothing is installed."""
    seen = _rows(connection, "installed")[0]
    if not seen.installed:
        return Catalog()
    default = connection.dialect.default_schema_name
    settings = _index_settings(connection) if seen.sees_details else {}
    told = _rows(connection, "next_chunking") if seen.sees_details else []
    chunking = {row.name: row.chunking for row in told}
    return Catalog(
        vectorizers=tuple(
            _present(row, default, settings.get(row.name, {}), chunking.get(row.name))
            for row in _rows(connection, "vectorizers")
        ),
        chunks=_names(connection, "chunk_tables", default),
        indexes=_names(connection, "indexes", default),
        models=frozenset(row.name for row in _rows(connection, "models")),
        installed=True,
    )


def spell_filter(connection: Connection, table: Name, condition: str) -> str | None:
    """A condition as Postgres spells it; None where it cannot be read, say for a column that is to come."""
    schema, name = table
    parameters = {"source": quoted(name, schema), "filter": condition}
    savepoint = connection.begin_nested()
    try:
        spelled = connection.execute(text(SQL["spell_filter"]), parameters).scalar()
    except DBAPIError:
        return None
    finally:
        savepoint.rollback()
    return None if spelled is None else str(spelled)


def spell_chunking(connection: Connection, chunking: str, model: str) -> dict[str, Any]:
    """Settings of chunks with those that are left out, as the database keeps them for a model."""
    preset = presets().get(model)
    card = None if preset is None else preset.card
    parameters = {"chunking": chunking, "model": model, "most": None if card is None else card.max_tokens}
    spelled: dict[str, Any] = connection.execute(text(SQL["spell_chunking"]), parameters).scalar_one()
    return spelled


def _rows(connection: Connection, statement: str) -> Any:
    return connection.execute(text(SQL[statement])).all()


def _names(connection: Connection, statement: str, default: str | None) -> frozenset[Name]:
    rows = _rows(connection, statement)
    return frozenset((None if row.schema == default else row.schema, row.name) for row in rows)


def _index_settings(connection: Connection) -> dict[str, dict[str, Any]]:
    rows = [dict(row._mapping) for row in _rows(connection, "index_settings")]
    return {
        row.pop("name"): {name: value for name, value in row.items() if value is not None} for row in rows
    }


def _present(
    row: Any,
    default: str | None,
    index_settings: Mapping[str, Any],
    next_chunking: dict[str, Any] | None,
) -> Present:
    models: dict[str, str] = dict.fromkeys(row.outputs, row.model)
    if row.sparse_model is not None:
        models["sparse"] = row.sparse_model
    under_way = row.switch not in (None, "swapped")
    moves = under_way and row.chunking is not None and not row.other_is_table
    columns = (row.other_columns if moves else row.columns) or []
    is_table = row.chunking is not None and not moves
    added = frozenset(row.added or ())
    return Present(
        name=row.name,
        schema=None if row.schema == default else row.schema,
        table=row.table_name,
        template=row.template,
        filter=row.filter,
        models=models,
        columns={
            column: output for column, output in zip(columns, row.outputs, strict=False) if column is not None
        },
        index=row.index,
        max_attempts=row.max_attempts,
        # chunks that a model declares become columns of that model
        added=added.difference(columns) if moves and row.declared else added,
        chunking=row.chunking if is_table else None,
        chunk_table=row.chunk_table if is_table else None,
        chunk_view=row.chunk_view if is_table else None,
        column_type="vector" if is_table and VECTOR.match(row.column_type) else None,
        next_model=row.other_model if under_way and not moves else None,
        next_chunking=next_chunking,
        is_switched=row.switch is not None and not moves,
        has_kept=row.switch == "swapped",
        types=dict(zip(columns, map(_plain_type, row.types or ()), strict=False)),
        parked=frozenset(() if moves or row.other_is_table else row.other_columns or ()),
        keys=frozenset(row.key_columns or ()),
        has_postings=row.has_postings and "sparse" in row.outputs,
        prepare=row.prepare,
        paused=row.paused,
        replication=row.replication,
        declared=row.declared and is_table,
        index_settings=index_settings,
    )


def _plain_type(spelled: str) -> str:
    """A type without its schema, which is told where that is not on the search_path."""
    return spelled.rpartition(".")[2]
