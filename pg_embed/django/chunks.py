"""The field whose rows are the chunks of a text: a relation to the view that pg_embed makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from django.apps import apps
from django.core import checks
from django.db.models import (
    DO_NOTHING,
    BigIntegerField,
    ForeignKey,
    ForeignObject,
    ForeignObjectRel,
    IntegerField,
    ManyToOneRel,
    Model,
    QuerySet,
    TextField,
)
from django.db.models.fields.related import lazy_related_operation
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor

from pg_embed.chunks import Chunking
from pg_embed.django.fields import (
    FIXED,
    ColumnType,
    EmbeddedField,
    TemplateField,
    by_output,
    described,
    type_of,
)
from pg_embed.django.naming import beside, chunk_names
from pg_embed.errors import InvalidArgument
from pg_embed.models.presets import known_size
from pg_embed.records import Output

COLUMNS: dict[Output, str] = {"dense": "embedding", "sparse": "sparse", "multi": "multi"}


class ChunkedField(TemplateField):
    """The chunks of a long text in their order, each with its own vectors; pg_embed keeps them.

        chunks = ChunkedField("{title}\\n{body}", model="bge-m3", chunking={"size": 200})

    It is no column, but a relation: `doc.chunks.all()`, `prefetch_related("chunks")`,
    `filter(chunks__chunk__contains="tea")`. `Doc.chunks.model` is the class of the chunks. `makemigrations`
    writes what makes the vectorizer with a table and a view of the chunks. `outputs` are the vectors that a
    chunk has; `sparse` names another model for sparse ones, as in sparse="bm25". `dimensions`, of the dense
    vectors or by output, are needed for models whose names do not tell. The other arguments are those of
    embed.create_vectorizer.
    """

    description = "Chunks of a text, kept by pg_embed"

    def __init__(
        self,
        template: str,
        *,
        model: str | None = None,
        outputs: Sequence[Output] = ("dense",),
        sparse: str | None = None,
        dimensions: int | Mapping[Output, int] | None = None,
        column_type: ColumnType | None = None,
        chunking: Mapping[str, Any] | None = None,
        filter: str | None = None,
        index: str = "none",
        vectorizer: str | None = None,
        chunk_table: str | None = None,
        chunk_view: str | None = None,
        **options: Any,
    ) -> None:
        made = {*outputs, "sparse"} if sparse is not None else {*outputs}
        if not made or made - COLUMNS.keys():
            hint = 'give some of "dense", "sparse" and "multi"'
            raise InvalidArgument(f"chunks cannot have the outputs {tuple(outputs)}", hint=hint)
        if chunking is not None:
            Chunking.from_json(chunking)
        self.template = template
        self.embedding_model = model
        self.sparse_model = sparse
        self.outputs = tuple(output for output in COLUMNS if output in made)
        self.dimensions = self._sizes(by_output(dimensions))
        dense = self.dimensions.get("dense")
        self.column_type = None if dense is None else column_type or type_of(dense)
        self.chunking = None if chunking is None else dict(chunking)
        self.filter = filter
        self.index = index
        self.vectorizer = vectorizer
        self.chunk_table = chunk_table
        self.chunk_view = chunk_view
        super().__init__(**{**options, **FIXED})

    def _sizes(self, told: Mapping[Output, int]) -> dict[Output, int]:
        return {
            output: told.get(output) or known_size(self.model_of(output), output) for output in self.outputs
        }

    def model_of(self, output: Output) -> str | None:
        """The model that makes an output."""
        return self.sparse_model or self.embedding_model if output == "sparse" else self.embedding_model

    def get_attname_column(self) -> tuple[str, None]:
        """No column."""
        return self.get_attname(), None

    def db_type(self, connection: Any) -> None:
        """No column."""
        return

    def names(self, table: str) -> tuple[str, str]:
        """The names that the table of the chunks and its view have beside a table, without a schema."""
        return chunk_names(table, self.chunk_table, self.chunk_view)

    def contribute_to_class(self, cls: Any, name: str, private_only: bool = False) -> None:
        """Be a relation, but for the models of migrations."""
        super().contribute_to_class(cls, name, private_only)
        self.generated = cls._meta.apps is apps  # nobody has to give it
        if self.generated and not cls._meta.abstract:
            lazy_related_operation(self._relate, cls)

    def _relate(self, model: Any) -> None:
        chunks = chunk_model(model, self)
        self.relation = next(own for own in chunks._meta.local_fields if isinstance(own, (ChunkOf, PieceOf)))
        setattr(model, self.name, Chunks(self.relation.remote_field))

    @property
    def path_infos(self) -> Any:
        """How queries follow the relation."""
        return self.relation.reverse_path_infos

    def get_path_info(self, filtered_relation: Any = None) -> Any:
        """The same under a condition."""
        return self.relation.get_reverse_path_info(filtered_relation)

    def deconstruct(self) -> tuple[Any, Any, Any, Any]:
        """The sizes are said, whatever will be known of the models later."""
        name, _, args, kwargs = super().deconstruct()
        only_dense = self.dimensions.keys() == {"dense"}
        told: dict[str, tuple[Any, Any]] = {
            "model": (self.embedding_model, None),
            "outputs": (self.outputs, ("dense",)),
            "sparse": (self.sparse_model, None),
            "dimensions": (self.dimensions["dense"] if only_dense else self.dimensions, {}),
            "column_type": (self.column_type, None),
            "chunking": (self.chunking, None),
            "filter": (self.filter, None),
            "index": (self.index, "none"),
            "vectorizer": (self.vectorizer, None),
            "chunk_table": (self.chunk_table, None),
            "chunk_view": (self.chunk_view, None),
        }
        return name, "pg_embed.django.ChunkedField", [self.template, *args], described(kwargs, told)

    def switched(self, model: str, dimensions: Mapping[Output, int]) -> ChunkedField:
        """The same for vectors of another model, of which sizes by output may be told."""
        _, _, args, kwargs = self.deconstruct()
        kept = {key: value for key, value in kwargs.items() if key not in ("dimensions", "column_type")}
        if self.column_type == "vector":
            kept["column_type"] = "vector"
        sizes = dict(dimensions)
        if self.sparse_model is not None:  # which stays
            sizes["sparse"] = self.dimensions["sparse"]
        return ChunkedField(*args, **{**kept, "model": model, "dimensions": sizes})

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """What would make a migration fail later."""
        return [*super().check(**kwargs), *self._check_chunks()]

    def _check_chunks(self) -> list[checks.CheckMessage]:
        table = self.model._meta.db_table
        fields = [own for own in self.model._meta.local_fields if isinstance(own, ChunkedField)]
        same = [other for other in fields if set(other.names(table)) & set(self.names(table))]
        if same[0] is self:
            return []
        hint = "name the second ones: ChunkedField(..., chunk_table='...', chunk_view='...')"
        told = f"the chunks of {same[0].name} have the same table or view"
        return [checks.Error(told, hint=hint, obj=self, id="pg_embed.E005")]


class ChunkRel(ManyToOneRel):
    """The chunks of a row, called as the field that declares them."""

    def get_accessor_name(self, model: Any = None) -> str:
        """Also what they are kept under when they are fetched before they are asked for."""
        return str(self.related_name).removesuffix("+")


class PieceRel(ForeignObjectRel):
    """The same where the key has several columns."""

    get_accessor_name = ChunkRel.get_accessor_name


class ChunkOf(ForeignKey):
    """The row of a chunk."""

    rel_class = ChunkRel


class PieceOf(ForeignObject):
    """The same where the key has several columns."""

    rel_class = PieceRel


class Chunks(ReverseManyToOneDescriptor):
    """`doc.chunks` is a manager; `Doc.chunks.model` is the class of all chunks."""

    @property
    def model(self) -> Any:
        """The class of the chunks."""
        return self.rel.related_model


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise InvalidArgument("chunks are only read", hint="change the row that they are of")


class Chunk:
    """A chunk of a row, to be read only.

    Its attributes are chunk_id, chunk_no, chunk (its text), context (what stands above it, such as the path
    of its headings), of the vectors embedding, sparse and multi as they were declared, and source, the row.
    """

    chunk: str

    def __str__(self) -> str:
        return self.chunk

    def save_base(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Chunks are pg_embed's to write."""
        _refuse()

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Chunks are pg_embed's to write."""
        _refuse()


class ChunkQuerySet(QuerySet):
    """Chunks that are only read."""

    update = delete = bulk_create = _refuse


def chunk_model(model: Any, field: ChunkedField) -> Any:
    """A model of the view over the chunks; as the tables of many to many it has no part in migrations."""
    meta = model._meta
    options = {
        "app_label": meta.app_label,
        "apps": meta.apps,
        "auto_created": model,
        "base_manager_name": "objects",
        "managed": False,
        "db_table": beside(meta.db_table, field.names(meta.db_table)[1]),
        "ordering": ["chunk_no"],
    }
    attributes = {
        "__module__": model.__module__,
        "Meta": type("Meta", (), options),
        "chunk_id": BigIntegerField(primary_key=True),
        **_source(model, field),
        "chunk_no": IntegerField(),
        "chunk": TextField(),
        "context": TextField(),
        **dict(_vectors(field)),
        "objects": ChunkQuerySet.as_manager(),
    }
    return type(f"{model.__name__}_{field.name}", (Chunk, Model), attributes)


def _source(model: Any, field: ChunkedField) -> dict[str, Any]:
    """The row, and before it the parts of a key of several columns."""
    pk, told = model._meta.pk, {"on_delete": DO_NOTHING, "related_name": f"{field.name}+"}
    parts = getattr(pk, "fields", None)
    if parts is None:
        return {"source": ChunkOf(model, db_column=pk.column, db_constraint=False, **told)}
    names = [part.name for part in parts]
    row = PieceOf(model, from_fields=names, to_fields=names, **told)
    return {
        **{part.name: _copied(model, part) for part in parts},
        "source_row" if "source" in names else "source": row,
    }


def _copied(model: Any, part: Any) -> Any:
    """A part of a key, in another table."""
    if part.is_relation:
        target = model if part.remote_field.model == "self" else part.remote_field.model
        told = {"db_column": part.column, "db_constraint": False, "related_name": "+"}
        return ForeignKey(target, DO_NOTHING, to_field=part.remote_field.field_name, **told)
    _, _, args, kwargs = part.deconstruct()
    return type(part)(*args, **{**kwargs, "db_column": part.column})


def _vectors(field: ChunkedField) -> Iterator[tuple[str, EmbeddedField]]:
    """The columns of vectors."""
    for output, size in field.dimensions.items():
        model = field.model_of(output)
        kind = field.column_type if output == "dense" else None
        yield (
            COLUMNS[output],
            EmbeddedField(field.template, model=model, output=output, dimensions=size, column_type=kind),
        )
