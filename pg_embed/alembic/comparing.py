"""Autogenerate: what the models declare, against what the database has."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from alembic import util
from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from sqlalchemy import Column, MetaData, Table

from pg_embed.alembic import arranging
from pg_embed.alembic.catalog import Catalog, Name, Present, read, spell_chunking, spell_filter
from pg_embed.alembic.differences import (
    Changes,
    Names,
    Spell,
    columns_of,
    compare,
    drop,
    is_left_over,
    recreated,
    serves,
)
from pg_embed.alembic.operations import (
    AlterVectorizerOp,
    AttachVectorizerOp,
    CreateModelOp,
    CreateVectorizerOp,
    DetachVectorizerOp,
    DropVectorizerOp,
    EmbedUpgradeOp,
    StepsOp,
    SwitchModelOp,
    VectorTypesOp,
)
from pg_embed.alembic.vector_types import imports
from pg_embed.models.presets import presets
from pg_embed.sqlalchemy.declarations import Vectorizer, declared, declared_chunks


def _compare_vectorizers(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: Collection[str | None]
) -> None:
    """Behind Alembic's own comparison of tables."""
    if context.connection is None or context.dialect.name != "postgresql":
        return
    catalog = read(context.connection)
    tables = _tables(context, schemas)
    arranging.without_ours(upgrade_ops, catalog, _left(context, catalog, tables))
    names = Names(present.name for present in catalog.vectorizers)
    wanted = {key: _declared(context, table) for key, table in tables.items()}
    names.taken |= {vectorizer.name for found in wanted.values() for vectorizer in found if vectorizer.name}
    changes = {
        key: _compare_table(context, upgrade_ops, catalog, key, table, wanted[key], names)
        for key, table in tables.items()
    }
    _arrange(context, upgrade_ops, catalog, changes)
    if any(wanted.values()) and not catalog.installed:
        upgrade_ops.ops.insert(0, EmbedUpgradeOp())
    if lines := imports(upgrade_ops.ops):
        upgrade_ops.ops.append(VectorTypesOp(lines))


def _tables(context: AutogenContext, schemas: Collection[str | None]) -> dict[Name, Table]:
    """The tables of the models that Alembic looks at, by the names that it gives them."""
    default = context.dialect.default_schema_name
    found = {
        (None if table.schema == default else table.schema, str(table.name)): table
        for table in context.sorted_tables
    }
    return {
        key: table
        for key, table in found.items()
        if key[0] in schemas and context.run_object_filters(table, table.name, "table", False, None)
    }


def _declared(context: AutogenContext, table: Table) -> list[Vectorizer]:
    return [wanted for wanted in _every(table) if _is_included(context, table, wanted)]


def _every(table: Table) -> list[Vectorizer]:
    return [*declared(table), *declared_chunks(table)]


def _is_included(context: AutogenContext, table: Table, wanted: Vectorizer) -> bool:
    """What the user's include_object says of a vectorizer that is declared, and of its columns."""
    own = () if wanted.chunk_view is not None else columns_of(wanted)
    columns = [table.columns[_key(table, name)] for name in own]
    name = wanted.name or Names(()).free(wanted)
    return context.run_object_filters(wanted, name, "vectorizer", False, None) and all(  # type: ignore[arg-type]
        context.run_object_filters(column, column.name, "column", False, None) for column in columns
    )


def _is_looked_at(context: AutogenContext, present: Present, table: Table | None = None) -> bool:
    """What it says of one that the database has, and of those of its columns that the models lack."""
    served = [wanted for wanted in ([] if table is None else _every(table)) if _serves(present, [wanted])]
    return context.run_object_filters(
        present,  # type: ignore[arg-type]
        present.name,
        "vectorizer",  # type: ignore[arg-type]
        True,
        served[0] if served else None,  # type: ignore[arg-type]
    ) and (table is None or all(_may_drop(context, present, column) for column in _lost(present, table)))


def _lost(present: Present, table: Table) -> frozenset[str]:
    """The columns of a vectorizer that a model's table lacks."""
    own = frozenset(() if present.chunking is not None else present.columns)
    return own - _names(table)


def _may_drop(context: AutogenContext, present: Present, column: str) -> bool:
    """Whether the user's filters, by name and by object, let a column be looked at that the models lack."""
    parents: Any = {"schema_name": present.schema, "table_name": present.table}
    there = Table(present.table, MetaData(), Column(column), schema=present.schema).columns[column]
    return context.run_name_filters(column, "column", parents) and context.run_object_filters(
        there, column, "column", True, None
    )


def _key(table: Table, name: str) -> str:
    return next(column.key for column in table.columns if column.name == name)


def _names(table: Table) -> frozenset[str]:
    return frozenset(str(column.name) for column in table.columns)


def _left(context: AutogenContext, catalog: Catalog, tables: dict[Name, Table]) -> frozenset[str]:
    """The vectorizers that somebody else cares for: their columns stay, whether models have them or not."""
    return frozenset(
        present.name
        for key, table in tables.items()
        for present in catalog.of(key)
        if not _is_looked_at(context, present, table)
        or not (_serves(present, _every(table)) or is_left_over(present, _names(table)))
    )


def _serves(present: Present, wanted: Collection[Vectorizer]) -> bool:
    return any(serves(present, other) for other in wanted)


def _compare_table(
    context: AutogenContext,
    upgrade_ops: ops.UpgradeOps,
    catalog: Catalog,
    key: Name,
    table: Table,
    wanted: list[Vectorizer],
    names: Names,
) -> Changes:
    connection: Any = context.connection
    others = [other for other in _every(table) if other not in wanted]
    seen = [found for found in catalog.of(key) if _is_looked_at(context, found, table)]
    passed = [found for found in catalog.of(key) if found not in seen or _serves(found, others)]
    present = [found for found in seen if found not in passed]
    wanted = [
        vectorizer for vectorizer in wanted if not any(_serves(found, [vectorizer]) for found in passed)
    ]
    spell = Spell(partial(spell_filter, connection, key), partial(spell_chunking, connection))
    addable = {
        str(column.name): column.type.compile(context.dialect).lower()
        for column in arranging.added_columns(upgrade_ops, key)
        if _is_plain(column) and not _is_constrained(table, column)
    }
    return compare(wanted, present, _names(table), names, spell, _switches(context), addable)


def _is_plain(column: Column[Any]) -> bool:
    """Whether a column is as pg_embed adds one."""
    said = column.comment is not None and not column.comment.startswith(arranging.MARK)
    return bool(column.nullable) and column.server_default is None and not said


def _is_constrained(table: Table, column: Column[Any]) -> bool:
    """Whether an index or a constraint of a table is about a column."""
    parts: list[Any] = [*table.indexes, *table.constraints]
    return any(other.name == column.name for part in parts for other in part.columns)


def _switches(context: AutogenContext) -> bool:
    """Whether another model comes by a switch, or else by a new column: `pg_embed_switch=False` in env.py."""
    return bool(context.opts.get("pg_embed_switch", True))


def _arrange(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, catalog: Catalog, changes: dict[Name, Changes]
) -> None:
    first: list[ops.MigrateOperation] = [
        drop(present)
        for table in arranging.dropped_tables(upgrade_ops)
        for present in catalog.of(table)
        if _is_looked_at(context, present)
    ]
    again: list[ops.MigrateOperation] = []
    then: list[ops.MigrateOperation] = []
    last: list[ops.MigrateOperation] = []
    for table, changed in changes.items():
        first += changed.drops
        gone = {dropped.name for dropped in changed.drops}
        for present in catalog.of(table):
            if present.name not in gone:
                pair = _around(present, arranging.retyped_columns(upgrade_ops, table))
                first += pair[:1]
                again += pair[1:]
        if changed.replaced:
            pairs = [_anew(context, table, name) for name in changed.replaced]
            arranging.replace_columns(upgrade_ops, table, pairs)
        for move, present in changed.moves:
            if move.changes["storage"] == "column":
                arranging.take_added(upgrade_ops, table, present.columns)
            else:
                _undo(move, present, arranging.take_columns(upgrade_ops, table, present.columns))
        if changed.alters:
            last += arranging.drop_last(upgrade_ops, table)
        for switch in changed.switches:
            _keep_type(context, table, switch, changed.switched)
        arranging.keep_types(upgrade_ops, table, changed.switched)
        then += [*changed.alters, *changed.switches, *changed.creates]
    models = _models(catalog, then)
    upgrade_ops.ops[:] = [*first, *upgrade_ops.ops, *again, *models, *then, *last]


def _around(present: Present, retyped: dict[str, bool]) -> list[ops.MigrateOperation]:
    """What comes before and after columns get another type, where a vectorizer's triggers name them."""
    read = [column for column in retyped if present.reads(column)]
    keys = present.keys & retyped.keys()
    if present.chunking is not None and keys:
        return [drop(present), recreated(present)]  # chunks have the key, too
    if not read and not keys:
        return []
    told = {
        "postings": bool(keys) and present.has_postings,
        "backfill": not all(retyped[column] for column in read),
    }
    return [DetachVectorizerOp(present.name, **told), AttachVectorizerOp(present.name, **told)]


def _undo(move: AlterVectorizerOp, present: Present, columns: list[ops.DropColumnOp]) -> None:
    """How vectors come back from chunks to columns that a move would not make: they are filled anew."""
    made = [column.reverse() for column in columns]
    if all(_is_plain(op.column) for op in made):
        return
    dropped = DropVectorizerOp(move.rename_to or move.name, drop_column=True)
    move.undo = StepsOp([dropped, *made, recreated(present)], move)


def _keep_type(context: AutogenContext, table: Name, op: SwitchModelOp, switched: dict[str, str]) -> None:
    """Tell a switch the type of the dense column, where that is not halfvec before and after."""
    pairs = [
        _before_and_after(context, table, column) for column, name in switched.items() if name == op.name
    ]
    for old, new in pairs:
        was, wanted = (type(column.type).__name__.lower() for column in (old, new))
        if {was, wanted} in ({"vector"}, {"halfvec", "vector"}):
            op.options["column_type"] = wanted
            op.existing_column_type = was if was != wanted else None


def _anew(context: AutogenContext, table: Name, name: str) -> tuple[ops.DropColumnOp, ops.AddColumnOp]:
    schema, table_name = table
    old, new = _before_and_after(context, table, name)
    return (
        ops.DropColumnOp.from_column_and_tablename(schema, table_name, old),
        ops.AddColumnOp.from_column_and_tablename(schema, table_name, new),
    )


def _before_and_after(context: AutogenContext, table: Name, name: str) -> tuple[Column[Any], Column[Any]]:
    """A column as the database has it, and as it is declared."""
    described = context.inspector.get_columns(table[1], schema=table[0])
    before = next(column for column in described if column["name"] == name)
    model = _tables(context, {table[0]})[table]
    return Column(name, before["type"], nullable=before["nullable"]), model.columns[_key(model, name)]


def _models(catalog: Catalog, then: list[ops.MigrateOperation]) -> list[CreateModelOp]:
    """Models that pg_embed knows by the names that new vectorizers give, and the database lacks."""
    named: dict[Any, None] = {}
    for op in then:
        if isinstance(op, CreateVectorizerOp):
            named |= dict.fromkeys((op.options.get("model"), op.options.get("sparse")))
        elif isinstance(op, SwitchModelOp):
            named[op.model] = None
    known = presets()
    return [
        CreateModelOp(name, if_not_exists=True)
        for name in named
        if name in known and name not in catalog.models
    ]


def _register() -> None:
    # since 1.18 the functions of others would run before Alembic's own
    priority = getattr(util, "DispatchPriority", None)
    last = {} if priority is None else {"priority": priority.LAST}
    comparators.dispatch_for("schema", **last)(_compare_vectorizers)


_register()
