"""The operations as the code of a migration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op

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
    StepsOp,
    SwitchModelOp,
    VectorTypesOp,
)

LINE = 100  # characters


@renderers.dispatch_for(CreateVectorizerOp)
def _create_vectorizer(context: AutogenContext, op: CreateVectorizerOp) -> str:
    positional = [op.table_name] if op.input is None else [op.table_name, op.input]
    return _call(context, "create_vectorizer", *positional, **op.options, **_told({"schema": op.schema}))


@renderers.dispatch_for(DropVectorizerOp)
def _drop_vectorizer(context: AutogenContext, op: DropVectorizerOp) -> str:
    # said even where it is the default, for it decides about vectors
    told = {"drop_kept": op.drop_kept or None, "if_exists": op.if_exists or None}
    return _call(context, "drop_vectorizer", op.name, drop_column=op.drop_column, **_told(told))


@renderers.dispatch_for(DetachVectorizerOp)
def _detach_vectorizer(context: AutogenContext, op: DetachVectorizerOp) -> str:
    return _call(context, "detach_vectorizer", op.name, **_told({"postings": op.postings or None}))


@renderers.dispatch_for(AttachVectorizerOp)
def _attach_vectorizer(context: AutogenContext, op: AttachVectorizerOp) -> str:
    told = {"postings": op.postings or None, "backfill": op.backfill or None}
    return _call(context, "attach_vectorizer", op.name, **_told(told))


@renderers.dispatch_for(AlterVectorizerOp)
def _alter_vectorizer(context: AutogenContext, op: AlterVectorizerOp) -> str:
    existing = {f"existing_{key}": value for key, value in op.existing.items() if key in op.changes}
    told = {**_told({"rename_to": op.rename_to}), **op.changes, **existing}
    return _call(context, "alter_vectorizer", op.name, **told)


@renderers.dispatch_for(SwitchModelOp)
def _switch_model(context: AutogenContext, op: SwitchModelOp) -> str:
    told = {
        "wait": op.wait,
        "existing_model": op.existing_model,
        "existing_column_type": op.existing_column_type,
        "existing_chunking": op.existing_chunking,
    }
    return _call(context, "switch_model", op.name, op.model, **op.options, **_told(told))


@renderers.dispatch_for(CreateModelOp)
def _create_model(context: AutogenContext, op: CreateModelOp) -> str:
    positional = [op.name] if op.family is None else [op.name, op.family]
    flags = {"is_default": op.is_default or None, "if_not_exists": op.if_not_exists or None}
    return _call(
        context, "create_model", *positional, **_told({"options": op.options, "card": op.card, **flags})
    )


@renderers.dispatch_for(DropModelOp)
def _drop_model(context: AutogenContext, op: DropModelOp) -> str:
    told = {"if_exists": op.if_exists or None, "if_unused": op.if_unused or None}
    return _call(context, "drop_model", op.name, **_told(told))


@renderers.dispatch_for(EmbedUpgradeOp)
def _embed_upgrade(context: AutogenContext, op: EmbedUpgradeOp) -> str:
    return _call(context, "embed_upgrade")


@renderers.dispatch_for(EmbedDowngradeOp)
def _embed_downgrade(context: AutogenContext, op: EmbedDowngradeOp) -> str:
    return _call(context, "embed_downgrade")


@renderers.dispatch_for(StepsOp)
def _steps(context: AutogenContext, op: StepsOp) -> list[str]:
    return [line for step in op.ops for line in render_op(context, step)]


@renderers.dispatch_for(VectorTypesOp)
def _vector_types(context: AutogenContext, op: VectorTypesOp) -> list[str]:
    context.imports.update(op.imports)
    return []


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _call(context: AutogenContext, operation: str, /, *positional: Any, **named: Any) -> str:
    arguments = [_plain(value) for value in positional]
    arguments += [f"{name}={_plain(value)}" for name, value in named.items()]
    call = f"{context.opts['alembic_module_prefix'] or ''}{operation}("
    line = f"{call}{', '.join(arguments)})"
    return line if len(line) <= LINE else call + "\n    " + ",\n    ".join(arguments) + ",\n)"


def _plain(value: Any) -> str:
    """As Python writes it; SQLAlchemy's quoted names as the strings that they are."""
    return repr(str(value)) if isinstance(value, str) else repr(value)
