"""Tables of chunks through a worker: each row has those of its present text, only new ones are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pg_embed.errors import ModelUnavailable
from pg_embed.models.bm25 import load as load_bm25
from pg_embed.records import Embeddings, ModelSpec
from pg_embed.worker import splitting
from tests.fix_pg import MakeRole
from tests.fix_worker import (
    Connection,
    GatedFake,
    StartWorker,
    create_docs,
    create_fake_model,
    insert_docs,
    vector,
)
from tests.sql.helpers import value


class ContextualFake(GatedFake):
    """The fake model, with vectors of chunks that depend on their document."""

    def embed_chunks(self, documents: Sequence[Sequence[str]]) -> list[Embeddings]:
        """Each chunk behind all of them."""
        return [
            self.embed(["|".join(chunks) + chunk for chunk in chunks], "document") for chunks in documents
        ]


def text(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs)


def long_text(count: int = 200) -> list[str]:
    return [f"Sentence number {number:04} of the text." for number in range(count)]


def chunk_docs(db: Connection, **model: Any) -> None:
    create_fake_model(db, **model)
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', storage => 'table', max_attempts => 3,"
        """ chunking => '{"size": 12}')"""
    )


@pytest.fixture
def docs(db: Connection) -> Connection:
    """`docs`, empty, with a table of chunks."""
    chunk_docs(db)
    return db


def chunks(db: Connection, key: int = 1) -> list[tuple[int, str]]:
    return db.execute(
        "SELECT chunk_no, chunk FROM docs_embedding WHERE id = %s ORDER BY chunk_no", [key]
    ).fetchall()


def ids(db: Connection, key: int = 1) -> dict[str, int]:
    return dict(db.execute("SELECT chunk, chunk_id FROM docs_embedding WHERE id = %s", [key]).fetchall())


def wrong(db: Connection) -> list[Any]:
    """Chunks whose vector is not that of their text, numbers with gaps, chunks of no row."""
    found = db.execute(
        "SELECT id, chunk_no, context || chunk, embedding::text FROM docs_embedding"
    ).fetchall()
    bad = [row for row in found if not _same(db, row[3], vector(row[2]))]
    gaps = db.execute(
        "SELECT id FROM docs_embedding GROUP BY id HAVING max(chunk_no) <> count(*) OR min(chunk_no) <> 1"
        " UNION ALL SELECT id FROM docs_embedding WHERE id NOT IN (SELECT id FROM docs)"
    ).fetchall()
    return [*bad, *gaps]


def _same(db: Connection, found: str, expected: str) -> bool:
    return bool(value(db, "SELECT %s::halfvec = %s::halfvec", found, expected))


def test_each_row_has_the_chunks_of_its_text(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    insert_docs(docs, text(*long_text(30)), "short", None, "", "  \n ")
    docs.execute("SELECT embed.wait('docs')")
    assert len(chunks(docs)) > 10
    assert [chunk for _, chunk in chunks(docs, 2)] == ["short"]
    assert chunks(docs, 3) == []
    assert chunks(docs, 4) == [(1, "")]
    assert len(chunks(docs, 5)) == 1
    assert wrong(docs) == []
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0


def test_a_changed_sentence_of_a_long_text_embeds_no_more_than_three_chunks(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    sentences = long_text()
    insert_docs(docs, text(*sentences))
    docs.execute("SELECT embed.wait('docs')")
    before, made = ids(docs), len(model.texts)
    assert made >= 200
    sentences[77] = "Something else stands here."
    docs.execute("UPDATE docs SET body = %s", [text(*sentences)])
    docs.execute("SELECT embed.wait('docs')")
    assert 1 <= len(model.texts) - made <= 3
    after = ids(docs)
    same = before.keys() & after.keys()
    assert len(same) >= 197
    assert {chunk: before[chunk] for chunk in same} == {chunk: after[chunk] for chunk in same}
    assert wrong(docs) == []


def test_chunks_that_move_keep_their_ids_and_get_other_numbers(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    sentences = long_text(20)
    insert_docs(docs, text(*sentences))
    docs.execute("SELECT embed.wait('docs')")
    before, made = ids(docs), len(model.texts)
    docs.execute("UPDATE docs SET body = %s", [text("A sentence that stands at the very start.", *sentences)])
    docs.execute("SELECT embed.wait('docs')")
    assert len(model.texts) - made <= 2
    assert len(before.items() & ids(docs).items()) >= 19
    docs.execute("UPDATE docs SET body = %s", [text(*reversed(sentences))])
    docs.execute("SELECT embed.wait('docs')")
    assert wrong(docs) == []
    assert value(docs, "SELECT count(DISTINCT chunk_no) FROM docs_embedding") == len(chunks(docs))


def test_equal_chunks_are_embedded_once(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake()
    start_worker(dsn, model)
    docs.execute("SELECT embed.wait('docs')")  # or rows come from the backfill, too
    insert_docs(docs, text(*["The same paragraph, word for word."] * 6), "The same paragraph, word for word.")
    docs.execute("SELECT embed.wait('docs')")
    assert len(chunks(docs)) == 6
    assert model.texts == ["The same paragraph, word for word."]
    docs.execute("UPDATE docs SET body = body || E'\\n\\nAnother one, quite different.' WHERE id = 1")
    docs.execute("SELECT embed.wait('docs')")
    assert model.texts[1:] == ["Another one, quite different."]
    assert wrong(docs) == []


def test_chunks_go_with_their_row_or_its_text(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    insert_docs(docs, *(text(*long_text(5)) for _ in range(6)))
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("DELETE FROM docs WHERE id IN (1, 2)")
    docs.execute("UPDATE docs SET body = NULL WHERE id = 3")
    docs.execute("UPDATE docs SET id = 40 WHERE id = 4")
    docs.execute("SELECT embed.wait('docs')")
    assert [len(chunks(docs, key)) > 0 for key in (1, 2, 3, 4, 5, 6, 40)] == [False] * 4 + [True] * 3
    assert wrong(docs) == []
    docs.execute("TRUNCATE docs")
    insert_docs(docs, "one more")
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT id, chunk FROM docs_embedding").fetchall() == [(1, "one more")]


def test_partitions_that_go_take_their_chunks_along(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    db.execute(
        "CREATE TABLE parts (id int, day int, body text, PRIMARY KEY (day, id)) PARTITION BY LIST (day)"
    )
    for day in (1, 2, 3):
        db.execute(f"CREATE TABLE parts_{day} PARTITION OF parts FOR VALUES IN ({day})")
    db.execute("SELECT embed.create_vectorizer('parts', 'body', storage => 'table')")
    db.execute(
        "INSERT INTO parts SELECT i, d, 'row ' || i FROM generate_series(1, 5) AS i,"
        " generate_series(1, 3) AS d"
    )
    start_worker(dsn)
    db.execute("SELECT embed.wait('parts')")
    db.execute("DELETE FROM parts WHERE id = 1 AND day = 1")
    db.execute("UPDATE parts SET day = 3, id = 9 WHERE id = 2 AND day = 1")
    db.execute("TRUNCATE parts_2")
    db.execute("SELECT embed.wait('parts')")
    by_day = "SELECT day, count(*) FROM parts_embedding GROUP BY day ORDER BY day"
    assert db.execute(by_day).fetchall() == [(1, 3), (3, 6)]
    db.execute("ALTER TABLE parts DETACH PARTITION parts_3")
    db.execute("SELECT embed.wait('parts')")
    assert db.execute(by_day).fetchall() == [(1, 3)]
    db.execute("ALTER TABLE parts ATTACH PARTITION parts_3 FOR VALUES IN (3)")
    db.execute("SELECT embed.wait('parts')")
    assert db.execute(by_day).fetchall() == [(1, 3), (3, 6)]


def test_one_rejected_chunk_makes_its_row_dead_and_no_other(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn, GatedFake(fail_on="poison"))
    insert_docs(docs, text(*long_text(9)), text(*long_text(4), "Here is some poison.", *long_text(3)), "good")
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT key, code FROM embed.failures").fetchall() == [("2", "PE021")]
    assert "chunk " in value(docs, "SELECT error FROM embed.failures")
    assert [len(chunks(docs, key)) > 0 for key in (1, 2, 3)] == [True, False, True]
    assert wrong(docs) == []
    docs.execute("UPDATE docs SET body = 'cured' WHERE id = 2")
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0
    assert chunks(docs, 2) == [(1, "cured")]


def test_a_failed_row_is_sent_again_by_retry(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(fail_on="poison")
    model.refuse = lambda texts: ModelUnavailable("down") if any("down" in text for text in texts) else None
    start_worker(dsn, model)
    insert_docs(docs, "down for now")
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT key, attempts FROM embed.failures").fetchall() == [("1", 3)]
    model.refuse = lambda texts: None
    assert value(docs, "SELECT embed.retry('docs')") == 1
    docs.execute("SELECT embed.wait('docs')")
    assert value(docs, "SELECT count(*) FROM embed.failures") == 0
    assert chunks(docs) == [(1, "down for now")]


def test_rows_that_were_there_are_filled_in_behind_and_a_second_backfill_finds_nothing(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db)
    create_docs(db, *(text(*long_text(number % 7 + 1)) for number in range(300)), None)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table')")
    model = GatedFake()
    start_worker(dsn, model)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(DISTINCT id) FROM docs_embedding") == 300
    db.execute("DELETE FROM docs_embedding WHERE id IN (5, 6)")
    calls = len(model.calls)
    db.execute("SELECT embed.backfill('docs')")
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(DISTINCT id) FROM docs_embedding") == 300
    assert len(model.calls) - calls == 1
    assert wrong(db) == []


def test_a_change_while_the_model_works_wins(docs: Connection, dsn: str, start_worker: StartWorker) -> None:
    model = GatedFake(shut=True)
    start_worker(dsn, model)
    insert_docs(docs, "old", "to be deleted", "to get another key")
    call = model.next_call()
    docs.execute("UPDATE docs SET body = 'new' WHERE id = 1")
    docs.execute("DELETE FROM docs WHERE id = 2")
    docs.execute("UPDATE docs SET id = 4 WHERE id = 3")
    call.go()
    model.open()
    docs.execute("SELECT embed.wait('docs')")
    found = docs.execute("SELECT id, chunk FROM docs_embedding ORDER BY id").fetchall()
    assert found == [(1, "new"), (4, "to get another key")]


def test_a_late_result_neither_replaces_a_newer_one_nor_brings_back_a_deleted_row(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    late = GatedFake(shut=True)
    first = start_worker(dsn, late, live_slots=1)
    one, two, three = long_text(3)
    insert_docs(docs, text(one, two), "deleted")
    call = late.next_call()
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [text(two, three)])
    docs.execute("DELETE FROM docs WHERE id = 2")
    start_worker(dsn, GatedFake())
    while value(docs, "SELECT count(*) FROM docs_embedding WHERE chunk = %s", three) == 0:
        pass
    call.go()
    late.open()
    docs.execute("SELECT embed.wait('docs')")
    first.stop()
    assert docs.execute("SELECT id, chunk FROM docs_embedding ORDER BY 1, chunk_no").fetchall() == [
        (1, two),
        (1, three),
    ]


def test_an_id_that_is_given_to_another_row_s_chunk_is_not_kept(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    one, two, three = long_text(3)
    model = GatedFake()
    worker = start_worker(dsn, model)
    insert_docs(docs, text(one, two), "other")
    docs.execute("SELECT embed.wait('docs')")
    worker.stop()
    late = GatedFake(shut=True)
    start_worker(dsn, late)
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [text(two, three)])
    call = late.next_call()
    kept = ids(docs)[two]
    docs.execute("DELETE FROM docs_embedding WHERE chunk_id = %s", [kept])  # a server lost it in a crash
    columns = "id, chunk_no, chunk, context, chunk_hash, embedding"
    docs.execute(
        "WITH moved AS (DELETE FROM docs_embedding WHERE id = 2 RETURNING *)"
        f" INSERT INTO docs_embedding (chunk_id, {columns}) OVERRIDING SYSTEM VALUE"
        f" SELECT %s, {columns} FROM moved",
        [kept],
    )
    call.go()
    late.open()
    docs.execute("SELECT embed.wait('docs')")
    assert (chunks(docs, 1), chunks(docs, 2)) == ([(1, two), (2, three)], [(1, "other")])
    assert wrong(docs) == []


def test_long_texts_are_read_and_written_some_at_a_time(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = GatedFake()
    start_worker(dsn, model, batch_characters=1000)
    insert_docs(docs, *(text(*(f"{number}: {part}" for part in long_text(10))) for number in range(12)))
    docs.execute("SELECT embed.wait('docs')")
    assert max(len(call.texts) for call in model.calls) <= 30
    assert value(docs, "SELECT count(DISTINCT id) FROM docs_embedding") == 12
    assert value(docs, "SELECT count(*) FROM embed._queue") == 0
    assert wrong(docs) == []


def test_a_trigger_on_the_table_of_the_chunks_keeps_out_one_row_only(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    docs.execute("ALTER TABLE docs_embedding ADD CHECK (chunk <> 'forbidden')")
    start_worker(dsn)
    insert_docs(docs, "allowed", "forbidden", text("allowed", "too"))
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT key, code FROM embed.failures").fetchall() == [("2", "23514")]
    assert [len(chunks(docs, key)) for key in (1, 2, 3)] == [1, 0, 1]


def test_a_worker_with_nothing_but_its_role_keeps_chunks(
    docs: Connection, dsn: str, make_role: MakeRole, start_worker: StartWorker
) -> None:
    role = make_role("embed_worker")
    start_worker(role.dsn)
    insert_docs(docs, text(*long_text(5)), "gone")
    docs.execute("DELETE FROM docs WHERE id = 2")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("UPDATE docs SET body = E'first\\n\\n' || body")
    docs.execute("SELECT embed.wait('docs')")
    docs.execute("SELECT embed.backfill('docs')")
    docs.execute("SELECT embed.wait('docs')")
    assert wrong(docs) == []
    assert chunks(docs)[0][1].startswith("first")
    docs.execute("TRUNCATE docs")
    docs.execute("SELECT embed.wait('docs')")
    assert chunks(docs) == []
    with psycopg.connect(role.dsn, autocommit=True) as connection:
        for statement in (
            "UPDATE docs SET body = ''",
            "DELETE FROM docs",
            "UPDATE docs_embedding SET chunk = ''",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_row_level_security_on_the_source_stops_a_worker_rather_than_deleting_chunks(
    docs: Connection, dsn: str, make_role: MakeRole, start_worker: StartWorker
) -> None:
    start_worker.expected = "row-level security"
    first = start_worker(dsn)
    insert_docs(docs, "one", "two")
    docs.execute("SELECT embed.wait('docs')")
    first.stop()
    docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs.execute("UPDATE docs SET body = body || '!'")
    start_worker(make_role("embed_worker").dsn)
    while value(docs, "SELECT reason FROM embed.vectorizers") is None:
        pass
    assert "row-level security" in value(docs, "SELECT reason FROM embed.vectorizers")
    assert value(docs, "SELECT count(*) FROM docs_embedding") == 2


def test_a_model_that_reads_chunks_together_gets_whole_documents(
    docs: Connection, dsn: str, start_worker: StartWorker
) -> None:
    model = ContextualFake(fail_on="poison")
    start_worker(dsn, model)
    sentences = long_text(5)
    insert_docs(docs, text(*sentences), "alone", text("good", "poison"))
    docs.execute("SELECT embed.wait('docs')")
    assert docs.execute("SELECT key FROM embed.failures").fetchall() == [("3",)]
    before = ids(docs)
    vectors = "SELECT chunk, embedding::text FROM docs_embedding WHERE id = 1 ORDER BY chunk_no"
    first = docs.execute(vectors).fetchall()
    whole = "|".join(chunk for _, chunk in chunks(docs))
    assert all(_same(docs, found, vector(whole + chunk)) for chunk, found in first)
    sentences[2] = "Now it is another one."
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [text(*sentences)])
    docs.execute("SELECT embed.wait('docs')")
    whole = "|".join(chunk for _, chunk in chunks(docs))
    assert all(_same(docs, found, vector(whole + chunk)) for chunk, found in docs.execute(vectors).fetchall())
    after = ids(docs)
    assert {chunk: after[chunk] for chunk in before.keys() & after.keys()}.items() <= before.items()
    called = len(model.calls)
    docs.execute("SELECT embed.backfill('docs', 'all')")
    docs.execute("SELECT embed.wait('docs')")
    again = [text for call in model.calls[called:] for text in call.texts]
    assert all("poison" in text for text in again), "what has not changed is not embedded again"
    docs.execute("UPDATE docs SET body = %s WHERE id = 1", [text(*sentences[:3])])
    docs.execute("SELECT embed.wait('docs')")
    whole = "|".join(chunk for _, chunk in chunks(docs))
    assert all(_same(docs, found, vector(whole + chunk)) for chunk, found in docs.execute(vectors).fetchall())


def test_sparse_and_token_vectors_stand_beside_the_dense_ones(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_fake_model(db, sparse_dimensions=1000, multi_dimensions=3)
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', storage => 'table', chunking => '{\"size\": 12}',"
        " sparse_column => 'words', multi_column => 'tokens')"
    )
    start_worker(dsn)
    insert_docs(db, text(*long_text(6)), "one two two", None, "to be deleted")
    db.execute("DELETE FROM docs WHERE id = 4")
    db.execute("SELECT embed.wait('docs')")
    outputs = "SELECT embedding::text, words::text, array_length(tokens, 1) FROM docs_embedding"
    _, words, tokens = db.execute(f"{outputs} WHERE id = 2").fetchall()[0]
    assert sorted(pair.split(":")[1] for pair in words.split("}")[0].strip("{").split(",")) == ["1", "2"]
    assert tokens == 3
    before = {row[0] for row in db.execute(outputs).fetchall()}
    db.execute("UPDATE docs SET body = body || E'\\n\\nA seventh sentence is new.' WHERE id = 1")
    db.execute("SELECT embed.wait('docs')")
    after = db.execute(outputs).fetchall()
    assert before <= {row[0] for row in after}
    assert all(None not in row for row in after)
    assert wrong(db) == []


def create_words(db: Connection) -> None:
    """A model of family bm25."""
    options = {"language": "english"}
    card = load_bm25(ModelSpec("words", "bm25", options)).card.as_dict()
    db.execute("SELECT embed.create_model('words', 'bm25', %s, card => %s)", [Jsonb(options), Jsonb(card)])


@pytest.mark.parametrize("model", [GatedFake, ContextualFake], ids=["alone", "together"])
def test_a_second_model_may_make_the_sparse_vectors(
    db: Connection, dsn: str, start_worker: StartWorker, model: type[GatedFake]
) -> None:
    create_fake_model(db)
    create_words(db)
    create_docs(db)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'fake', sparse => 'words',"
        """ storage => 'table', chunking => '{"size": 12}')"""
    )
    start_worker(dsn, {"fake": model(fail_on="poison")})
    insert_docs(db, text(*long_text(4)), "cats and dogs", "poison")
    db.execute("SELECT embed.wait('docs')")
    assert db.execute("SELECT key FROM embed.failures").fetchall() == [("3",)]
    assert [len(chunks(db, key)) for key in (1, 2, 3)] == [4, 1, 0]
    assert value(db, "SELECT count(*) FROM docs_embedding WHERE num_nulls(embedding, sparse) > 0") == 0


def test_a_vectorizer_of_sparse_vectors_alone_has_chunks_too(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_words(db)
    create_docs(db, text(*long_text(4)), "cats and dogs")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'words', storage => 'table',"
        " column_name => 'words')"
    )
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM docs_embedding WHERE words IS NOT NULL") >= 2
    assert value(db, "SELECT count(*) FROM docs_embedding WHERE words IS NULL") == 0
    assert len(chunks(db, 2)) == 1
    number = value(db, "SELECT id FROM embed._vectorizer")
    posted = f"SELECT count(*) FROM embed._postings_{number} WHERE term = 0"
    assert value(db, posted) == value(db, "SELECT count(*) FROM docs_embedding")
    db.execute("DELETE FROM docs")
    db.execute("SELECT embed.wait('docs')")
    assert value(db, posted) == 0


def test_token_vectors_that_are_too_large_make_their_row_dead(
    db: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "LARGEST", 60)
    create_fake_model(db, multi_dimensions=3)
    create_docs(db)
    db.execute("SELECT embed.create_vectorizer('docs', 'body', storage => 'table', multi_column => 'tokens')")
    start_worker(dsn)
    insert_docs(db, text(*long_text(6)), "short")
    db.execute("SELECT embed.wait('docs')")
    assert db.execute("SELECT key FROM embed.failures").fetchall() == [("1",)]
    assert [len(chunks(db, key)) for key in (1, 2)] == [0, 1]


def create_unreadable(db: Connection) -> None:
    """`docs` with one row, on which the filter fails."""
    create_fake_model(db)
    db.execute("CREATE TABLE docs (id integer PRIMARY KEY, n integer, body text)")
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', storage => 'table', filter => '10 / n > 1',"
        " backfill => false)"
    )
    db.execute("INSERT INTO docs VALUES (1, 0, 'one')")


def test_a_text_that_cannot_be_read_is_not_listed_when_a_newer_one_is_embedded_meanwhile(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_unreadable(db)
    with psycopg.connect(dsn) as ours:
        ours.execute("SELECT embed._read_documents_v1(id, '{1}', 1000, 1) FROM embed._vectorizer")
        db.execute("UPDATE docs SET n = 2")
        start_worker(dsn)
        while not value(
            db,
            "SELECT EXISTS (SELECT FROM docs_embedding) OR EXISTS (SELECT FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = 1885695334 AND NOT granted)",
        ):
            pass
        ours.commit()
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM docs_embedding") == 1
    assert value(db, "SELECT count(*) FROM embed.failures") == 0


def test_a_text_that_cannot_be_read_is_not_listed_while_another_worker_writes_its_chunks(
    db: Connection, dsn: str, start_worker: StartWorker
) -> None:
    create_unreadable(db)
    read = "SELECT embed._read_documents_v1(id, '{1}', 1000, 1) FROM embed._vectorizer"
    with psycopg.connect(dsn) as other:
        other.execute(
            "SELECT pg_advisory_xact_lock(1885695334, v.id * 64 + (embed._hash('1') & 63)::integer)"
            " FROM embed._vectorizer AS v"
        )
        before = value(db, "SELECT count(*) FROM embed._queue")
        db.execute(read)
        assert value(db, "SELECT count(*) FROM embed.failures") == 0
        assert value(db, "SELECT count(*) FROM embed._queue") == before + 1
    db.execute(read)
    assert value(db, "SELECT count(*) FROM embed.failures") == 1
    start_worker(dsn)
    db.execute("UPDATE docs SET n = 2")
    db.execute("SELECT embed.wait('docs')")
    assert value(db, "SELECT count(*) FROM embed.failures") == 0
