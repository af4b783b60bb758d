"""The operations of migrations: what each says, and how it is taken back. Names are those of fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import router
from django.db.migrations import operations as plain
from django.db.migrations.operations.base import Operation, OperationCategory
from psycopg import sql

from pg_embed import migrating, statements
from pg_embed.django.chunks import ChunkedField
from pg_embed.django.fields import EmbeddedField, by_output
from pg_embed.django.naming import beside, chunk_names
from pg_embed.django.sending import install_in, send
from pg_embed.django.templates import column_of, renamed
from pg_embed.django.types import keeps_texts, type_changes
from pg_embed.install import removal_steps
from pg_embed.records import Output

SQL = statements.fragments("django")
APP = "pg_embed"  # the label of our own app
Input = str | Sequence[str]


class _EmbedOperation(Operation):
    """An operation that changes nothing of Django's own state, and does its work in PostgreSQL alone."""

    def state_forwards(self, app_label: str, state: Any) -> None:
        return None

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """What was given, as it was given."""
        positional, named = self._constructor_args
        return type(self).__name__, list(positional), dict(named)


class _OnTable(Operation):
    """An operation on a table that Django made."""

    def runs(self, schema_editor: Any, model: Any) -> bool:
        """Whether the table is in this database."""
        alias = schema_editor.connection.alias
        is_postgres: bool = schema_editor.connection.vendor == "postgresql"
        return is_postgres and bool(self.allow_migrate_model(alias, model))


class _OfModel(_OnTable, _EmbedOperation):
    """An operation on a model's table, by the model's name."""

    model_name: str

    def references_model(self, name: str, app_label: str) -> bool:
        """For the optimizer of migrations."""
        return name.lower() == self.model_name.lower()


class CreateVectorizer(_OfModel):
    """A vectorizer for the table of a model.

        CreateVectorizer("doc", template="{title}\\n{body}", model="bge-m3", dense="embedding")

    `input` is a field or several, or else `template` names them. `dense`, `sparse` and `multi` are the fields
    of vectors; columns of those names are added where there are none. With storage="table" they are columns
    of the chunks. `filter` is SQL over columns, `sparse_model` another model for the sparse ones; the other
    options are those of embed.create_vectorizer. Backwards the vectors stay unless `drop_column` is true.
    """

    category = OperationCategory.ADDITION

    def __init__(
        self,
        model_name: str,
        input: Input | None = None,
        *,
        template: str | None = None,
        model: str | None = None,
        dense: str | None = None,
        sparse: str | None = None,
        multi: str | None = None,
        filter: str | None = None,
        column_type: str | None = None,
        sparse_model: str | None = None,
        index: str | None = None,
        name: str | None = None,
        max_attempts: int | None = None,
        backfill: bool | None = None,
        if_not_exists: bool | None = None,
        storage: str | None = None,
        chunking: Mapping[str, Any] | None = None,
        chunk_table: str | None = None,
        chunk_view: str | None = None,
        drop_column: bool = False,
    ) -> None:
        self.model_name = model_name
        self.input = input
        self.template = template
        self.places = {"column_name": dense, "sparse_column": sparse, "multi_column": multi}
        self.name = name
        self.storage = storage
        self.chunk_view = chunk_view
        self.drop_column = drop_column
        told = {
            "model": model,
            "filter": filter,
            "column_type": column_type,
            "sparse": sparse_model,
            "index": index,
            "name": name,
            "max_attempts": max_attempts,
            "backfill": backfill,
            "if_not_exists": if_not_exists,
            "storage": storage,
            "chunking": chunking,
            "chunk_table": chunk_table,
            "chunk_view": chunk_view,
        }
        self.options = {key: value for key, value in told.items() if value is not None}

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.runs(schema_editor, model):
            send(schema_editor, self._creation(schema_editor, model))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.runs(schema_editor, model):
            send(schema_editor, self._removal(schema_editor, model))

    def describe(self) -> str:
        return f"Embed {self.model_name}{self._in_fields()}"

    def _in_fields(self) -> str:
        own = ", ".join(name for name in self.places.values() if name is not None)
        named = "chunks" if self.storage == "table" else own
        return f" in {named}" if named else ""

    @property
    def migration_name_fragment(self) -> str:
        return f"{self.model_name.lower()}_vectorizer"

    def _creation(self, schema_editor: Any, model: Any) -> sql.Composed:
        given: dict[str, Any] = {}
        if self.input is not None:
            named = [self.input] if isinstance(self.input, str) else self.input
            given["input"] = [column_of(model, name) for name in named]
        if self.template is not None:
            given["template"] = renamed(self.template, lambda name: column_of(model, name))
        places = {key: self._column(model, name) for key, name in self.places.items() if name is not None}
        if places:
            given |= {"column_name": None, **places}
        return migrating.call("create_vectorizer", _source(schema_editor, model), **given, **self.options)

    def _column(self, model: Any, name: str) -> str:
        return name if self.storage == "table" else column_of(model, name)

    def _removal(self, schema_editor: Any, model: Any) -> sql.Composed:
        if self.name is not None:
            flags = migrating.true({"drop_column": self.drop_column})
            return migrating.call("drop_vectorizer", self.name, **flags, if_exists=True)
        if self.storage == "table":
            return sql.SQL(SQL["drop_chunks"]).format(
                drop_column=sql.Literal(self.drop_column), view=_view(schema_editor, model, self.chunk_view)
            )
        place = next((name for name in self.places.values() if name is not None), "embedding")
        return sql.SQL(SQL["drop_vectorizer"]).format(
            drop_column=sql.Literal(self.drop_column),
            source=_source(schema_editor, model),
            column=sql.Literal(column_of(model, place)),
        )


class DropVectorizer(CreateVectorizer):
    """No vectorizer any more; the vectors stay unless `drop_column` is true.

    It is found by its `name` or its fields of vectors, and can be reversed if all else is said of it, too.
    """

    category = OperationCategory.REMOVAL

    @property
    def reversible(self) -> bool:
        """Whether it says what was there."""
        return self.template is not None or self.input is not None

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.runs(schema_editor, model):
            send(schema_editor, self._removal(schema_editor, model))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        CreateVectorizer.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def describe(self) -> str:
        return f"Do not embed {self.model_name}{self._in_fields()} any more"

    @property
    def migration_name_fragment(self) -> str:
        return f"drop_{self.model_name.lower()}_vectorizer"


class AlterVectorizer(_OfModel):
    """Another `template`, `filter` ("" takes it away), `max_attempts`, `index`, `name` or `chunking`.

    The vectorizer is that of a field of vectors, or of chunks. When the text changes, all rows are embedded
    again behind live rows. `chunk_table` and `chunk_view` are new names, of which those before must be told.
    What else was before may be told (`existing_template`, ...), so that it can be reversed.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self,
        model_name: str,
        field: str,
        *,
        template: str | None = None,
        existing_template: str | None = None,
        filter: str | None = None,
        existing_filter: str | None = None,
        max_attempts: int | None = None,
        existing_max_attempts: int | None = None,
        index: str | None = None,
        existing_index: str | None = None,
        name: str | None = None,
        existing_name: str | None = None,
        chunking: Mapping[str, Any] | None = None,
        existing_chunking: Mapping[str, Any] | None = None,
        chunk_table: str | None = None,
        existing_chunk_table: str | None = None,
        chunk_view: str | None = None,
        existing_chunk_view: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.field = field
        self.pairs = {
            "template": (template, existing_template),
            "filter": (filter, existing_filter),
            "max_attempts": (max_attempts, existing_max_attempts),
            "index": (index, existing_index),
            "name": (name, existing_name),
            "chunking": (chunking, existing_chunking),
        }
        self.renamed = {
            "rename_table": (chunk_table, existing_chunk_table),
            "rename_view": (chunk_view, existing_chunk_view),
        }

    @property
    def reversible(self) -> bool:
        """Whether it says what was there."""
        return all(new is None or old is not None for new, old in self.pairs.values())

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        for statement, (new, old) in self.renamed.items():
            self._rename(schema_editor, model, statement, old, new)
        self._alter(
            schema_editor, model, {key: new for key, (new, _) in self.pairs.items() if new is not None}
        )

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        self._alter(
            schema_editor, model, {key: old for key, (_, old) in self.pairs.items() if old is not None}
        )
        for statement, (new, old) in self.renamed.items():
            self._rename(schema_editor, model, statement, new, old)

    def describe(self) -> str:
        return f"Change how {self.model_name} is embedded in {self.field}"

    @property
    def migration_name_fragment(self) -> str:
        return f"alter_{self.model_name.lower()}_{self.field.lower()}_vectorizer"

    def _rename(
        self, schema_editor: Any, model: Any, statement: str, old: str | None, new: str | None
    ) -> None:
        if old is None or new is None or not self.runs(schema_editor, model):
            return
        place = schema_editor.quote_name(beside(model._meta.db_table, old))
        send(schema_editor, sql.SQL(SQL[statement]).format(place=sql.SQL(place), name=sql.Identifier(new)))

    def _alter(self, schema_editor: Any, model: Any, changes: Mapping[str, Any]) -> None:
        if not self.runs(schema_editor, model):
            return
        vectorizer = _vectorizer(schema_editor, model, self.field)
        given = {
            key: value for key, value in changes.items() if key in ("filter", "max_attempts", "chunking")
        }
        if "template" in changes:
            given["template"] = renamed(changes["template"], lambda name: column_of(model, name))
        if "name" in changes:
            given["rename_to"] = changes["name"]
        if given:
            send(schema_editor, migrating.call("alter_vectorizer", vectorizer, **given))
        if "index" in changes:
            send(schema_editor, migrating.call("create_index", vectorizer, kind=changes["index"]))


class AlterField(_OnTable, plain.AlterField):
    """Django's own, for a field that a vectorizer reads: PostgreSQL refuses to change its type otherwise.

        AlterField("doc", "title", models.CharField(max_length=500))

    Where it may have made other texts of those that are there, rows are embedded again behind live ones.
    """

    atomic = True  # no row may be written while no trigger looks

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Also backwards."""
        old, new = (
            state.apps.get_model(app_label, self.model_name)._meta.get_field(self.name)
            for state in (from_state, to_state)
        )
        is_read = self.runs(schema_editor, new.model) and type_changes(old, new, schema_editor.connection)
        sources = [_source(schema_editor, model) for model in _having(new)] if is_read else []
        for source in sources:
            send(schema_editor, sql.SQL(SQL["untie"]).format(source=source))
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        again = sql.Literal(not keeps_texts(old, new, schema_editor.connection))
        for source in sources:
            send(schema_editor, sql.SQL(SQL["tie"]).format(source=source, again=again))

    def reduce(self, operation: Any, app_label: str) -> Any:
        """For the optimizer of migrations: what is made of it is such a one, too."""
        reduced = super().reduce(operation, app_label)
        return [careful(own) for own in reduced] if isinstance(reduced, list) else reduced


def _having(field: Any) -> Iterator[Any]:
    """The models whose tables have a field's column: a key is that of those, too, that inherit by a join."""
    yield field.model
    for relation in field.model._meta.related_objects if field.primary_key else ():
        if relation.field.primary_key and relation.related_model._meta.managed:
            yield from _having(relation.field)


def careful(operation: Operation) -> Operation:
    """Our AlterField for Django's."""
    if type(operation) is not plain.AlterField:
        return operation
    arguments, named = operation._constructor_args
    return AlterField(*arguments, **named)


class SwitchModel(_OfModel):
    """Another model for a field of vectors, and for those filled with it, without a pause for searches.

        SwitchModel("doc", "embedding", model="bge-m3")

    Workers fill the new vectors behind live rows, and then swap, unless `auto` is false; `keep`, `index` and
    `dependants` are those of embed.switch_model. An empty table is switched at once. The fields have the new
    model and its size from this migration on: write it into the models, too. `dimensions`, of the dense
    vectors or by output, are for models that are not known by name.
    """

    category = OperationCategory.ALTERATION

    def __init__(
        self,
        model_name: str,
        field: str,
        *,
        model: str,
        dimensions: int | Mapping[Output, int] | None = None,
        auto: bool = True,
        keep: str | None = None,
        index: str | None = None,
        dependants: str | None = None,
    ) -> None:
        self.model_name = model_name
        self.field = field
        self.model = model
        self.dimensions = dimensions
        told = {"auto": auto, "keep": keep, "index": index, "dependants": dependants}
        self.options = {key: value for key, value in told.items() if value is not None}

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The fields, by the new model."""
        fields = state.models[app_label, self.model_name.lower()].fields
        for name in _filled_with(fields, self.field):
            field = fields[name].switched(self.model, by_output(self.dimensions))
            state.alter_field(app_label, self.model_name.lower(), name, field, True)

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.runs(schema_editor, model):
            return
        vectorizer = _vectorizer(schema_editor, model, self.field)
        send(schema_editor, migrating.call("switch_model", vectorizer, model=self.model, **self.options))
        finish = sql.SQL(SQL["finish_switch"]).format(
            vectorizer=vectorizer, table=_table(schema_editor, model)
        )
        send(schema_editor, finish)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.runs(schema_editor, model):
            undo = sql.SQL(SQL["undo_switch"]).format(
                vectorizer=_vectorizer(schema_editor, model, self.field), table=_table(schema_editor, model)
            )
            send(schema_editor, undo)

    def describe(self) -> str:
        return f"Switch {self.field} of {self.model_name} to {self.model}"

    @property
    def migration_name_fragment(self) -> str:
        return f"switch_{self.model_name.lower()}_{self.field.lower()}"


class CreateModel(_EmbedOperation):
    """A model in pg_embed's catalog; without a family it is one that pg_embed knows by its name.

    Where neither `card` nor pg_embed itself tells what the model makes, the sidecar does, which must be
    running then.
    """

    category = OperationCategory.ADDITION

    def __init__(
        self,
        name: str,
        family: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        is_default: bool = False,
        if_not_exists: bool = False,
    ) -> None:
        self.name = name
        self.family = family
        self.options = options
        self.card = card
        self.is_default = is_default
        self.if_not_exists = if_not_exists

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if _is_home(schema_editor):
            flags = {"is_default": self.is_default, "if_not_exists": self.if_not_exists}
            made = migrating.create_model(self.name, self.family, self.options, self.card, **flags)
            send(schema_editor, made)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop it; one that may have been there before only if nothing uses it."""
        if _is_home(schema_editor):
            send(schema_editor, migrating.drop_model(self.name, if_unused=self.if_not_exists))

    def describe(self) -> str:
        return f"Enter the embedding model {self.name}"

    def references_model(self, name: str, app_label: str) -> bool:
        """None of Django's models."""
        return False


class EmbedUpgrade(_EmbedOperation):
    """pg_embed's own schema, of the version of this package, in the migration's transaction.

    The transport stays as it is. A new installation has none, so that the workers embed rows and embed()
    answers nothing until `pg-embed upgrade DSN` was told where the sidecar is. Backwards it is removed, and
    columns of vectors stay, unless it is told `remove=False`.
    """

    category = OperationCategory.ADDITION

    def __init__(self, *, remove: bool = True) -> None:
        self.remove = remove

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if _is_home(schema_editor):
            send(schema_editor, sql.SQL(migrating.SQL["keep_path"]))
            install_in(schema_editor)
            send(schema_editor, sql.SQL(migrating.SQL["restore_path"]))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if self.remove and _is_home(schema_editor):
            for statement in removal_steps():
                send(schema_editor, sql.SQL(statement))

    def describe(self) -> str:
        return "Install pg_embed, or bring it up to date"

    def references_model(self, name: str, app_label: str) -> bool:
        """None of Django's models."""
        return False


def _is_home(schema_editor: Any) -> bool:
    """Whether pg_embed is to be in a database: routers are asked about the app of that label."""
    connection = schema_editor.connection
    is_postgres: bool = connection.vendor == "postgresql"
    return is_postgres and bool(router.allow_migrate(connection.alias, APP))


def _source(schema_editor: Any, model: Any) -> sql.Composable:
    name = schema_editor.quote_name(model._meta.db_table)
    return sql.SQL(SQL["source"]).format(table=sql.Literal(name))


def _table(schema_editor: Any, model: Any) -> sql.Composable:
    return sql.SQL(schema_editor.quote_name(model._meta.db_table))


def _view(schema_editor: Any, model: Any, chunk_view: str | None) -> sql.Composable:
    """The name of the view of a model's chunks, as a text."""
    table = model._meta.db_table
    _, name = chunk_names(table, None, chunk_view)
    return sql.Literal(schema_editor.quote_name(beside(table, name)))


def _vectorizer(schema_editor: Any, model: Any, field: str) -> sql.Composable:
    fields = {own.name: own for own in model._meta.local_fields}
    if isinstance(fields.get(field), ChunkedField):
        view = _view(schema_editor, model, fields[field].chunk_view)
        told = sql.Literal(f"that fills {field} of {model._meta.label}")
        return sql.SQL(SQL["vectorizer_of_chunks"]).format(view=view, told=told)
    return sql.SQL(SQL["vectorizer"]).format(
        source=_source(schema_editor, model),
        column=sql.Literal(column_of(model, field)),
        told=sql.Literal(f"that fills {field} of {model._meta.label}"),
    )


def _filled_with(fields: Mapping[str, Any], name: str) -> list[str]:
    """The fields that one vectorizer fills together with one, by one model."""
    one = fields[name]
    if isinstance(one, ChunkedField):
        return [name]

    def key(field: EmbeddedField) -> tuple[Any, ...]:
        return field.template, field.embedding_model, field.filter, field.vectorizer

    return [
        other
        for other, field in fields.items()
        if isinstance(field, EmbeddedField) and key(field) == key(one)
    ]
