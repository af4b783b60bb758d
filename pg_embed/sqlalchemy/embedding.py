"""`embed("text")` as an expression: the vector of a text, by the model of the column beside it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from pgvector import SparseVector
from pgvector.sqlalchemy import HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import ARRAY, Column, Dialect, Engine, Table, Text, event, literal, type_coerce
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from pg_embed.errors import InvalidArgument
from pg_embed.records import Output, SparseVectors
from pg_embed.records import TokenVectors as Tokens
from pg_embed.sqlalchemy.declarations import embedded_by
from pg_embed.sqlalchemy.giving import CLIENTS, Ask, answer, give
from pg_embed.sqlalchemy.tables import RowOf
from pg_embed.sqlalchemy.tokens import TokenVectors

if TYPE_CHECKING:
    from pg_embed.client import AsyncClient, Client

Embedder = Callable[[str, str | None, Output], Any]  # of a text, a model and what is wanted of it
FUNCTIONS: dict[Output, str] = {"dense": "embed", "sparse": "embed_sparse", "multi": "embed_multi"}


class Question(TypeDecorator[str]):
    """A text, for which a client sends the text of a vector."""

    impl = Text
    cache_ok = True

    def __init__(self, model: str | None, type_: TypeEngine[Any]) -> None:
        super().__init__()
        self.model = model
        self.type_ = type_

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Ask the client, if there is one."""
        if value is None or dialect not in CLIENTS:
            return value
        vector = answer(dialect, value, self.model, self.type_)
        processor = self.type_.bind_processor(dialect)
        return vector if processor is None else processor(vector)


class Embedding(ColumnElement[Any]):
    """The vector of a text, as a query, of the type of what it is compared with.

    `model` is None for that of the column that it stands beside, and without one for the database's.
    """

    _traverse_internals: Any = (
        ("text", InternalTraversal.dp_clauseelement),
        ("model", InternalTraversal.dp_string),
        ("type", InternalTraversal.dp_type),
        ("table", InternalTraversal.dp_clauseelement),
        ("name", InternalTraversal.dp_string),
    )

    def __init__(
        self,
        text: ColumnElement[str],
        model: str | None,
        type_: TypeEngine[Any] | None = None,
        column: Column[Any] | None = None,
    ) -> None:
        self.type = type_ or NullType()
        self.model = model
        self.table = None if column is None else column.table
        self.name = None if column is None else column.name
        self.text = text
        if isinstance(text, BindParameter):
            declared = None if column is None else embedded_by(column)
            named = model if declared is None else model or declared.model
            self.text = text._with_binary_element_type(Question(named, self.vector_type()))

    def vector_type(self) -> TypeEngine[Any]:
        """The type that a client's vector has."""
        return VECTOR() if isinstance(self.type, NullType) else self.type

    def beside(self, column: ColumnElement[Any]) -> Embedding:
        """The same text for a column, by that column's model if none was named."""
        bases: list[Any] = list(column.base_columns)
        own = next((base for base in bases if isinstance(getattr(base, "table", None), Table)), None)
        return Embedding(self.text, self.model, column.type, own)

    def _with_binary_element_type(self, type_: TypeEngine[Any]) -> Embedding:
        # what SQLAlchemy asks of an operand without a type
        return Embedding(self.text, self.model, type_)


def embed(text: str | ColumnElement[str], model: str | None = None) -> Embedding:
    """The vector of a query: `select(Doc).order_by(Doc.embedding.cosine_distance(embed("money back")))`.

    Beside a column of `embedded()` it is made by the model that fills the column now, else by the one that
    the database's vectorizers use; `model` names another. Beside a column of SPARSEVEC it is a sparse
    vector. The database asks its sidecar, once for a statement, or see `embed_with`.
    """
    if isinstance(text, str):
        return Embedding(literal(text, Text()), model)
    return Embedding(text if isinstance(text, BindParameter) else type_coerce(text, Text()), model)


def embed_with(engine: Engine | AsyncEngine, client: Client | AsyncClient | Embedder | None) -> None:
    """Let a client make the vectors of `embed()` and of searches, for a database without a sidecar.

        embed_with(engine, Client(sidecar="http://127.0.0.1:8089"))

    The statements of this engine stay as they are, but send vectors for texts; before a `search()` or
    `search_chunks()` two small ones ask which models it takes, and give the session their vectors, until the
    transaction ends. A query that stands in the database is still the database's to embed, and so is a model
    that reranks its to ask. `client` is a pg_embed.Client,
    with an asynchronous engine an AsyncClient, or a function of a text, a model and an output that returns
    what pgvector's types take (an array, a list, a SparseVector) or, with an asynchronous engine, is a
    coroutine function. `model` is the name that the query or the declaration of the column gives, or None,
    and for a search the one that the table has now; `output` is "dense", "sparse" or "multi". None takes the
    client away.
    """
    engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if client is None:
        CLIENTS.pop(engine.dialect, None)
    else:
        CLIENTS[engine.dialect] = _asking(client, engine.dialect.is_async)
    listens = event.contains(engine, "before_cursor_execute", give)
    if client is not None and not listens:
        event.listen(engine, "before_cursor_execute", give)
    elif client is None and listens:
        event.remove(engine, "before_cursor_execute", give)
    engine.clear_compiled_cache()


def _asking(client: Any, awaits: bool) -> Ask:
    """How a client is asked: one of ours by its embed(), a function as it is."""
    asked = client if callable(client) else getattr(client, "embed", None)
    if asked is None:
        hint = (
            "embed_with(engine, Client(sidecar='http://…')), or a function of a text, a model and an output"
        )
        raise InvalidArgument(f"a {type(client).__name__} makes no vectors", hint=hint)
    if iscoroutinefunction(asked) and not awaits:
        hint = "give a Client or an ordinary function, or use create_async_engine"
        raise InvalidArgument("an asynchronous client needs an asynchronous engine", hint=hint)
    if asked is client:
        return lambda text, model, type_: client(text, model, output_of(type_))

    async def later(text: str, model: str | None, type_: TypeEngine[Any]) -> Any:
        return _first(await asked([text], model, output=output_of(type_)), type_)

    if iscoroutinefunction(asked):
        return later
    return lambda text, model, type_: _first(asked([text], model, output=output_of(type_)), type_)


def _first(found: Any, type_: Any) -> Any:
    """The one vector of a client's answer, as pgvector takes it."""
    if isinstance(found, Tokens):
        return found.row(0)
    if not isinstance(found, SparseVectors):
        return found[0]
    indices, values = found.row(0)
    return SparseVector(dict(zip(indices.tolist(), values.tolist(), strict=True)), type_.dim)


class _Placing:
    """Tells an `embed()` which column it stands beside."""

    expr: ColumnElement[Any]

    def operate(self, op: Any, *other: Any, **options: Any) -> Any:
        placed = (value.beside(self.expr) if isinstance(value, Embedding) else value for value in other)
        return super().operate(op, *placed, **options)  # type: ignore[misc]


class HalfvecComparator(_Placing, HALFVEC.Comparator):
    """Operators of a declared column of HALFVEC."""


class VectorComparator(_Placing, VECTOR.Comparator):
    """Operators of a declared column of VECTOR."""


class SparsevecComparator(_Placing, SPARSEVEC.Comparator):
    """Operators of a declared column of SPARSEVEC."""


COMPARATORS: dict[Any, Any] = {
    HALFVEC: HalfvecComparator,
    VECTOR: VectorComparator,
    SPARSEVEC: SparsevecComparator,
}


def compared_by_model(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """A type of pgvector, whose column tells an `embed()` beside it which column it is."""
    type_.comparator_factory = COMPARATORS[type(type_)]
    return type_


def output_of(type_: TypeEngine[Any]) -> Output:
    """What a column of a type holds."""
    if isinstance(type_, SPARSEVEC):
        return "sparse"
    return "multi" if isinstance(type_, ARRAY | TokenVectors) else "dense"


@compiles(Embedding)
def _embedding(element: Embedding, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.text, **kw)
    if compiler.dialect in CLIENTS:
        if not isinstance(element.text.type, Question):
            hint = "give embed() a text, or let the database embed: embed_with(engine, None)"
            raise InvalidArgument("a text that stands in the database is not known to a client", hint=hint)
        return f"CAST({text} AS {element.vector_type().compile(compiler.dialect)})"
    arguments = [text]
    if element.model is not None:
        arguments.append(compiler.render_literal_value(element.model, Text()))
    elif element.table is not None:
        row = compiler.process(RowOf(element.table), **kw)
        arguments.append(
            f"embed._column_model_v1({row}, {compiler.render_literal_value(element.name, Text())})"
        )
    # a sub-select is asked once, and an index is ordered by it
    return f"(SELECT embed.{FUNCTIONS[output_of(element.type)]}({', '.join(arguments)}))"
