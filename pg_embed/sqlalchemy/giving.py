"""What the searches of a statement ask of models, answered by the client of `embed_with` beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from inspect import isawaitable
from typing import Any
from weakref import WeakKeyDictionary

from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import Connection, Dialect, Integer, Text, cast, column, func, select, text
from sqlalchemy.sql.elements import BindParameter, Null
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import await_only

from pg_embed import statements
from pg_embed.errors import InvalidArgument
from pg_embed.records import Output
from pg_embed.sqlalchemy.calls import Noted, noted
from pg_embed.sqlalchemy.tables import RowOf
from pg_embed.sqlalchemy.tokens import TokenVectors

Ask = Callable[[str, str | None, TypeEngine[Any]], Any]
Told = Mapping[str, str]
CLIENTS: WeakKeyDictionary[Dialect, Ask] = WeakKeyDictionary()
TYPES: Mapping[Output, Callable[[int], TypeEngine[Any]]] = {
    "dense": VECTOR,
    "sparse": SPARSEVEC,
    "multi": TokenVectors,
}


def answer(dialect: Dialect, query: str, model: str | None, type_: TypeEngine[Any]) -> Any:
    """What the client of a dialect makes; what it gives to await is awaited as the driver's answers are."""
    vector = CLIENTS[dialect](query, model, type_)
    return await_only(vector) if isawaitable(vector) else vector


def give(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Before a statement that searches: make the vectors of its queries, and leave them with its session.

    They stay there until the transaction ends; without one, until others take their place.
    """
    searches = noted(context.compiled) if context is not None and connection.dialect in CLIENTS else []
    if not searches:
        return
    translated = context.execution_options.get("schema_translate_map")
    given: dict[tuple[str, ...], Told] = {}
    for search in searches:
        for values in context.compiled_parameters:
            for told in _answers(connection, search, context.compiled, values, translated, given):
                given[told["query"], told["model"], told["output"]] = told
    if given:
        session = connection.connection.dbapi_connection
        lasting = bool(getattr(session, "autocommit", False))
        query = text(statements.load("sqlalchemy")["give"])
        connection.execute(query, {"given": json.dumps(list(given.values())), "lasting": lasting})


def _answers(
    connection: Connection,
    search: Noted,
    compiled: Any,
    values: Mapping[str, Any],
    translated: Any,
    given: Mapping[tuple[str, ...], Told],
) -> Iterator[Told]:
    known, found = _known(search, compiled, values)
    if not known or found["query"] is None:
        return  # what stands in the database, the database embeds
    query = found["query"]
    names = [column(name, Text()) for name in ("output", "name", "space_id")]
    asks = func.embed._search_asks_v1(
        RowOf(search.source), *(cast(found[name], Text()) for name in ("mode", "rerank", "vectorizer"))
    ).table_valued(*names, column("size", Integer()))
    options = {} if translated is None else {"schema_translate_map": translated}
    rows = connection.execute(
        select(asks.c.output, asks.c.name, asks.c.space_id, asks.c.size), execution_options=options
    ).all()
    for output, model, space_id, size in rows:
        if (query, model, output) not in given:
            type_ = TYPES[output](size)
            vector = _spelled(
                answer(connection.dialect, query, model, type_), model, type_, connection.dialect
            )
            yield {"query": query, "model": model, "space_id": space_id, "output": output, "vector": vector}


def _known(search: Noted, compiled: Any, values: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """The values of a search's arguments, and whether all of them are known outside of the database."""
    found: dict[str, Any] = dict.fromkeys(("query", "mode", "rerank", "vectorizer"))
    for name, value in search.told.items():
        if isinstance(value, BindParameter):
            key = compiled.bind_names.get(value)
            found[name] = value.effective_value if key is None else values[key]
        elif not isinstance(value, Null):
            return False, found
    return isinstance(found["query"], str | None), found


def _spelled(vector: Any, model: str, type_: TypeEngine[Any], dialect: Dialect) -> str:
    """A vector as what pgvector's types take, in the text form of its type."""
    try:
        if vector is None:
            raise ValueError("None")
        if isinstance(type_, TokenVectors):
            spell = HALFVEC(type_.dim).bind_processor(dialect)
            return "{" + ",".join(f'"{spell(token)}"' for token in vector) + "}"
        return str(type_.bind_processor(dialect)(vector))  # type: ignore[misc]  # pgvector's have one
    except (ValueError, TypeError) as exc:
        hint = "give what that model makes"
        raise InvalidArgument(f"what is given is no vector of model {model!r}: {exc}", hint=hint) from exc
