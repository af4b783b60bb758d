"""What one table's vectorizers lack or have too much: plain values in, operations out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pg_embed.alembic.catalog import FIELD, Present
from pg_embed.alembic.operations import (
    AlterVectorizerOp,
    CreateVectorizerOp,
    DropVectorizerOp,
    SwitchModelOp,
)
from pg_embed.chunks import Chunking
from pg_embed.records import Output
from pg_embed.sqlalchemy.declarations import Vectorizer

NOTHING: Mapping[str, str] = MappingProxyType({})
Move = tuple[Present, list[Vectorizer]]  # with what is to be served


@dataclass(frozen=True)
class Spell:
    """How Postgres writes a filter, None where it cannot be read, and how a model has texts chunked."""

    filter: Callable[[str], str | None]
    chunking: Callable[[str, str], Mapping[str, Any]]


@dataclass
class Changes:
    """The operations for one table, and the columns that are replaced, or left to a switch or to a move."""

    drops: list[DropVectorizerOp] = field(default_factory=list)
    creates: list[CreateVectorizerOp] = field(default_factory=list)
    alters: list[AlterVectorizerOp] = field(default_factory=list)
    switches: list[SwitchModelOp] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    switched: dict[str, str] = field(default_factory=dict)  # the vectorizers by column
    moves: list[tuple[AlterVectorizerOp, Present]] = field(default_factory=list)


class Names:
    """Names for vectorizers that are declared without one, as the database would choose them."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def free(self, wanted: Vectorizer) -> str:
        """`table_column`, or `schema_table_column` where that is taken."""
        first = wanted.dense or wanted.sparse or wanted.multi
        plain = f"{wanted.table}_{first}"
        longer = f"{wanted.schema or 'public'}_{plain}"
        numbered = (f"{longer}_{number}" for number in range(2, 10_000))
        chosen = next(name for name in (plain, longer, *numbered) if name not in self.taken)
        self.taken.add(chosen)
        return chosen


def columns_of(wanted: Vectorizer) -> dict[str, str]:
    """The outputs of a declared vectorizer by column."""
    named = {"dense": wanted.dense, "sparse": wanted.sparse, "multi": wanted.multi}
    return {str(column): output for output, column in named.items() if column is not None}


def serves(found: Present, wanted: Vectorizer) -> bool:
    """Whether a vectorizer has any of the columns, or the chunks, that are declared."""
    if wanted.chunk_view is not None:
        return found.chunk_view == wanted.chunk_view or found.chunk_table == wanted.chunk_table
    return found.chunking is None and bool(columns_of(wanted).keys() & found.columns)


def compare(
    declared: Sequence[Vectorizer],
    present: Sequence[Present],
    columns: frozenset[str],
    names: Names,
    spell: Spell,
    switches: bool = True,
    addable: Mapping[str, str] = NOTHING,
) -> Changes:
    """How to come from what a table has to what it is declared to have; `columns` are those of the model.

    Another model is come to by a switch where there can be one, unless `switches` is false. `addable` are
    the types of columns that the table lacks, and that a move of vectors from chunks can add.
    """
    changes = Changes()
    moved = _moved(declared, present, columns, spell)
    moved += _moved_back(declared, present, addable, spell)
    declared = [wanted for wanted in declared if all(wanted not in pair[1] for pair in moved)]
    present = [found for found in present if all(found != pair[0] for pair in moved)]
    kept: list[tuple[Present, list[Vectorizer]]] = []
    for found in present:
        served = [wanted for wanted in declared if serves(found, wanted)]
        if served and fits(found, served, columns, switches):
            kept.append((found, served))
        elif served or is_left_over(found, columns):
            _drop(found, served, columns, changes)
    missing = _missing(declared, kept, columns, changes)
    for found in present:
        if not is_left_over(found, columns) and _is_moved_back(found, declared, missing):
            _drop(found, [], columns, changes)
    for found, served in moved:
        _move(found, served, names, changes)
    for found, served in kept:
        _alter(found, served, spell, names, changes)
        _switch(found, served, spell, changes)
    names.taken -= {drop.name for drop in changes.drops}
    changes.creates = [create(wanted, names) for wanted in missing]
    return changes


def fits(found: Present, served: Sequence[Vectorizer], columns: frozenset[str], switches: bool) -> bool:
    """Whether a vectorizer has the columns of what it serves, and lost none, by the right models or to be."""
    one_text = len({(wanted.template, wanted.filter) for wanted in served}) == 1
    outputs = {column: output for wanted in served for column, output in columns_of(wanted).items()}
    whole = all(found.columns.get(column) == output for column, output in outputs.items())
    lost = set() if found.chunking is not None else found.columns.keys() - columns - found.added
    named = all(
        (found.chunk_table, found.chunk_view) == (wanted.chunk_table, wanted.chunk_view) for wanted in served
    )
    led = not _misled(found, served) or (switches and next_model(found, served) is not None)
    return one_text and whole and named and not lost and led


def next_model(found: Present, served: Sequence[Vectorizer]) -> str | None:
    """The model that a switch can bring: the one declared for all columns that the vectorizer's own fills."""
    misled = _misled(found, served)
    models = {wanted.model for wanted in served if columns_of(wanted).keys() & misled}
    own = {column for column, output in found.columns.items() if found.models[output] == found.model}
    asked = {column for wanted in served for column in columns_of(wanted)} & own
    return models.pop() if len(models) == 1 and misled == asked else None


def is_left_over(found: Present, columns: frozenset[str]) -> bool:
    """Whether nobody declares a vectorizer any more: no model has its columns, which a migration has added.

    One that was made in SQL, with columns of its own or on columns that a model has, is its maker's; so are
    chunks that no model has declared.
    """
    if found.chunking is not None:
        return found.declared
    return not found.columns.keys() & (columns | found.added)


def create(wanted: Vectorizer, names: Names) -> CreateVectorizerOp:
    """The operation that makes a declared vectorizer."""
    told: dict[str, Any] = {"template": wanted.template, "model": wanted.model, "filter": wanted.filter}
    options = {name: value for name, value in told.items() if value is not None}
    options["column_name"] = wanted.dense
    if wanted.sparse is not None:
        options["sparse_column"] = wanted.sparse
    if wanted.multi is not None:
        options["multi_column"] = wanted.multi
    if wanted.index != "none":
        options["index"] = wanted.index
    if wanted.chunk_view is not None:
        if wanted.sparse_model is not None:
            options["sparse"] = wanted.sparse_model
        options |= _chunk_options(wanted, json.loads(wanted.chunking or "null"))
    options["name"] = wanted.name or names.free(wanted)
    return CreateVectorizerOp(wanted.table, schema=wanted.schema, **options)


def _chunk_options(wanted: Vectorizer | Present, chunking: Mapping[str, Any] | None) -> dict[str, Any]:
    """What makes chunks; the names of their table and view where they are not the usual ones."""
    told = {
        "column_type": wanted.column_type,
        "storage": "table",
        "chunking": chunking,
        "chunk_table": wanted.chunk_table if wanted.chunk_table != f"{wanted.table}_embedding" else None,
        "chunk_view": wanted.chunk_view if wanted.chunk_view != f"{wanted.table}_chunks" else None,
        "declared": isinstance(wanted, Vectorizer) or wanted.declared or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def brief(chunking: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A chunking without those settings that are the usual ones."""
    usual = Chunking().as_json()
    if chunking is None:
        return None
    return {name: value for name, value in chunking.items() if name == "size" or value != usual[name]}


def recreated(found: Present) -> CreateVectorizerOp:
    """The operation that makes a vectorizer again as it is, for the way back."""
    places = {output: column for column, output in found.columns.items()}
    text = {"template": found.template} if found.prepare is None else {"prepare": found.prepare}
    options: dict[str, Any] = {**text, "model": found.model, "column_name": places.get("dense")}
    for output in ("sparse", "multi"):
        if output in places:
            options[f"{output}_column"] = places[output]
    if found.models.get("sparse", options["model"]) != options["model"]:
        options["sparse"] = found.models["sparse"]
    if found.filter is not None:
        options["filter"] = found.filter
    if found.index != "none":
        options["index"] = found.indexing
    if found.max_attempts != 10:
        options["max_attempts"] = found.max_attempts
    if found.chunking is not None:
        options |= _chunk_options(found, brief(found.chunking))
    if found.replication != "origin":
        options["replication"] = found.replication
    if found.paused:
        options["paused"] = True
    # a hook is given columns, and has no template
    given = None if found.prepare is None else FIELD.findall(found.template)
    return CreateVectorizerOp(found.table, given, schema=found.schema, **options, name=found.name)


def drop(found: Present) -> DropVectorizerOp:
    """The operation that drops a vectorizer, and knows how it was; its chunks would keep the table."""
    is_table = found.chunking is not None
    return DropVectorizerOp(
        found.name,
        drop_column=is_table,
        drop_kept=found.has_kept and not is_table,
        created=recreated(found),
    )


def _misled(found: Present, served: Sequence[Vectorizer]) -> set[str]:
    """Columns whose vectors are of another model than is declared."""
    return {
        column
        for wanted in served
        for column in columns_of(wanted).keys() & found.columns
        if _model_of(wanted, found.columns[column]) not in (None, found.models[found.columns[column]])
    }


def _model_of(wanted: Vectorizer, output: Output) -> str | None:
    return wanted.sparse_model or wanted.model if output == "sparse" else wanted.model


def _drop(found: Present, served: Sequence[Vectorizer], columns: frozenset[str], changes: Changes) -> None:
    changes.drops.append(drop(found))
    if found.chunking is None:
        changes.replaced += sorted(_misled(found, served) & columns)


def _missing(
    declared: Sequence[Vectorizer],
    kept: list[tuple[Present, list[Vectorizer]]],
    columns: frozenset[str],
    changes: Changes,
) -> list[Vectorizer]:
    """What is to be made, as its columns are not filled; what fills a part of them goes, and so on."""
    while True:
        filled = {(found.chunk_view, column) for found, _ in kept for column in found.columns}
        missing = [
            wanted
            for wanted in declared
            if any((wanted.chunk_view, column) not in filled for column in columns_of(wanted))
        ]
        torn = [pair for pair in kept if any(wanted in missing for wanted in pair[1])]
        if not torn:
            return missing
        for pair in torn:
            kept.remove(pair)
            _drop(*pair, columns, changes)


def _alter(
    found: Present, served: Sequence[Vectorizer], spell: Spell, names: Names, changes: Changes
) -> None:
    wanted = served[0]
    altered: dict[str, Any] = {}
    if wanted.template != found.template:
        altered |= {"template": wanted.template, "existing_template": found.template}
    if not _same_filter(found, wanted, spell):
        altered |= {"filter": wanted.filter or "", "existing_filter": found.filter or ""}
    if wanted.chunking is not None and _is_split_by(found, served):
        model, chunking = _splitting(found)
        # models that say nothing leave it, and so do callers who may not see it
        if chunking is not None and spell.chunking(wanted.chunking, model) != chunking:
            altered |= {"chunking": json.loads(wanted.chunking), "existing_chunking": brief(chunking)}
    asked = next((other.index for other in served if other.index != "none"), "none")
    if asked not in ("none", found.index):  # "none" is said by models that say nothing
        altered |= {"index": asked, "existing_index": found.indexing}
    named = _named(found, served)
    if named != found.name:
        altered["rename_to"] = named
        names.taken.add(named)
    if altered:
        changes.alters.append(AlterVectorizerOp(found.name, **altered))


def _is_split_by(found: Present, served: Sequence[Vectorizer]) -> bool:
    """Whether the model is there, or to be, that is declared: another comes with its own chunks."""
    return next_model(found, served) in (None, found.next_model)


def _splitting(found: Present) -> tuple[str, Mapping[str, Any] | None]:
    """The model whose chunks are those to stay, and how it splits texts."""
    if found.next_model is not None:
        return found.next_model, found.next_chunking
    return found.model, found.chunking


def _switch(found: Present, served: Sequence[Vectorizer], spell: Spell, changes: Changes) -> None:
    model = next_model(found, served)
    if model is None:
        return
    name = _named(found, served)
    if found.chunking is None:
        changes.switched |= {
            column: name for wanted in served for column in columns_of(wanted) if column in found.columns
        }
    if model != found.next_model:
        told = {"existing_model": found.model, **_split_anew(found, served[0], model, spell)}
        changes.switches.append(SwitchModelOp(name, model, auto=True, **told))


def _split_anew(found: Present, wanted: Vectorizer, model: str, spell: Spell) -> dict[str, Any]:
    """How another model is to split texts, where it is declared to do so in another way."""
    if found.chunking is None or wanted.chunking is None:
        return {}
    asked = spell.chunking(wanted.chunking, model)
    if asked == found.chunking:
        return {}
    # what is not said stays as it was
    other = {name: value for name, value in asked.items() if value != found.chunking[name]}
    return {"chunking": {**other, **json.loads(wanted.chunking)}, "existing_chunking": brief(found.chunking)}


def _named(found: Present, served: Sequence[Vectorizer]) -> str:
    return next((other.name for other in served if other.name is not None), found.name)


def _same_filter(found: Present, wanted: Vectorizer, spell: Spell) -> bool:
    if wanted.filter is None or found.filter is None:
        return wanted.filter == found.filter
    return found.filter in (wanted.filter, spell.filter(wanted.filter))


def _moved(
    declared: Sequence[Vectorizer], present: Sequence[Present], columns: frozenset[str], spell: Spell
) -> list[Move]:
    """Vectorizers whose columns no model has any more, with the chunks that it has instead."""
    chunks = [
        wanted
        for wanted in declared
        if wanted.chunk_view is not None and not any(serves(found, wanted) for found in present)
    ]
    moved: list[Move] = []
    for found in present:
        if found.chunking is None and is_left_over(found, columns) and _can_move(found):
            fitting = [wanted for wanted in chunks if _is_of(found, [wanted], spell)][:1]
            moved += [(found, fitting)] if fitting else []
            chunks = [wanted for wanted in chunks if wanted not in fitting]
    return moved


def _moved_back(
    declared: Sequence[Vectorizer], present: Sequence[Present], addable: Mapping[str, str], spell: Spell
) -> list[Move]:
    """Vectorizers whose chunks no model has any more, with the columns that it has instead."""
    moved: list[Move] = []
    for found in present:
        chunks = any(wanted.chunk_view is not None and serves(found, wanted) for wanted in declared)
        if found.chunking is None or chunks or found.is_switched:
            continue
        served = [
            wanted
            for wanted in declared
            if wanted.chunk_view is None and columns_of(wanted).keys() & found.columns
        ]
        taken = any(serves(other, wanted) for other in present for wanted in served)
        typed = all(addable.get(column) == found.types.get(column) for column in found.columns)
        if served and typed and not taken and _is_of(found, served, spell):
            moved.append((found, served))
            declared = [wanted for wanted in declared if wanted not in served]
    return moved


def _can_move(found: Present) -> bool:
    """Whether columns can become chunks: the texts that a hook makes are not kept."""
    return found.prepare is None and not found.is_switched


def _is_of(found: Present, wanted: Sequence[Vectorizer], spell: Spell) -> bool:
    """Whether a vectorizer makes all that is declared, and nothing else, of the same text."""
    same_text = all(
        other.template == found.template and _same_filter(found, other, spell) for other in wanted
    )
    outputs = {column: output for other in wanted for column, output in columns_of(other).items()}
    return same_text and outputs == found.columns and not _misled(found, wanted)


def _move(found: Present, served: Sequence[Vectorizer], names: Names, changes: Changes) -> None:
    """Vectors that get another place: searches find every row at any moment."""
    (wanted, *_) = served
    if found.chunking is None:
        told = _chunk_options(replace(wanted, column_type=None), json.loads(wanted.chunking or "null"))
        altered = {**told, "existing_storage": "column"}
    else:
        before = _chunk_options(replace(found, column_type=None, declared=False), brief(found.chunking))
        altered = {"storage": "column", "declared": True}
        altered |= {f"existing_{name}": value for name, value in before.items()}
        if not found.declared:
            altered["existing_declared"] = False
    index = next((other.index for other in served if other.index != "none"), "none")
    if index not in ("none", found.index):
        altered |= {"index": index, "existing_index": found.indexing}
    named = _named(found, served)
    if named != found.name:
        altered["rename_to"] = named
        names.taken.add(named)
    op = AlterVectorizerOp(found.name, **altered)
    changes.alters.append(op)
    changes.moves.append((op, found))


def _is_moved_back(found: Present, declared: Sequence[Vectorizer], missing: Sequence[Vectorizer]) -> bool:
    """Whether a column of the same text and model is declared instead of chunks."""
    return (
        found.chunking is not None
        and not any(serves(found, wanted) for wanted in declared)
        and any(
            wanted.chunk_view is None
            and wanted.template == found.template
            and wanted.model in (None, found.model)
            for wanted in missing
        )
    )
