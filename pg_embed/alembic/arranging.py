"""Our operations among Alembic's: what is ours taken out, the rest in an order that works both ways."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from alembic.operations import ops
from sqlalchemy import CHAR, Column, String

from pg_embed.alembic.catalog import Catalog, Name
from pg_embed.alembic.filters import SCHEMA
from pg_embed.sqlalchemy.declarations import INFO

MARK = "pg_embed:"  # how comments begin that pg_embed writes


def without_ours(container: ops.OpContainer, catalog: Catalog, left: frozenset[str]) -> None:
    """Take out what Alembic finds of ours: schema, chunks, indexes, and columns that are `left` alone."""
    container.ops = list(_kept(container.ops, catalog, left))


def _kept(
    found: Iterable[ops.MigrateOperation], catalog: Catalog, left: frozenset[str]
) -> Iterator[ops.MigrateOperation]:
    for op in found:
        if isinstance(op, ops.CreateTableOp):
            # would be written as code; vectorizers are operations of their own
            op.info = {key: value for key, value in op.info.items() if key != INFO}
        if isinstance(op, ops.ModifyTableOps):
            without_ours(op, catalog, left)
            if op.is_empty():
                continue
        elif _is_ours(op, catalog, left):
            continue
        yield op


def _is_ours(op: Any, catalog: Catalog, left: frozenset[str]) -> bool:
    table: Name = (getattr(op, "schema", None), getattr(op, "table_name", ""))
    if table[0] == SCHEMA or table in catalog.chunks:
        return True
    if isinstance(op, ops.DropIndexOp):
        return (op.schema, op.index_name) in catalog.indexes
    if isinstance(op, ops.DropColumnOp):
        return any(
            op.column_name in present.added | present.parked
            or (present.name in left and present.chunking is None and op.column_name in present.columns)
            for present in catalog.of(table)
        )
    if isinstance(op, ops.AlterColumnOp) and str(op.existing_comment or "").startswith(MARK):
        if op.modify_comment is None:
            op.modify_comment = False
        return not op.has_changes()
    return False


def dropped_tables(container: ops.OpContainer) -> list[Name]:
    """The tables that Alembic found in no model."""
    return [(op.schema, op.table_name) for op in container.ops if isinstance(op, ops.DropTableOp)]


def replace_columns(
    container: ops.OpContainer, table: Name, pairs: Iterable[tuple[ops.DropColumnOp, ops.AddColumnOp]]
) -> None:
    """Columns made anew instead of being altered: no vector of one model may stay for the next."""
    steps = [step for pair in pairs for step in pair]
    names = {step.column_name for step in steps if isinstance(step, ops.DropColumnOp)}
    changes = _changes_of(container, table)
    if changes is None:
        changes = ops.ModifyTableOps(table[1], [], schema=table[0])
        container.ops.append(changes)
    changes.ops = [
        *(op for op in changes.ops if not (isinstance(op, ops.AlterColumnOp) and op.column_name in names)),
        *steps,
    ]


def take_columns(container: ops.OpContainer, table: Name, names: Collection[str]) -> list[ops.DropColumnOp]:
    """Take out columns that go with something else."""
    changes = _changes_of(container, table)
    if changes is None:
        return []
    taken = [op for op in changes.ops if isinstance(op, ops.DropColumnOp) and op.column_name in names]
    changes.ops = [op for op in changes.ops if op not in taken]
    if changes.is_empty():
        container.ops.remove(changes)
    return taken


def added_columns(container: ops.OpContainer, table: Name) -> list[Column[Any]]:
    """The columns that are to be added to a table."""
    changes = _changes_of(container, table)
    return [] if changes is None else [op.column for op in changes.ops if isinstance(op, ops.AddColumnOp)]


def take_added(container: ops.OpContainer, table: Name, names: Collection[str]) -> None:
    """Take out columns that come with something else."""
    changes = _changes_of(container, table)
    if changes is None:
        return
    changes.ops = [
        op for op in changes.ops if not (isinstance(op, ops.AddColumnOp) and op.column.name in names)
    ]
    if changes.is_empty():
        container.ops.remove(changes)


def keep_types(container: ops.OpContainer, table: Name, columns: Collection[str]) -> None:
    """Leave the types of columns to a switch, which swaps columns."""
    changes = _changes_of(container, table)
    if changes is None:
        return
    for op in changes.ops:
        if isinstance(op, ops.AlterColumnOp) and op.column_name in columns:
            op.modify_type = None
    changes.ops = [op for op in changes.ops if not isinstance(op, ops.AlterColumnOp) or op.has_changes()]
    if changes.is_empty():
        container.ops.remove(changes)


def retyped_columns(container: ops.OpContainer, table: Name) -> dict[str, bool]:
    """The columns that get another type, with whether their values are the same texts by both."""
    changes = _changes_of(container, table)
    return {
        op.column_name: _is_text(op.existing_type) and _is_text(op.modify_type)
        for op in ([] if changes is None else changes.ops)
        if isinstance(op, ops.AlterColumnOp) and op.modify_type is not None
    }


def _is_text(type_: Any) -> bool:
    return isinstance(type_, String) and not isinstance(type_, CHAR)  # which pads its values


def drop_last(container: ops.OpContainer, table: Name) -> list[ops.MigrateOperation]:
    """Take out the columns that go: a vectorizer that reads one must change first."""
    changes = _changes_of(container, table)
    if changes is None:
        return []
    later = [op for op in changes.ops if isinstance(op, ops.DropColumnOp)]
    changes.ops = [op for op in changes.ops if not isinstance(op, ops.DropColumnOp)]
    if changes.is_empty():
        container.ops.remove(changes)
    return [ops.ModifyTableOps(table[1], later, schema=table[0])] if later else []


def _changes_of(container: ops.OpContainer, table: Name) -> ops.ModifyTableOps | None:
    for op in container.ops:
        if isinstance(op, ops.ModifyTableOps) and (op.schema, op.table_name) == table:
            return op
    return None
