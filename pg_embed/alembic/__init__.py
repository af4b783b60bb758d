"""Operations and autogeneration for Alembic, both there once env.py says `import pg_embed.alembic`."""

from __future__ import annotations

from pg_embed.alembic import comparing, implementing, rendering  # noqa: F401  # known to Alembic once imported
from pg_embed.alembic.filters import include_name
from pg_embed.alembic.operations import (
    AlterVectorizerOp,
    AttachVectorizerOp,
    CreateModelOp,
    CreateVectorizerOp,
    DetachVectorizerOp,
    DropModelOp,
    DropVectorizerOp,
    EmbedDowngradeOp,
    EmbedUpgradeOp,
    SwitchModelOp,
)
from pg_embed.alembic.vector_types import render_item

__all__ = [
    "AlterVectorizerOp",
    "AttachVectorizerOp",
    "CreateModelOp",
    "CreateVectorizerOp",
    "DetachVectorizerOp",
    "DropModelOp",
    "DropVectorizerOp",
    "EmbedDowngradeOp",
    "EmbedUpgradeOp",
    "SwitchModelOp",
    "include_name",
    "render_item",
]
