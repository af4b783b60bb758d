"""`Embed` as an expression: the vector of a text, by the model of the field beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db.models import Expression, TextField, Value
from django.db.models.expressions import Col
from django.utils.module_loading import import_string
from pgvector import HalfVector, SparseVector, Vector
from pgvector import django as plain
from psycopg import sql

from pg_embed import statements
from pg_embed.django.fields import EmbeddedField
from pg_embed.errors import InvalidArgument
from pg_embed.records import Output

Client = Callable[[str, str | None, Output], Any]  # of a text, a model and what is wanted of it
FUNCTIONS: dict[Output, str] = {"dense": "embed", "sparse": "embed_sparse"}
SQL = statements.fragments("django")


class Embed(Expression):
    """The vector of a query: `Doc.objects.order_by(CosineDistance("embedding", Embed("money back")))`.

    Beside an EmbeddedField it is made by the model that fills the column now, else by the one that the
    database's vectorizers use; `model` names another. Which field that is, pg_embed.django's distances tell;
    beside those of pgvector.django it is the only one of the queried model. The database asks its sidecar,
    once for a statement; or a client makes the vector, if the setting PG_EMBED_CLIENTS names one for the
    database.
    """

    output_field = plain.VectorField()

    def __init__(self, text: Any, model: str | None = None) -> None:
        super().__init__()
        self.text = text if hasattr(text, "resolve_expression") else Value(text, TextField())
        self.model = model
        self.candidates: list[EmbeddedField] = []

    def get_source_expressions(self) -> list[Any]:
        """The text."""
        return [self.text]

    def set_source_expressions(self, exprs: Any) -> None:
        """Another text."""
        (self.text,) = exprs

    def resolve_expression(self, query: Any = None, *args: Any, **options: Any) -> Embed:
        """Look which fields it might stand beside."""
        resolved: Embed = super().resolve_expression(query, *args, **options)
        meta = getattr(getattr(query, "model", None), "_meta", None)
        fields = [] if meta is None else meta.concrete_fields
        resolved.candidates = [
            field for field in fields if isinstance(field, EmbeddedField) and field.output in FUNCTIONS
        ]
        return resolved

    def beside(self, field: EmbeddedField) -> Embed:
        """The same text for a field, by that field's model if none was named."""
        if field.output not in FUNCTIONS:
            hint = "rank rows by them: search(..., rerank='multi')"
            raise InvalidArgument(f"no distance is between the token vectors of {field.name}", hint=hint)
        placed: Embed = self.copy()
        placed.candidates = [field]
        return placed

    def field(self) -> EmbeddedField | None:
        """The field that it stands beside, so far as is known."""
        if len(self.candidates) > 1 and self.model is None:
            names = ", ".join(field.name for field in self.candidates)
            hint = (
                "take the distance from pg_embed.django, which tells, or name the model: Embed(text, model)"
            )
            raise InvalidArgument(f"a query could be meant for several fields: {names}", hint=hint)
        return self.candidates[0] if len(self.candidates) == 1 else None

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """A call of embed(), or the vector that a client gives."""
        field = self.field()
        output: Output = "dense" if field is None else field.output
        client = client_of(connection.alias)
        if client is not None:
            return self._from_client(client, field, output)
        text, parameters = compiler.compile(self.text)
        arguments: list[sql.Composable] = [sql.SQL(f"CAST({text} AS text)")]
        parameters = list(parameters)
        if self.model is not None:
            arguments.append(sql.SQL("CAST(%s AS text)"))
            parameters.append(self.model)
        elif field is not None:
            table = connection.ops.quote_name(field.model._meta.db_table).replace("%", "%%")
            column = sql.SQL("CAST(%s AS text)")
            arguments.append(sql.SQL(SQL["column_model"]).format(table=sql.SQL(table), column=column))
            parameters.append(field.column)
        call = sql.SQL(SQL["embed"]).format(
            function=sql.Identifier(FUNCTIONS[output]), arguments=sql.SQL(", ").join(arguments)
        )
        return call.as_string(None), parameters

    def _from_client(
        self, client: Client, field: EmbeddedField | None, output: Output
    ) -> tuple[str, list[Any]]:
        if not isinstance(self.text, Value):
            hint = "give Embed() a text, or let the database embed"
            raise InvalidArgument("a text that stands in the database is not known to a client", hint=hint)
        if self.text.value is None:
            return "NULL", []
        vector = client(self.text.value, self.model or getattr(field, "embedding_model", None), output)
        kind = "vector" if field is None else field.column_type
        return f"CAST(%s AS {kind})", [_as_text(vector, kind)]


def _as_text(vector: Any, kind: str) -> str:
    types: dict[str, Any] = {"halfvec": HalfVector, "vector": Vector, "sparsevec": SparseVector}
    return str((vector if isinstance(vector, types[kind]) else types[kind](vector)).to_text())


def client_of(alias: str) -> Client | None:
    """What makes vectors for a database without a sidecar: a function, or its dotted name in the settings."""
    client = getattr(settings, "PG_EMBED_CLIENTS", {}).get(alias)
    found: Client | None = import_string(client) if isinstance(client, str) else client
    return found


class _Placing:
    """Tells an `Embed` which field it stands beside."""

    def resolve_expression(self, *args: Any, **options: Any) -> Any:
        resolved = super().resolve_expression(*args, **options)  # type: ignore[misc]
        parts = resolved.get_source_expressions()
        fields = [
            part.target for part in parts if isinstance(part, Col) and isinstance(part.target, EmbeddedField)
        ]
        if len(fields) == 1:
            placed = [part.beside(fields[0]) if isinstance(part, Embed) else part for part in parts]
            resolved.set_source_expressions(placed)
        return resolved


class CosineDistance(_Placing, plain.CosineDistance):
    """1 less the cosine of two vectors."""


class L1Distance(_Placing, plain.L1Distance):
    """The sum of the differences."""


class L2Distance(_Placing, plain.L2Distance):
    """The length of the difference."""


class MaxInnerProduct(_Placing, plain.MaxInnerProduct):
    """The inner product, negated."""
