"""Chunks of a row's text, declared with its class: a relationship to the view that pg_embed makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, and_, event
from sqlalchemy.orm import Mapped, Mapper, RelationshipProperty, foreign, relationship, remote
from sqlalchemy.orm.attributes import QueryableAttribute

from pg_embed.chunks import Chunking
from pg_embed.errors import InvalidArgument
from pg_embed.records import Output
from pg_embed.sqlalchemy.declarations import INFO, ColumnType, Embedded, Vectorizer, declare_chunks
from pg_embed.sqlalchemy.embedded import vector_type

COLUMNS: dict[Output, str] = {"dense": "embedding", "sparse": "sparse", "multi": "multi"}


if TYPE_CHECKING:

    class Keyed(type):
        """A class with columns whose names are the row's to choose."""

        def __getattr__(cls, name: str) -> Any: ...

else:
    Keyed = type


class Chunk(metaclass=Keyed):
    """A chunk as `chunked()` maps it, to be read only: its row's key by the row's own names, and these.

    `context` is what stands above the chunk, such as the path of its headings. Of the vectors there are
    those that were declared. `source` is the row (`source_row`, where a part of the key is called so).
    """

    chunk_id: Mapped[int]
    chunk_no: Mapped[int]
    chunk: Mapped[str]
    context: Mapped[str]
    embedding: Mapped[Any]
    sparse: Mapped[Any]
    multi: Mapped[Any]
    source: Mapped[Any]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Declaration:
    """What `chunked()` was told, and what came of it once its class was mapped."""

    def __init__(self, wanted: Vectorizer, dimensions: int | Mapping[Output, int] | None) -> None:
        self.wanted = wanted
        self.vectors = _vectors(wanted, dimensions)
        self._made: tuple[type[Chunk], Table, Table] | None = None

    def map(self, parent: Mapper[Any], name: str) -> None:
        """Map a class for the chunks of the rows of another."""
        table = parent.local_table
        if not isinstance(table, Table):
            raise InvalidArgument(f"{parent} has no table", hint="declare chunks in a class that has one")
        wanted = replace(
            self.wanted,
            table=table.name,
            chunk_table=self.wanted.chunk_table or f"{table.name}_embedding",
            chunk_view=self.wanted.chunk_view or f"{table.name}_chunks",
        )
        declare_chunks(table, wanted)
        view = _view(table, str(wanted.chunk_view), self.vectors)
        made = type(f"{parent.class_.__name__}{name.title().replace('_', '')}", (Chunk,), {})
        made.__module__ = parent.class_.__module__
        self._made = made, view, table
        back = "source_row" if "source" in view.columns else "source"
        row = relationship(parent.class_, primaryjoin=self.joined_back, viewonly=True)
        parent.registry.map_imperatively(made, view, properties={back: row})

    def entity(self) -> type[Chunk]:
        """The mapped class of the chunks."""
        return self._mapped()[0]

    def joined(self) -> Any:
        """The condition that a chunk is one of a row."""
        _, view, table = self._mapped()
        return and_(*(remote(foreign(view.columns[key.key])) == key for key in table.primary_key))

    def joined_back(self) -> Any:
        """The same for the row of a chunk."""
        _, view, table = self._mapped()
        return and_(*(foreign(view.columns[key.key]) == remote(key) for key in table.primary_key))

    def ordered(self) -> Any:
        """By their places in the text."""
        return self._mapped()[1].columns["chunk_no"]

    def _mapped(self) -> tuple[type[Chunk], Table, Table]:
        if self._made is None:
            hint = "declare them in its body: chunks: Mapped[list[Chunk]] = chunked(...)"
            raise InvalidArgument("a class was given chunks after it was mapped", hint=hint)
        return self._made


def chunked(
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
) -> Mapped[list[Chunk]]:
    """The chunks of a long text in their order, each with its own vectors; pg_embed keeps them.

        chunks: Mapped[list[Chunk]] = chunked("{title}\\n{body}", model="bge-m3", chunking={"size": 200})

    `create_all` makes the vectorizer with a table and a view of the chunks, `drop_all` removes them; neither
    is in the MetaData. `outputs` are the vectors that a chunk has, `sparse` names another model for sparse
    ones, as in sparse="bm25". `dimensions`, of the dense vectors or by output, are needed for models whose
    names do not tell. The other arguments are those of embed.create_vectorizer, `options` those of
    relationship: lazy="selectin", or init=False in a dataclass. In a mixin it stands in a declared_attr.
    """
    plain = Vectorizer("", None, template, model, filter=filter or None, index=index, name=vectorizer)
    made = {*outputs, "sparse"} if sparse is not None else {*outputs}
    if not made or made - COLUMNS.keys():
        hint = 'give some of "dense", "sparse" and "multi"'
        raise InvalidArgument(f"chunks cannot have the outputs {tuple(outputs)}", hint=hint)
    wanted = replace(
        plain,
        **{output: column for output, column in COLUMNS.items() if output in made},
        sparse_model=sparse,
        column_type=column_type,
        chunking=_json(chunking),
        chunk_table=chunk_table,
        chunk_view=chunk_view,
    )
    told = Declaration(wanted, dimensions)
    related = relationship(
        told.entity,
        primaryjoin=told.joined,
        order_by=told.ordered,
        viewonly=True,
        info={**options.pop("info", {}), INFO: told},
        **options,
    )
    return cast("Mapped[list[Chunk]]", related)


def chunk_class(chunks: Any) -> type[Chunk]:
    """The mapped class that `chunked()` made, for other statements: `DocChunk = chunk_class(Doc.chunks)`."""
    declaration = _declaration(chunks)
    if declaration is None:
        raise InvalidArgument(f"{chunks!r} are no chunks", hint="give what chunked() declared: Doc.chunks")
    return declaration.entity()


@event.listens_for(Mapper, "after_mapper_constructed")
def map_chunks(mapper: Mapper[Any], entity: type[Any]) -> None:
    """Map what a class declares by `chunked()`, once its table is known."""
    for name, attribute in list(vars(entity).items()):
        declaration = _declaration(attribute)
        if declaration is not None and attribute.prop.parent is mapper:  # and not inherited
            declaration.map(mapper, name)


@event.listens_for(Chunk, "before_insert", propagate=True)
@event.listens_for(Chunk, "before_update", propagate=True)
@event.listens_for(Chunk, "before_delete", propagate=True)
def refuse(mapper: Mapper[Any], connection: Connection, chunk: Chunk) -> None:
    """Chunks are pg_embed's to write."""
    raise InvalidArgument("chunks are only read", hint="change the row that they are of")


def _declaration(attribute: Any) -> Declaration | None:
    related = attribute.prop if isinstance(attribute, QueryableAttribute) else None
    found = related.info.get(INFO) if isinstance(related, RelationshipProperty) else None
    return found if isinstance(found, Declaration) else None


def _json(chunking: Mapping[str, Any] | None) -> str | None:
    if chunking is None:
        return None
    Chunking.from_json(chunking)
    return json.dumps(dict(chunking), sort_keys=True)  # what is left out is the database's to choose


def _vectors(wanted: Vectorizer, dimensions: int | Mapping[Output, int] | None) -> list[Column[Any]]:
    sizes = {"dense": dimensions} if isinstance(dimensions, int) else dimensions or {}
    columns = []
    for output, name in COLUMNS.items():
        if getattr(wanted, output) is not None:
            model = wanted.sparse_model or wanted.model if output == "sparse" else wanted.model
            type_ = vector_type(model, output, sizes.get(output), wanted.column_type)
            info = {INFO: Embedded(wanted.template, model, output)}
            columns.append(Column(name, type_, info=info))
    return columns


def _view(table: Table, name: str, vectors: Sequence[Column[Any]]) -> Table:
    """The view, in a MetaData of its own: others would make and compare it."""
    return Table(
        name,
        MetaData(),
        Column("chunk_id", BigInteger, primary_key=True),
        *(Column(key.name, key.type, key=key.key) for key in table.primary_key),
        Column("chunk_no", Integer),
        Column("chunk", Text),
        Column("context", Text),
        *vectors,
        schema=table.schema,
    )
