"""The tables that writers change under faults, and the texts that they write."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from pg_embed.records import ModelSpec
from tests.faults.deadly import registry

POISON = "poison"
OPTIONS = {"dimensions": 8, "delay": 0.004, "fail_on": POISON}
MODEL = ModelSpec("faulty", "fake", OPTIONS)
LEXICAL = ModelSpec("lexical", "bm25", {"average_length": 5})
SECOND = ModelSpec("second", "fake", {"dimensions": 4, "query_prompt": "q", "document_prompt": "d: "})
WORDS = [
    "river",
    "Ärger",
    "stone",
    "数据",
    "\\t",
    "'quote'",
    '"double"',
    "{brace}",
    "%",
    "lamp",
    "\n",
    "line",
]


@dataclass(frozen=True)
class Column:
    """A column of vectors: its vectorizer's arguments, and its text as SQL, written independently of ours."""

    name: str
    model: ModelSpec
    vectorizer: str
    text: str
    kind: str = "halfvec"
    chunks: str | None = None  # the table that has the vectors, if it is not the table itself
    beside: str = ""  # another column, whose vectorizer fills this one, too
    refused: str = ""  # a word that the vectorizer's other model refuses


@dataclass(frozen=True)
class Table:
    """A table with a key of some kind; beside it all have title, body, rating and draft."""

    name: str
    create: Sequence[str]
    key_columns: Sequence[str]
    key: Callable[[int], tuple[Any, ...]]
    key_text: str  # the key as embed.failures shows it
    columns: Sequence[Column]

    @property
    def where(self) -> str:
        """The condition for one key."""
        return " AND ".join(f"{column} = %s" for column in self.key_columns)


BODY = Column("embedding", MODEL, "input => 'body', model => 'faulty'", "body")
TEXT = "title text, body text, rating integer NOT NULL DEFAULT 0, draft boolean NOT NULL DEFAULT false"

NOTES = Table(
    name="notes",
    create=[f"CREATE TABLE notes (id bigint PRIMARY KEY, {TEXT})"],
    key_columns=["id"],
    key=lambda n: (n,),
    key_text="id::text",
    columns=[BODY],
)
TWICE = Table(
    name="twice",
    create=[f"CREATE TABLE twice (id integer PRIMARY KEY, {TEXT})"],
    key_columns=["id"],
    key=lambda n: (n,),
    key_text="id::text",
    columns=[
        BODY,
        Column(
            "other",
            SECOND,
            "input => ARRAY['title', 'body'], model => 'second', column_name => 'other',"
            " column_type => 'vector'",
            "CASE WHEN num_nonnulls(title, body) > 0 THEN concat(title, E'\\n', body) END",
            "vector",
        ),
    ],
)
ODD = Table(
    name='"Odd Näme"',
    create=[f'CREATE TABLE "Odd Näme" (part integer, "Key" text, {TEXT}, PRIMARY KEY (part, "Key"))'],
    key_columns=["part", '"Key"'],
    key=lambda n: (n % 3, f'k "{n}" ä'),
    key_text='jsonb_build_array(part::text, "Key")::text',
    columns=[
        Column(
            "embedding",
            MODEL,
            "template => '{title}: {{{body}}}', model => 'faulty', filter => 'NOT draft'",
            "CASE WHEN NOT draft AND num_nonnulls(title, body) > 0 THEN concat(title, ': {', body, '}') END",
        )
    ],
)
PARTED = Table(
    name="parted",
    create=[
        f"CREATE TABLE parted (id text PRIMARY KEY, {TEXT}) PARTITION BY HASH (id)",
        "CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ],
    key_columns=["id"],
    key=lambda n: (f"row {n}",),
    key_text="id",
    columns=[BODY],
)
PAIR = Table(
    name="pair",
    create=[f"CREATE TABLE pair (id bigint PRIMARY KEY, {TEXT})"],
    key_columns=["id"],
    key=lambda n: (n,),
    key_text="id::text",
    columns=[
        replace(BODY, vectorizer=f"{BODY.vectorizer}, sparse => 'lexical'"),
        Column("sparse", LEXICAL, "", "body", "sparsevec", beside="embedding", refused=POISON),
    ],
)


CHUNKING = {"size": 8}  # tokens: a quarter of the characters
CHUNKED = {
    "vectorizer": f"""template => '{{title}}\n\n{{body}}\n\n{{title}}, {{rating}}', model => 'faulty',
        storage => 'table', chunking => '{json.dumps(CHUNKING)}'""",
    "text": "concat(title, E'\\n\\n', body, E'\\n\\n', title, ', ', rating)",
}
PAGES = Table(
    name="pages",
    create=[f"CREATE TABLE pages (id bigint PRIMARY KEY, {TEXT})"],
    key_columns=["id"],
    key=lambda n: (n,),
    key_text="id::text",
    columns=[Column("embedding", MODEL, chunks="pages_embedding", **CHUNKED)],
)
ODD_PAGES = Table(
    name='"Odd Pages"',
    create=[f'CREATE TABLE "Odd Pages" (part integer, "Key" text, {TEXT}, PRIMARY KEY (part, "Key"))'],
    key_columns=["part", '"Key"'],
    key=lambda n: (n % 3, f'k "{n}" ä'),
    key_text='jsonb_build_array(part::text, "Key")::text',
    columns=[
        Column(
            "embedding",
            MODEL,
            "input => 'body', model => 'faulty', filter => 'NOT draft', storage => 'table'",
            "CASE WHEN NOT draft THEN body END",
            chunks='"Odd Pages_embedding"',
        )
    ],
)
PARTED_PAGES = Table(
    name="parted_pages",
    create=[
        f"CREATE TABLE parted_pages (id text PRIMARY KEY, {TEXT}) PARTITION BY HASH (id)",
        "CREATE TABLE parted_pages_0 PARTITION OF parted_pages FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE parted_pages_1 PARTITION OF parted_pages FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ],
    key_columns=["id"],
    key=lambda n: (f"row {n}",),
    key_text="id",
    columns=[Column("embedding", MODEL, chunks="parted_pages_embedding", **CHUNKED)],
)


def set_up(
    connection: psycopg.Connection[Any],
    tables: Sequence[Table],
    models: Sequence[ModelSpec] = (MODEL, SECOND, LEXICAL),
    max_attempts: int = 100,  # many: no row may be given up for a fault
) -> None:
    """Make models, tables and their vectorizers."""
    families = registry()
    for spec in models:
        model = families.load(spec)
        card = model.card.as_dict()
        model.close()
        connection.execute(
            "SELECT embed.create_model(%s, family => %s, options => %s, card => %s)",
            (spec.name, spec.family, json.dumps(dict(spec.options)), json.dumps(card)),
        )
    for table in tables:
        for statement in table.create:
            connection.execute(statement)
        for column in table.columns:
            if column.beside:
                continue
            arguments = f"'{table.name}', {column.vectorizer}, max_attempts => {max_attempts}"
            connection.execute(f"SELECT embed.create_vectorizer({arguments})")


def random_text(rng: random.Random) -> str | None:
    """A text of a small stock: rows often get back one they had before; some are NULL, some refused."""
    dice = rng.random()
    if dice < 0.04:
        return None
    if dice < 0.06:
        return ""
    text = f"{rng.choice(WORDS)} {rng.choice(WORDS)} {rng.randrange(5)}"
    return f"{POISON} {text}" if dice > 0.95 else text
