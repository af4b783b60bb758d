"""The operations: what each says, and how it is taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.operations.ops import MigrateOperation, OpContainer
from psycopg import sql

from pg_embed.chunks import Chunking
from pg_embed.errors import InvalidArgument

Input = str | Sequence[str]
OPTIONS = (
    "template",
    "model",
    "filter",
    "column_name",
    "column_type",
    "sparse_column",
    "multi_column",
    "sparse",
    "index",
    "name",
    "max_attempts",
    "backfill",
    "if_not_exists",
    "storage",
    "chunking",
    "chunk_table",
    "chunk_view",
    "prepare",
    "replication",
    "paused",
    "declared",
)  # of embed.create_vectorizer, and of what is called behind it
ALTERABLE = (
    "input",
    "template",
    "filter",
    "max_attempts",
    "chunking",
    "storage",
    "chunk_table",
    "chunk_view",
    "keep_column",
    "keep_chunks",
    "prepare",
    "index",
    "declared",
)
KEPT = (
    "keep_column",
    "keep_chunks",
)  # what a move of the vectors leaves behind; it has no way back of its own
OF_CHUNKS = ("chunking", "chunk_table", "chunk_view")  # told where vectors move to chunks
SWITCH = ("auto", "keep", "index", "column_type", "dependants", "chunking")  # of embed.switch_model


def quoted(table: str, schema: str | None) -> str:
    """A table as SQL names it."""
    return sql.Identifier(*([] if schema is None else [str(schema)]), str(table)).as_string(None)


@Operations.register_operation("create_vectorizer")
class CreateVectorizerOp(MigrateOperation):
    """A vectorizer for a table that is there."""

    def __init__(
        self, table_name: str, input: Input | None = None, *, schema: str | None = None, **options: Any
    ) -> None:
        if unknown := sorted(set(options) - set(OPTIONS)):
            hint = f"there are: {', '.join(OPTIONS)}"
            raise InvalidArgument(f"create_vectorizer has no option {unknown[0]!r}", hint=hint)
        self.table_name = table_name
        self.input = input
        self.schema = schema
        self.options = options

    @classmethod
    def create_vectorizer(
        cls,
        operations: Operations,
        table_name: str,
        input: Input | None = None,
        *,
        schema: str | None = None,
        **options: Any,
    ) -> Any:
        """Embed a table's text: `op.create_vectorizer("docs", "body", model="bge-m3")`.

        `input` is a column or several, or else the option `template` names them; the options are those of
        embed.create_vectorizer, which adds the columns of vectors that the table lacks. Besides, `index` may
        be the arguments of embed.create_index, `replication` is that of embed.set_replication, `paused` has
        nothing embedded until embed.resume, and `declared` says of chunks that a model has them by
        `chunked()`, so that autogenerate drops them when it has them no more.
        """
        return operations.invoke(cls(table_name, input, schema=schema, **options))

    def reverse(self) -> DropVectorizerOp:
        """Drop it; the vectors stay, but those of chunks, which would keep the table."""
        name = self.options.get("name") or quoted(self.table_name, self.schema)
        return DropVectorizerOp(name, drop_column=self.options.get("storage") == "table", created=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "create_vectorizer", self.schema, self.table_name, self.options.get("name")


@Operations.register_operation("drop_vectorizer")
class DropVectorizerOp(MigrateOperation):
    """No vectorizer any more."""

    def __init__(
        self,
        name: str,
        *,
        drop_column: bool = False,
        drop_kept: bool = False,
        if_exists: bool = False,
        created: CreateVectorizerOp | None = None,
    ) -> None:
        self.name = name
        self.drop_column = drop_column
        self.drop_kept = drop_kept
        self.if_exists = if_exists
        self.created = created

    @classmethod
    def drop_vectorizer(
        cls,
        operations: Operations,
        name: str,
        *,
        drop_column: bool = False,
        drop_kept: bool = False,
        if_exists: bool = False,
    ) -> Any:
        """Stop embedding: triggers and queue go, the vectors stay unless `drop_column` is true.

        With `drop_kept` only those go that a switch has kept from before. A move of vectors from chunks to
        columns that is under way ends as it stands: the columns stay. `name` may be a table's, as SQL writes
        it, if that has no other vectorizer.
        """
        return operations.invoke(cls(name, drop_column=drop_column, drop_kept=drop_kept, if_exists=if_exists))

    def reverse(self) -> CreateVectorizerOp:
        """What was dropped, if that is known."""
        if self.created is None:
            raise ValueError("operation is not reversible; the vectorizer is not present")
        return self.created

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "drop_vectorizer", self.name


@Operations.register_operation("detach_vectorizer")
class DetachVectorizerOp(MigrateOperation):
    """A table without a vectorizer's triggers, for a while."""

    def __init__(self, name: str, *, postings: bool = False, backfill: bool = False) -> None:
        self.name = name
        self.postings = postings
        self.backfill = backfill  # told to the reverse

    @classmethod
    def detach_vectorizer(cls, operations: Operations, name: str, *, postings: bool = False) -> Any:
        """Take a vectorizer's triggers off, so that columns that they name can have another type.

        Its vectors, and all that waits, stay; with `postings` those of its sparse vectors go, whose triggers
        name the key. `attach_vectorizer` comes next in the same transaction: rows that change before it are
        missed.
        """
        return operations.invoke(cls(name, postings=postings))

    def reverse(self) -> AttachVectorizerOp:
        """Put them back."""
        return AttachVectorizerOp(self.name, postings=self.postings, backfill=self.backfill)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "detach_vectorizer", self.name


@Operations.register_operation("attach_vectorizer")
class AttachVectorizerOp(MigrateOperation):
    """A table with a vectorizer's triggers again."""

    def __init__(self, name: str, *, postings: bool = False, backfill: bool = False) -> None:
        self.name = name
        self.postings = postings
        self.backfill = backfill

    @classmethod
    def attach_vectorizer(
        cls, operations: Operations, name: str, *, postings: bool = False, backfill: bool = False
    ) -> Any:
        """Put the triggers back, and with `postings` make these again.

        With `backfill` all rows are embedded again, for their texts may have become others.
        """
        return operations.invoke(cls(name, postings=postings, backfill=backfill))

    def reverse(self) -> DetachVectorizerOp:
        """Take them off."""
        return DetachVectorizerOp(self.name, postings=self.postings, backfill=self.backfill)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "attach_vectorizer", self.name


@Operations.register_operation("alter_vectorizer")
class AlterVectorizerOp(MigrateOperation):
    """Another text, filter, chunking, number of attempts, index or name."""

    def __init__(self, name: str, *, rename_to: str | None = None, **changes: Any) -> None:
        known = (*ALTERABLE, *(f"existing_{change}" for change in ALTERABLE))
        if unknown := sorted(set(changes) - set(known)):
            hint = f"there are: {', '.join(known)}"
            raise InvalidArgument(f"alter_vectorizer has no option {unknown[0]!r}", hint=hint)
        self.name = name
        self.rename_to = rename_to
        self.changes = {key: value for key, value in changes.items() if key in ALTERABLE}
        self.existing = {
            key.removeprefix("existing_"): value for key, value in changes.items() if key not in ALTERABLE
        }
        self.undo: StepsOp | None = None  # the way back where it is another kind of operation

    @classmethod
    def alter_vectorizer(
        cls, operations: Operations, name: str, *, rename_to: str | None = None, **changes: Any
    ) -> Any:
        """Change the text, its `chunking`, `max_attempts`, `index` or `storage`, or the name.

        The text is that of `input` or `template`, and `filter` ("" takes it away). Rows whose text becomes
        another are embedded again behind live rows. What was before may be told (`existing_template`, ...),
        so that the operation can be reversed. `storage="table"` moves a column's vectors to chunks at once;
        `storage="column"` only begins to move them back, and a worker ends it (see embed.switches), but that
        of an empty table is over at once. `declared` says that a model has the chunks by `chunked()`, or the
        columns by `embedded()`.
        """
        return operations.invoke(cls(name, rename_to=rename_to, **changes))

    def reverse(self) -> AlterVectorizerOp | StepsOp:
        """What was before, if that is known."""
        if self.undo is not None:
            return self.undo
        moves = "storage" in self.changes
        alone = (*KEPT, *OF_CHUNKS, "declared") if moves else KEPT
        changes = {key: value for key, value in self.changes.items() if key not in KEPT}
        if missing := sorted(set(changes) - set(alone) - set(self.existing)):
            raise ValueError(f"operation is not reversible; existing_{missing[0]} is not present")
        # whoever declares the vectors does so in either place
        told = {
            f"existing_{key}": value for key, value in changes.items() if not (moves and key == "declared")
        }
        # chunks come back with their settings and names
        before = {key: value for key, value in self.existing.items() if key in changes or moves}
        if moves and before.get("declared", changes.get("declared")):
            before["declared"] = True
        elif moves:
            before.pop("declared", None)
        renamed = {} if self.rename_to is None else {"rename_to": self.name}
        return AlterVectorizerOp(self.rename_to or self.name, **renamed, **before, **told)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "alter_vectorizer", self.name, self.rename_to, self.changes, self.existing


@Operations.register_operation("switch_model")
class SwitchModelOp(MigrateOperation):
    """Another model, whose vectors are made beside those that searches see until they are ready."""

    def __init__(
        self,
        name: str,
        model: str,
        *,
        wait: float | None = None,
        existing_model: str | None = None,
        existing_column_type: str | None = None,
        existing_chunking: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - set(SWITCH)):
            hint = f"there are: {', '.join(SWITCH)}"
            raise InvalidArgument(f"switch_model has no option {unknown[0]!r}", hint=hint)
        self.name = name
        self.model = model
        self.wait = wait
        self.existing_model = existing_model
        self.existing_column_type = existing_column_type
        self.existing_chunking = existing_chunking
        self.options = options

    @classmethod
    def switch_model(
        cls,
        operations: Operations,
        name: str,
        model: str,
        *,
        wait: float | None = None,
        existing_model: str | None = None,
        existing_column_type: str | None = None,
        existing_chunking: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Change a vectorizer's model: `op.switch_model("docs_embedding", "bge-m3", auto=True)`.

        The switch is only begun, and with `auto` a worker ends it; that of an empty table is over at once,
        and keeps nothing. With `wait`, in seconds, the migration commits what it did up to here, waits until
        all rows have the new model's vectors, ends the switch and goes on; if the time is over, the same
        migration, run again, waits for the same switch. The options are those of embed.switch_model;
        `chunking` says how the new model's chunks are cut, in those settings that it names. What was begun
        towards another model is given up for the model that is there, and vectors of `model` that an earlier
        switch has kept are taken back, unless they are of other chunks. The model before, `existing_model`,
        may be told (with `existing_column_type`, and with `existing_chunking`, which names all settings that
        are not the usual ones), so that the operation can be reversed.
        """
        told: dict[str, Any] = {
            "existing_model": existing_model,
            "existing_column_type": existing_column_type,
            "existing_chunking": existing_chunking,
        }
        return operations.invoke(cls(name, model, wait=wait, **told, **options))

    def reverse(self) -> SwitchModelOp:
        """To the model from before, and to its chunks, if these are known."""
        chunking = self.options.get("chunking")
        if self.existing_model is None:
            raise ValueError("operation is not reversible; existing_model is not present")
        if chunking is not None and self.existing_chunking is None:
            raise ValueError("operation is not reversible; existing_chunking is not present")
        before: dict[str, Any] = {}
        told: dict[str, Any] = {"existing_model": self.model}
        if self.existing_column_type is not None:
            before["column_type"] = self.existing_column_type
            told["existing_column_type"] = self.options.get("column_type")
        if chunking is not None:
            # a switch leaves settings that it does not name
            usual = {name: value for name, value in Chunking().as_json().items() if name in chunking}
            before["chunking"] = {**usual, **(self.existing_chunking or {})}
            told["existing_chunking"] = chunking
        return SwitchModelOp(
            self.name, self.existing_model, wait=self.wait, **told, **{**self.options, **before}
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "switch_model", self.name, self.existing_model, self.model


@Operations.register_operation("create_model")
class CreateModelOp(MigrateOperation):
    """A model in the catalog."""

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

    @classmethod
    def create_model(
        cls,
        operations: Operations,
        name: str,
        family: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        is_default: bool = False,
        if_not_exists: bool = False,
    ) -> Any:
        """Name a configuration of a model; without a family it is one that pg_embed knows by its name.

        Where neither `card` nor pg_embed itself tells what the model makes, the sidecar does, which must be
        running then.
        """
        told = {"options": options, "card": card, "is_default": is_default, "if_not_exists": if_not_exists}
        return operations.invoke(cls(name, family, **told))  # type: ignore[arg-type]

    def reverse(self) -> DropModelOp:
        """Drop it; one that may have been there before only if nothing uses it."""
        return DropModelOp(self.name, if_unused=self.if_not_exists, created=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "create_model", self.name


@Operations.register_operation("drop_model")
class DropModelOp(MigrateOperation):
    """A model less."""

    def __init__(
        self,
        name: str,
        *,
        if_exists: bool = False,
        if_unused: bool = False,
        created: CreateModelOp | None = None,
    ) -> None:
        self.name = name
        self.if_exists = if_exists
        self.if_unused = if_unused
        self.created = created

    @classmethod
    def drop_model(
        cls, operations: Operations, name: str, *, if_exists: bool = False, if_unused: bool = False
    ) -> Any:
        """Remove a model that no vectorizer uses; with `if_unused` one that is used stays."""
        return operations.invoke(cls(name, if_exists=if_exists, if_unused=if_unused))

    def reverse(self) -> CreateModelOp:
        """What was dropped, if that is known."""
        if self.created is None:
            raise ValueError("operation is not reversible; the model is not present")
        return self.created

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return "drop_model", self.name


@Operations.register_operation("embed_upgrade")
class EmbedUpgradeOp(MigrateOperation):
    """pg_embed's own schema, of the version of this package."""

    @classmethod
    def embed_upgrade(cls, operations: Operations) -> Any:
        """Install pg_embed, or bring it up to date, in the migration's transaction.

        The transport stays as it is. A new installation has none, so that the workers embed rows and embed()
        answers nothing until `pg-embed upgrade DSN` was told where the sidecar is.
        """
        return operations.invoke(cls())

    def reverse(self) -> EmbedDowngradeOp:
        """Take it away."""
        return EmbedDowngradeOp()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return ("embed_upgrade",)


@Operations.register_operation("embed_downgrade")
class EmbedDowngradeOp(MigrateOperation):
    """No pg_embed any more."""

    @classmethod
    def embed_downgrade(cls, operations: Operations) -> Any:
        """Remove pg_embed: vectorizers, models, functions and schema embed. Columns of vectors stay."""
        return operations.invoke(cls())

    def reverse(self) -> EmbedUpgradeOp:
        """Install it again."""
        return EmbedUpgradeOp()

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return ("embed_downgrade",)


class StepsOp(OpContainer):
    """Several operations that take back a single one."""

    def __init__(self, steps: Sequence[MigrateOperation], taken_back: MigrateOperation) -> None:
        super().__init__(steps)
        self.taken_back = taken_back

    def reverse(self) -> MigrateOperation:
        """That one."""
        return self.taken_back


class VectorTypesOp(OpContainer):
    """Nothing to do: its renderer adds the imports that other operations of the revision need."""

    def __init__(self, imports: Collection[str]) -> None:
        super().__init__([])
        self.imports = imports

    def reverse(self) -> VectorTypesOp:
        """The same, for the way back."""
        return self
