"""pgvector's types in migrations, with the import that they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from pgvector.sqlalchemy import BIT, HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import ARRAY, Column

IMPORT = "import pgvector.sqlalchemy"
TYPES = (BIT, HALFVEC, SPARSEVEC, VECTOR)


def render_item(type_: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write types as `pgvector.sqlalchemy.HALFVEC(dim=384)`: for an env.py with a user_module_prefix."""
    if type_ != "type" or not isinstance(item, TYPES):
        return False
    autogen_context.imports.add(IMPORT)
    return f"pgvector.sqlalchemy.{item!r}"


def uses_vectors(op: ops.MigrateOperation) -> bool:
    """Whether an operation of Alembic, or its reverse, names one of pgvector's types."""
    return any(_is_vector(type_) for type_ in _types(op))


def _is_vector(type_: Any) -> bool:
    return isinstance(type_.item_type if isinstance(type_, ARRAY) else type_, TYPES)


def _types(op: ops.MigrateOperation) -> Iterator[Any]:
    if isinstance(op, ops.OpContainer):
        for part in op.ops:
            yield from _types(part)
    elif isinstance(op, ops.CreateTableOp):
        yield from (item.type for item in op.columns if isinstance(item, Column))
    elif isinstance(op, ops.DropTableOp):
        yield from (column.type for column in op.to_table().columns)
    elif isinstance(op, ops.AddColumnOp):
        yield op.column.type
    elif isinstance(op, ops.DropColumnOp):
        yield op.to_column().type
    elif isinstance(op, ops.AlterColumnOp):
        yield from (op.modify_type, op.existing_type)
