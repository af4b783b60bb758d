"""Types of vectors in migrations, with the imports that they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from pgvector.sqlalchemy import BIT, HALFVEC, SPARSEVEC, VECTOR
from sqlalchemy import ARRAY, Column

from pg_embed.alembic.operations import AlterVectorizerOp
from pg_embed.sqlalchemy.tokens import TokenVectors

IMPORT = "import pgvector.sqlalchemy"
OWN_IMPORT = "import pg_embed.sqlalchemy.tokens"
TYPES = (BIT, HALFVEC, SPARSEVEC, VECTOR)


def render_item(type_: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write types as `pgvector.sqlalchemy.HALFVEC(dim=384)`: for an env.py with a user_module_prefix."""
    if type_ != "type" or not isinstance(item, (*TYPES, TokenVectors)):
        return False
    (line,) = _imports(item)
    autogen_context.imports.add(line)
    return f"{line.removeprefix('import ')}.{item!r}"


def imports(operations: Iterable[ops.MigrateOperation]) -> set[str]:
    """What operations of Alembic, or their reverses, need for the types of vectors that they name."""
    return {line for op in operations for type_ in _types(op) for line in _imports(type_)}


def _imports(type_: Any) -> set[str]:
    if isinstance(type_, TokenVectors):
        return {OWN_IMPORT}
    return {IMPORT} if isinstance(type_.item_type if isinstance(type_, ARRAY) else type_, TYPES) else set()


def _types(op: ops.MigrateOperation) -> Iterator[Any]:
    if isinstance(op, AlterVectorizerOp) and op.undo is not None:
        yield from _types(op.undo)
    elif isinstance(op, ops.OpContainer):
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
