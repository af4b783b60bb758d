"""What the operations send: plain SQL, the same with a connection and with --sql."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alembic.operations import Operations
from psycopg import sql

from pg_embed import migrating
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
    VectorTypesOp,
    quoted,
)
from pg_embed.errors import InvalidArgument
from pg_embed.install import install_within, installation_steps, removal_steps

SQL = migrating.SQL


@Operations.implementation_for(CreateVectorizerOp)
def _create_vectorizer(operations: Operations, op: CreateVectorizerOp) -> None:
    source = sql.SQL("{}::regclass").format(sql.Literal(quoted(op.table_name, op.schema)))
    given = {} if op.input is None else {"input": op.input}
    later = ("replication", "paused", "declared", *(["index"] if _is_detailed(op.options) else []))
    options = {key: value for key, value in op.options.items() if key not in later}
    _call(operations, "create_vectorizer", source, **given, **options)
    name = op.options.get("name") or quoted(op.table_name, op.schema)
    if _is_detailed(op.options):
        _create_index(operations, name, op.options["index"])
    if "replication" in op.options:
        _call(operations, "set_replication", name, replication=op.options["replication"])
    if op.options.get("paused"):
        _call(operations, "pause", name)
    if op.options.get("declared"):
        _declare(operations, name)


def _is_detailed(options: Mapping[str, Any]) -> bool:
    return isinstance(options.get("index"), Mapping)


def _create_index(operations: Operations, name: str, index: str | Mapping[str, Any]) -> None:
    _call(operations, "create_index", name, **({"kind": index} if isinstance(index, str) else index))


def _declare(operations: Operations, name: str, what: str = "declare") -> None:
    _run(operations, sql.SQL(SQL[what]).format(vectorizer=migrating.literal(name)))


def _end_move(operations: Operations, name: str, *, as_it_stands: bool) -> None:
    told = {"vectorizer": migrating.literal(name), "as_it_stands": sql.Literal(as_it_stands)}
    _run(operations, sql.SQL(SQL["end_move"]).format(**told))


@Operations.implementation_for(DropVectorizerOp)
def _drop_vectorizer(operations: Operations, op: DropVectorizerOp) -> None:
    if not op.drop_column:
        _end_move(operations, op.name, as_it_stands=True)
    if op.drop_kept:
        _send_all(operations, op.name, "forget_kept")
    told = {"drop_column": op.drop_column, "if_exists": op.if_exists}
    _call(operations, "drop_vectorizer", op.name, **migrating.true(told))


@Operations.implementation_for(DetachVectorizerOp)
def _detach_vectorizer(operations: Operations, op: DetachVectorizerOp) -> None:
    _send_all(operations, op.name, "detach", *(["drop_postings"] if op.postings else []))


@Operations.implementation_for(AttachVectorizerOp)
def _attach_vectorizer(operations: Operations, op: AttachVectorizerOp) -> None:
    postings = ["create_postings"] if op.postings else []
    backfill = ["embed_again"] if op.backfill else []
    _send_all(operations, op.name, "attach", *postings, "say_filter_again", *backfill)


def _send_all(operations: Operations, vectorizer: str, *statements: str) -> None:
    for name in statements:
        _send(operations, sql.SQL(SQL[name]).format(vectorizer=migrating.literal(vectorizer)))


@Operations.implementation_for(AlterVectorizerOp)
def _alter_vectorizer(operations: Operations, op: AlterVectorizerOp) -> None:
    changes = {key: value for key, value in op.changes.items() if key not in ("index", "declared")}
    name = op.rename_to or op.name
    is_to_column = changes.get("storage") == "column"
    if is_to_column and "index" in op.changes:
        # what the chunks have, the columns get
        _create_index(operations, op.name, op.changes["index"])
    if op.rename_to is not None:
        changes["rename_to"] = op.rename_to
    if changes:
        _call(operations, "alter_vectorizer", op.name, **changes)
    if is_to_column:
        _end_move(operations, name, as_it_stands=False)
    elif "index" in op.changes:
        _create_index(operations, name, op.changes["index"])
    if op.changes.get("declared"):
        _declare(operations, name, "declare_columns" if is_to_column else "declare")


@Operations.implementation_for(SwitchModelOp)
def _switch_model(operations: Operations, op: SwitchModelOp) -> None:
    if op.wait is not None and operations.migration_context._in_external_transaction:
        hint = "connect by engine.connect(), and let Alembic begin it: with context.begin_transaction()"
        raise InvalidArgument("no switch can be waited for in a transaction that env.py began", hint=hint)
    names = {"vectorizer": migrating.literal(op.name), "model": migrating.literal(op.model)}
    begin = migrating.call("switch_model", op.name, model=op.model, **op.options)
    steps = [sql.SQL(SQL["switch_model"]).format(**names, begin=begin)]
    if op.options.get("chunking") is not None:
        chunks = {**names, "chunking": migrating.literal(op.options["chunking"])}
        leave, split = (sql.SQL(SQL[step]).format(**chunks) for step in ("leave_switch", "split_texts"))
        steps = [leave, *steps, split]
    for step in steps:
        _send(operations, step)
    _run(operations, sql.SQL(SQL["end_switch"]).format(**names))
    if op.wait is not None:
        block = sql.SQL(SQL["await_switch"]).format(**names, seconds=migrating.literal(float(op.wait)))
        # a worker sees nothing before it is committed
        with operations.migration_context.autocommit_block():
            _run(operations, block)


@Operations.implementation_for(CreateModelOp)
def _create_model(operations: Operations, op: CreateModelOp) -> None:
    flags = {"is_default": op.is_default, "if_not_exists": op.if_not_exists}
    _send(operations, migrating.create_model(op.name, op.family, op.options, op.card, **flags))


@Operations.implementation_for(DropModelOp)
def _drop_model(operations: Operations, op: DropModelOp) -> None:
    _send(operations, migrating.drop_model(op.name, if_exists=op.if_exists, if_unused=op.if_unused))


@Operations.implementation_for(EmbedUpgradeOp)
def _embed_upgrade(operations: Operations, op: EmbedUpgradeOp) -> None:
    _send(operations, sql.SQL(SQL["keep_path"]))
    if operations.migration_context.as_sql:
        _print(operations, installation_steps())
    else:
        install_within(operations.get_bind())
    _send(operations, sql.SQL(SQL["restore_path"]))


@Operations.implementation_for(EmbedDowngradeOp)
def _embed_downgrade(operations: Operations, op: EmbedDowngradeOp) -> None:
    for statement in removal_steps():
        _send(operations, sql.SQL(statement))


@Operations.implementation_for(VectorTypesOp)
def _vector_types(operations: Operations, op: VectorTypesOp) -> None:
    return None


def _call(operations: Operations, function: str, /, first: Any, **named: Any) -> None:
    _send(operations, migrating.call(function, first, **named))


def _run(operations: Operations, block: sql.Composable) -> None:
    _send(operations, sql.SQL(SQL["run"]).format(block=sql.Literal(block.as_string(None))))


def _send(operations: Operations, statement: sql.Composable) -> None:
    """Neither Alembic's nor the driver's placeholders are looked for: the text reaches Postgres as it is."""
    text = statement.as_string(None)
    if operations.migration_context.as_sql:
        _print(operations, text.rstrip().rstrip(";") + ";")
    else:
        operations.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})


def _print(operations: Operations, text: str) -> None:
    operations.migration_context.impl.static_output(text)
