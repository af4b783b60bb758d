"""embed.estimate: within a tenth of what a run then uses, in English prose and in docstrings."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.presets import presets
from pg_embed.models.registry import default_registry
from pg_embed.models.sentence_transformers import SentenceTransformerEmbedder
from pg_embed.protocols import Embedder
from pg_embed.records import ModelSpec
from tests.fix_pg import MakeRole
from tests.fix_serve import Place, RunningSidecar, spool_place, with_transport
from tests.fix_worker import Connection, StartWorker, create_docs, create_fake_model
from tests.providers.openai_server import OpenAIContract
from tests.providers.server import ProviderServer, Vectors, serving
from tests.sql.helpers import refused, value

MINILM = presets()["all-MiniLM-L6-v2"]
TENTH = 0.1


@cache
def prose() -> list[str]:
    """The paragraphs of Python's reference."""
    parts = [part for topic in topics.values() for part in topic.split("\n\n")]
    return [" ".join(part.split()) for part in parts if len(part) > 80]


@cache
def docstrings() -> list[str]:
    """Of the modules of the standard library, with their line breaks."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        found.extend(inspect.cleandoc(text) for node in nodes if (text := ast.get_docstring(node)))
    return found


@pytest.fixture
def place(dsn: str, serve_folder: Path) -> Iterator[Place]:
    """A database with a transport, and a sidecar."""
    with with_transport(spool_place(dsn, serve_folder)) as found, RunningSidecar(found.serve):
        yield found


def estimate(db: Connection, vectorizer: str) -> tuple[Any, ...]:
    row = db.execute("SELECT * FROM embed.estimate(%s::text)", [vectorizer]).fetchone()
    assert row is not None
    return row


def measured(model: Embedder, texts: list[str]) -> int:
    assert isinstance(model, SentenceTransformerEmbedder)
    return sum(model.measure_tokens(texts))


def test_what_is_measured_is_what_embedding_uses(minilm: Embedder) -> None:
    texts = [*docstrings()[:20], *prose()[:20], "", "long " * 2_000]
    assert measured(minilm, texts) == minilm.embed(texts, "document").tokens


@pytest.mark.slow
@pytest.mark.parametrize("texts", [prose, docstrings])
def test_a_local_model_s_own_tokenizer_is_asked(
    db: Connection, place: Place, minilm: Embedder, texts: Any
) -> None:
    rows = texts() * 3
    assert len(rows) > 4_000, "more than are looked at"
    create_docs(db, *rows)
    db.execute(
        "SELECT embed.create_model('minilm', %s, %s, card => %s)",
        [MINILM.family, Jsonb(dict(MINILM.options)), Jsonb(minilm.card.as_dict())],
    )
    db.execute(
        "SELECT embed.price_model('minilm', 0.02), embed.limit_model('minilm', inputs_per_minute => 600)"
    )
    found, tokens, cost, seconds, *_ = (
        db.execute("SELECT * FROM embed.estimate('docs', 'body')").fetchone() or ()
    )
    assert found == len(rows)
    assert tokens == pytest.approx(measured(minilm, rows), rel=TENTH)
    assert float(cost) == pytest.approx(tokens * 0.02 / 1e6, abs=1e-6)
    assert seconds == pytest.approx(len(rows) / 600 * 60 / 0.965, rel=0.01)


class TokenizingContract(OpenAIContract):
    """Counts the tokens of a call by a real tokenizer."""

    def __init__(self, model: SentenceTransformerEmbedder) -> None:
        self._model = model

    def answer(self, request: dict[str, Any], vectors: Vectors) -> dict[str, Any]:
        """As the contract, with these tokens."""
        tokens = sum(self._model.measure_tokens(self.texts(request)))
        return super().answer(request, Vectors(vectors.rows, vectors.indexes, tokens))


@pytest.mark.slow
@pytest.mark.parametrize("texts", [prose, docstrings])
def test_a_hosted_model_is_calibrated_by_what_was_used(
    db: Connection, dsn: str, start_worker: StartWorker, minilm: Embedder, texts: Any
) -> None:
    assert isinstance(minilm, SentenceTransformerEmbedder)
    contract = TokenizingContract(minilm)
    with serving(lambda: ProviderServer(contract, dimensions=4)) as provider:
        chosen = {"model": "test", "dimensions": 4, "base_url": provider.base_url}
        embedder = default_registry().load(ModelSpec("hosted", "openai", chosen))
        described = Jsonb(embedder.card.as_dict())
        embedder.close()
        db.execute(
            "SELECT embed.create_model('hosted', 'openai', %s, card => %s)", [Jsonb(chosen), described]
        )
        # MiniLM cuts what is longer, providers do not; in capitals the server finds words that it acts on
        short = [text.lower() for text in texts() if len(text) < 800]
        create_docs(db, *short[::9])
        db.execute("SELECT embed.create_vectorizer('docs', 'body')")
        start_worker(dsn)
        db.execute("SELECT embed.wait('docs')")
        start_worker.end()
        others = short[1::3]
        db.execute("CREATE TABLE others (id bigint PRIMARY KEY, body text)")
        db.execute(
            "INSERT INTO others SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY AS u(t, n)", [others]
        )
        _, tokens, cost, seconds, *_ = (
            db.execute("SELECT * FROM embed.estimate('others', 'body')").fetchone() or ()
        )
    # what was embedded for the other table is kept for this one
    new = list(set(others) - set(short[::9]))
    assert len(new) < len(others)
    assert tokens == pytest.approx(measured(minilm, new), rel=TENTH)
    assert cost is seconds is None


def test_without_a_tokenizer_and_a_past_it_is_guessed_by_script(db: Connection) -> None:
    create_fake_model(db)
    create_docs(
        db,
        "four letters to a token or so" * 10,
        "文字は一つ半でおよそ一つです" * 10,
        "около двух с половиной" * 10,
    )
    guesses = [
        value(db, "SELECT sum(embed._guess(body)) FROM docs WHERE id = %s", number) for number in (1, 2, 3)
    ]
    assert guesses == pytest.approx([290 / 4.2, 140 / 1.5, 190 / 2.5 + 30 / 4.2], rel=0.01)
    rows, tokens, cost, seconds, *_ = (
        db.execute("SELECT * FROM embed.estimate('docs', 'body')").fetchone() or ()
    )
    assert (rows, cost, seconds) == (3, None, None)
    assert tokens == pytest.approx(sum(guesses), abs=1)


def test_the_rendered_text_of_the_rows_that_pass_the_filter_is_what_counts(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, *("x" * 42 for _ in range(10)), None)
    found = db.execute(
        "SELECT rows, tokens, cost, seconds"
        " FROM embed.estimate('docs', template => '{body}{body}', filter => 'id <= 6')"
    ).fetchone()
    assert found == (6, 120, None, None)


def test_a_vectorizer_s_rows_are_those_without_a_vector(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, *("x" * 42 for _ in range(10)))
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    db.execute("UPDATE docs SET embedding = '[1,0,0,0]' WHERE id <= 3")
    assert estimate(db, "docs_embedding")[:2] == (7, 70)
    db.execute("SELECT embed.limit_model('fake', tokens_per_minute => 100)")
    assert estimate(db, "docs_embedding")[3] == pytest.approx(0.7 * 60 / 0.965, abs=1)


def test_an_empty_table_takes_nothing(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db)
    found = db.execute("SELECT * FROM embed.estimate('docs', 'body')").fetchone()
    assert found == (0, 0, None, None, 0, None, None)


def test_where_vectors_are_reused_a_text_costs_once_and_nothing_when_it_is_kept(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.set_reuse('fake', true), embed.price_model('fake', 1000000)")
    create_docs(db, *(letter * 42 for letter in "abcabcabcd"), None)
    everything = "SELECT rows, tokens, cost, texts, kept, note FROM embed.estimate('docs', 'body')"
    assert db.execute(everything).fetchone() == (10, 40, 40, 4, 0, None)
    db.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO others VALUES (1, repeat('a', 42)), (2, repeat('d', 42)), (3, 'ü')")
    db.execute("SELECT embed.create_vectorizer('others', 'body')")
    start_worker(dsn)
    db.execute("SELECT embed.wait('others')")
    start_worker.end()
    assert db.execute(everything).fetchone() == (10, 20, 20, 4, 0.5, None)
    db.execute("UPDATE docs SET body = 'ü'")
    assert db.execute(everything).fetchone() == (11, 0, 0, 1, 1, None)
    db.execute("SELECT embed.set_reuse('fake', false)")
    rows, _, _, texts, kept, note = db.execute(everything).fetchone() or ()
    assert (rows, texts, kept) == (11, 1, None)
    assert "embed.set_reuse('fake', true)" in note


def test_what_is_kept_is_told_to_the_owner_only(db: Connection, make_role: MakeRole) -> None:
    create_fake_model(db)
    create_docs(db, "secret")
    db.execute("SELECT embed.set_reuse('fake', true)")
    model = value(db, "SELECT id FROM embed._model")
    look = "SELECT embed._kept_v1('docs', %s, ARRAY[sha256('secret')])"
    salt = value(
        db,
        "SELECT sha256(a.salt || current_user::text::bytea) || m.space_id::bytea || '\\x00'::bytea"
        " || (m.card ->> 'checkpoint')::bytea || '\\x00'::bytea"
        " FROM embed._reuse_all AS a, embed._model AS m",
    )
    key = sha256(salt + sha256(b"secret").digest()).hexdigest()[:32]
    db.execute("INSERT INTO embed._reuse (used_at, model_id, key) VALUES (now(), %s, %s::uuid)", [model, key])
    assert value(db, look, model) == [True]
    with psycopg.connect(make_role("embed_owner").dsn, autocommit=True) as other:
        assert value(other, look, model) == [False]


def test_chunks_that_are_kept_are_not_taken_off_and_it_is_said_so(db: Connection) -> None:
    create_fake_model(db)
    db.execute("SELECT embed.set_reuse('fake', true)")
    create_docs(db, "one", "one", "two")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table')")
    found = estimate(db, "docs_embedding")
    assert (found[0], found[4], found[5]) == (3, 2, None)
    assert "are not taken off" in found[6]


def test_where_a_hook_makes_the_texts_only_the_rows_are_told(db: Connection) -> None:
    create_fake_model(db)
    create_docs(db, "one", "two", None)
    db.execute("SELECT embed.price_model('fake', 1), embed.limit_model('fake', inputs_per_minute => 600)")
    db.execute("SELECT embed.create_vectorizer('docs', 'body', prepare => 'pdf')")
    *numbers, note = estimate(db, "docs_embedding")
    assert numbers == [2, None, None, None, None, None]
    assert note.startswith("the hook pdf makes the texts")


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "factor"), [(1, 1.1), (30, 2), (60_000, 1.1)])
def test_distinct_texts_of_a_large_table_are_estimated(db: Connection, repeats: int, factor: float) -> None:
    create_fake_model(db)
    create_docs(db)
    db.execute(
        "INSERT INTO docs SELECT n, NULL, repeat('x', 400) || hashint8(n %% %s)"
        " FROM generate_series(1, 60000) AS n",
        [60_000 // repeats],
    )
    texts = value(db, "SELECT texts FROM embed.estimate('docs', 'body')")
    # by a sample: of 200 estimates where a text stands 30 times, the farthest were 0.80 and 1.39 of the truth
    assert 60_000 / repeats / factor <= texts <= 60_000 / repeats * factor


@pytest.mark.slow
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_large_table_is_sampled(db: Connection, partitioned: bool) -> None:
    create_fake_model(db)
    suffix = "PARTITION BY RANGE (id)" if partitioned else ""
    db.execute(f"CREATE TABLE docs (id bigint PRIMARY KEY, body text) {suffix}")
    if partitioned:
        db.execute("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (10000)")
        db.execute("CREATE TABLE docs_2 PARTITION OF docs DEFAULT")
    db.execute("INSERT INTO docs SELECT n, repeat('x', 400 + n % 41) FROM generate_series(1, 60000) AS n")
    rows, tokens, *_ = db.execute("SELECT * FROM embed.estimate('docs', 'body')").fetchone() or ()
    assert rows == pytest.approx(60_000, rel=0.05)
    assert tokens == pytest.approx(60_000 * 420 / 4.2, rel=TENTH)


def test_an_owner_may_estimate_what_it_may_read(db: Connection, make_role: MakeRole) -> None:
    create_fake_model(db)
    create_docs(db, "one")
    role = make_role("embed_owner")
    db.execute(f'CREATE SCHEMA mine AUTHORIZATION "{role.name}"')
    with psycopg.connect(role.dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE mine.notes (id int PRIMARY KEY, body text)")
        owner.execute("INSERT INTO mine.notes VALUES (1, repeat('x', 42))")
        assert owner.execute("SELECT * FROM embed.estimate('mine.notes', 'body')").fetchone() == (
            1,
            10,
            None,
            None,
            1,
            None,
            None,
        )
        owner.execute("SELECT embed.create_vectorizer('mine.notes', 'body')")
        assert estimate(owner, "notes_embedding")[0] == 1
        assert refused(owner, "SELECT * FROM embed.estimate('docs', 'body')")[0] == "42501"
