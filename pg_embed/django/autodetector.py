"""`makemigrations` that sees the fields of vectors, and writes what becomes of their vectorizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from django.db import connections
from django.db.backends.utils import truncate_name
from django.db.migrations import AddField, RemoveField, RenameField, RenameModel
from django.db.migrations import AlterField as AlterColumn
from django.db.migrations import CreateModel as CreateTable
from django.db.migrations.autodetector import OperationDependency

from pg_embed.django.chunks import ChunkedField
from pg_embed.django.declarations import Declared, declared
from pg_embed.django.fields import EmbeddedField
from pg_embed.django.naming import chunk_names
from pg_embed.django.operations import (
    APP,
    AlterVectorizer,
    CreateModel,
    CreateVectorizer,
    DropVectorizer,
    careful,
)
from pg_embed.django.types import type_changes
from pg_embed.models.presets import presets

INSTALLED = OperationDependency(APP, "installation", None, OperationDependency.Type.CREATE)
Key = tuple[str, str]  # the label of an app and the name of a model
NAME_MOST = 63  # bytes of a name in PostgreSQL
UNALTERABLE = ("dense", "sparse", "multi", "model", "sparse_model", "chunks")


@dataclass(frozen=True)
class Pair:
    """A vectorizer before and after; one of them None where it comes or goes."""

    key: Key
    before: Declared | None = None
    after: Declared | None = None


@cache
def with_vectorizers(base: Any) -> Any:
    """An autodetector that does what another does, and this; Django wants the same for all its commands."""
    if issubclass(base, VectorizersMixin):
        return base
    return type("VectorizerAutodetector", (VectorizersMixin, base), {})


class VectorizersMixin:
    """Compares vectorizers by what the fields of two states declare."""

    from_state: Any
    to_state: Any
    old_model_keys: set[Key]
    new_model_keys: set[Key]
    old_field_keys: set[tuple[str, str, str]]
    new_field_keys: set[tuple[str, str, str]]
    renamed_models: dict[Key, str]
    renamed_fields: dict[tuple[str, str, str], str]
    generated_operations: dict[str, list[Any]]

    def add_operation(
        self, app_label: str, operation: Any, dependencies: Any = None, beginning: bool = False
    ) -> None:
        """pg_embed is there before a column of vectors, and makes way for another type of what it reads."""
        given = list(dependencies or [])
        if type(operation) is AlterColumn and self._is_read(app_label, operation):
            operation = careful(operation)
        fields: list[Any] = []
        if isinstance(operation, CreateTable):
            fields = [field for _, field in operation.fields]
        elif isinstance(operation, AddField):
            fields = [operation.field]
        if any(isinstance(field, EmbeddedField) for field in fields):
            given.append(INSTALLED)
        super().add_operation(app_label, operation, given, beginning)  # type: ignore[misc]

    def _is_read(self, app_label: str, operation: Any) -> bool:
        """Whether the type of a column changes that a vectorizer reads."""
        key = (app_label, operation.model_name)
        fields = self._fields_before(key)
        name = self._name_before(key, operation.name)
        is_key = bool(fields[name].primary_key)
        is_read = any(is_key or wanted.reads(name, fields[name]) for wanted in declared(fields.items()))
        return is_read and _type_changes(fields[name], operation.field)

    def _sort_migrations(self) -> None:
        """What is dropped goes first, what is made last, and then a column goes that a text had in it."""
        super()._sort_migrations()  # type: ignore[misc]
        for app_label, found in self.generated_operations.items():
            dropped = [operation for operation in found if isinstance(operation, DropVectorizer)]
            others = [operation for operation in found if operation not in dropped]
            placed = sorted(others, key=partial(self._place, app_label))
            for operation in reversed(dropped):
                placed.insert(_after_renames(placed, operation.model_name), operation)
            self.generated_operations[app_label] = placed

    def _place(self, app_label: str, operation: Any) -> int:
        if isinstance(operation, (CreateModel, CreateVectorizer, AlterVectorizer)):
            return 1
        is_late = isinstance(operation, RemoveField) and (
            (app_label, operation.model_name.lower(), operation.name) in self._late
        )
        return 2 if is_late else 0

    def generate_deleted_models(self) -> None:
        """Vectorizers go before their tables."""
        for key in sorted(self.old_model_keys - self.new_model_keys):
            for before in declared(self.from_state.models[key].fields.items()):
                self._drop(key, before)
        super().generate_deleted_models()  # type: ignore[misc]

    def generate_removed_fields(self) -> None:
        """Vectorizers go before their columns."""
        self._pairs = list(self._compared())
        self._replaced = set(self._of_other_models())
        self._late = {
            (*pair.key, name)
            for pair in self._pairs
            if pair.before is not None and pair.after is not None
            for name, field in self._fields_before(pair.key).items()
            if pair.before.reads(name, field)
        }
        for pair in self._pairs:
            if pair.before is not None and pair.after is None:
                self._drop(pair.key, pair.before)
        self.old_field_keys -= self._replaced
        self.new_field_keys -= self._replaced
        super().generate_removed_fields()  # type: ignore[misc]
        for field in sorted(self._replaced):
            self._generate_removed_field(*field)  # type: ignore[attr-defined]

    def generate_added_fields(self) -> None:
        """Columns for another model are made anew: no vector of one model may stay for the next."""
        super().generate_added_fields()  # type: ignore[misc]
        for field in sorted(self._replaced):
            self._generate_added_field(*field)  # type: ignore[attr-defined]

    def generate_altered_fields(self) -> None:
        """Vectorizers come after the fields that they read and fill."""
        super().generate_altered_fields()  # type: ignore[misc]
        for key in sorted(self.new_model_keys - self.old_model_keys):
            for after in declared(self.to_state.models[key].fields.items()):
                self._create(key, after)
        for pair in self._pairs:
            if pair.after is None:
                continue
            if pair.before is None:
                self._create(pair.key, pair.after)
            else:
                self._alter(pair.key, pair.before, pair.after)

    def _compared(self) -> Iterator[Pair]:
        """The vectorizers of the models that stay."""
        for key in sorted(self.old_model_keys & self.new_model_keys):
            now = partial(self._name_now, key)
            old = self._fields_before(key)
            new = self.to_state.models[key].fields
            columns = {
                _column(name, field): _column(now(name), new[now(name)])
                for name, field in old.items()
                if now(name) in new
            }
            before = [wanted.called(now, columns) for wanted in declared(old.items())]
            after = declared(new.items())
            for left in before:
                same = next((right for right in after if self._is_same(key, old, left, right)), None)
                yield Pair(key, left, same)
                if same is not None:
                    after.remove(same)
            for right in after:
                yield Pair(key, None, right)

    def _is_same(self, key: Key, old: Any, left: Declared, right: Declared) -> bool:
        """Whether one can become the other as it is: with its columns, by its model."""
        if any(getattr(left, name) != getattr(right, name) for name in UNALTERABLE):
            return False
        new = self.to_state.models[key].fields
        if right.chunks is not None:
            before = old[self._name_before(key, right.chunks)]
            after = new[right.chunks]
            sizes = (before.dimensions, before.column_type) == (after.dimensions, after.column_type)
            return bool(sizes) and not self._key_changes(key)
        return all(
            old[self._name_before(key, name)].db_type(None) == new[name].db_type(None)
            for name in right.fields
        )

    def _key_changes(self, key: Key) -> bool:
        """Whether a key gets another type, which chunks have in columns of their own."""
        now, new = partial(self._name_now, key), self.to_state.models[key].fields
        return any(
            _type_changes(field, new[now(name)])
            for name, field in self._fields_before(key).items()
            if field.primary_key and now(name) in new
        )

    def _of_other_models(self) -> Iterator[tuple[str, str, str]]:
        """Fields that stay, but for vectors of another model or size."""
        for app_label, model_name, name in self.old_field_keys & self.new_field_keys:
            key = (app_label, model_name)
            old = self._fields_before(key)[self._name_before(key, name)]
            new = self.to_state.models[key].fields[name]
            if isinstance(old, ChunkedField) != isinstance(new, ChunkedField):
                yield app_label, model_name, name  # a column comes or goes
            if not isinstance(new, EmbeddedField) or isinstance(old, ChunkedField):
                continue
            same = isinstance(old, EmbeddedField) and old.embedding_model == new.embedding_model
            if not same or old.db_type(None) != new.db_type(None):
                yield app_label, model_name, name

    def _fields_before(self, key: Key) -> Any:
        return self.from_state.models[key[0], self.renamed_models.get(key, key[1])].fields

    def _name_before(self, key: Key, name: str) -> str:
        return self.renamed_fields.get((*key, name), name)

    def _name_now(self, key: Key, name: str) -> str:
        found = (new for (*model, new), old in self.renamed_fields.items() if (*model, old) == (*key, name))
        return next(found, name)

    def _drop(self, key: Key, before: Declared) -> None:
        dropped = DropVectorizer(key[1], **_told(before))
        self.add_operation(key[0], dropped, [INSTALLED])

    def _create(self, key: Key, after: Declared) -> None:
        app_label, model_name = key
        for model in filter(None, (after.model, after.sparse_model)):
            if model in presets() and model not in self._entered(app_label):
                self.add_operation(app_label, CreateModel(model, if_not_exists=True), [INSTALLED])
        self.add_operation(app_label, CreateVectorizer(model_name, **_told(after)), [INSTALLED])

    def _entered(self, app_label: str) -> set[str | None]:
        """The models that earlier migrations entered, or that this one does."""
        made: Any = self.generated_operations.get(app_label, [])
        old = (
            model
            for (label, _), state in self.from_state.models.items()
            for wanted in declared(state.fields.items())
            for model in (wanted.model, wanted.sparse_model)
            if label == app_label
        )
        return {*old, *(operation.name for operation in made if isinstance(operation, CreateModel))}

    def _alter(self, key: Key, before: Declared, after: Declared) -> None:
        changes = {} if after.chunks is None else self._chunks_renamed(key, before, after)
        for name in ("template", "filter", "index", "name"):
            old, new = getattr(before, name), getattr(after, name)
            if old != new and not (name == "name" and new is None):
                changes[name] = new or ""
                changes[f"existing_{name}"] = old or ("" if name == "filter" else None)
        if before.chunking != after.chunking:
            changes |= {"chunking": after.chunking or {}, "existing_chunking": before.chunking or {}}
        if changes:
            self.add_operation(key[0], AlterVectorizer(key[1], after.fields[0], **changes), [INSTALLED])

    def _chunks_renamed(self, key: Key, before: Declared, after: Declared) -> dict[str, Any]:
        """The names of chunks that change, as those of the table do."""
        key_before = key[0], self.renamed_models.get(key, key[1])
        old = self._chunk_names(self.from_state, key_before, before)
        new = self._chunk_names(self.to_state, key, after)
        told = zip(("chunk_table", "chunk_view"), old, new, strict=True)
        changed = [(name, left, right) for name, left, right in told if left != right]
        return {
            **{name: right for name, _, right in changed},
            **{f"existing_{name}": left for name, left, _ in changed},
        }

    def _chunk_names(self, state: Any, key: Key, wanted: Declared) -> tuple[str, str]:
        options = state.models[key].options
        table = options.get("db_table") or truncate_name("_".join(key), NAME_MOST)
        return chunk_names(table, wanted.chunk_table, wanted.chunk_view)


def _type_changes(old: Any, new: Any) -> bool:
    """Whether a column gets another type in PostgreSQL, so far as fields that are bound to no model tell."""
    postgres = next((own for own in connections.all() if own.vendor == "postgresql"), None)
    if postgres is None or old.is_relation or new.is_relation:
        return False
    return type_changes(old, new, postgres)


def _column(name: str, field: Any) -> str:
    """The column of a field that is bound to no model."""
    return str(field.db_column or (f"{name}_id" if field.is_relation else name))


def _after_renames(operations: list[Any], model_name: str) -> int:
    """The place from which on a model and its fields have the names of the new state."""
    renames = (
        place
        for place, operation in enumerate(operations, 1)
        if (isinstance(operation, RenameModel) and operation.new_name.lower() == model_name)
        or (isinstance(operation, RenameField) and operation.model_name.lower() == model_name)
    )
    return max(renames, default=0)


def _told(wanted: Declared) -> dict[str, Any]:
    """A vectorizer as an operation says it."""
    told = {**wanted.__dict__, "index": None if wanted.index == "none" else wanted.index}
    if told.pop("chunks") is not None:
        told |= {"storage": "table", "drop_column": True}
    return {key: value for key, value in told.items() if value is not None}
