"""Partitioned tables: rows by the parent, straight into partitions; partitions added, attached, moved to."""

from __future__ import annotations

import pytest

from tests.fix_worker import Connection, StartWorker, broken_rows, create_fake_model
from tests.sql.helpers import queued, refused, tend, value


@pytest.fixture
def parts(db: Connection) -> Connection:
    """`docs`, partitioned by region and within it by id, with a vectorizer."""
    create_fake_model(db)
    db.execute(
        "CREATE TABLE docs (id int, region text, body text, PRIMARY KEY (region, id))"
        " PARTITION BY LIST (region);"
        "CREATE TABLE docs_eu PARTITION OF docs FOR VALUES IN ('eu') PARTITION BY RANGE (id);"
        "CREATE TABLE docs_eu_1 PARTITION OF docs_eu FOR VALUES FROM (1) TO (100);"
        "CREATE TABLE docs_us PARTITION OF docs FOR VALUES IN ('us');"
        "INSERT INTO docs VALUES (1, 'eu', 'one'), (1, 'us', 'two')"
    )
    db.execute("SELECT embed.create_vectorizer('docs', 'body')")
    return db


def settled(db: Connection) -> int:
    """Wait, check the invariant, and say how many rows are embedded."""
    db.execute("SELECT embed.wait('docs')")
    key = "jsonb_build_array(region, id::text)::text"
    assert broken_rows(db, key=key) == []
    return int(value(db, "SELECT count(embedding) FROM docs"))


def test_rows_come_by_the_parent_and_straight_into_partitions(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    assert settled(parts) == 2
    parts.execute("INSERT INTO docs VALUES (2, 'eu', 'three')")
    parts.execute("INSERT INTO docs_eu VALUES (3, 'eu', 'four')")
    parts.execute(
        "INSERT INTO docs_eu_1 VALUES (4, 'eu', 'five'); INSERT INTO docs_us VALUES (5, 'us', 'six')"
    )
    with parts.cursor() as cursor, cursor.copy("COPY docs_us (id, region, body) FROM STDIN") as copy:
        copy.write_row((6, "us", "seven"))
    assert settled(parts) == 7
    parts.execute("UPDATE docs_eu_1 SET body = 'changed' WHERE id = 1; UPDATE docs SET body = body || '!'")
    assert settled(parts) == 7


def test_an_unrelated_change_in_a_partition_queues_nothing(parts: Connection) -> None:
    parts.execute("DELETE FROM embed._queue")
    parts.execute(
        "ALTER TABLE docs ADD COLUMN more int; UPDATE docs_us SET more = 1; UPDATE docs SET more = 2"
    )
    assert queued(parts) == []


def test_a_partition_added_later_is_covered(parts: Connection, dsn: str, start_worker: StartWorker) -> None:
    start_worker(dsn)
    parts.execute("CREATE TABLE docs_eu_2 PARTITION OF docs_eu FOR VALUES FROM (100) TO (200)")
    parts.execute("INSERT INTO docs VALUES (100, 'eu', 'by the parent')")
    parts.execute("INSERT INTO docs_eu_2 VALUES (101, 'eu', 'straight')")
    assert settled(parts) == 4


def test_a_partition_made_as_one_is_not_read_again(parts: Connection) -> None:
    parts.execute("DELETE FROM embed._backfill")
    parts.execute("CREATE TABLE docs_eu_2 PARTITION OF docs_eu FOR VALUES FROM (100) TO (200)")
    parts.execute("ALTER TABLE docs ADD COLUMN more int")
    parts.execute("VACUUM FREEZE docs_eu_2")
    parts.execute("SELECT embed._tend_v1()")
    assert value(parts, "SELECT count(*) FROM embed._backfill") == 0
    assert value(parts, "SELECT cardinality(partitions) FROM embed._vectorizer") == 3


def test_a_partition_attached_with_rows_is_filled(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    worker = start_worker(dsn)
    assert settled(parts) == 2
    worker.stop()
    parts.execute("CREATE TABLE docs_ap (LIKE docs INCLUDING ALL)")
    parts.execute("INSERT INTO docs_ap VALUES (1, 'ap', 'was there'), (2, 'ap', 'too')")
    parts.execute("ALTER TABLE docs ATTACH PARTITION docs_ap FOR VALUES IN ('ap')")
    parts.execute("UPDATE docs SET body = 'changed since' WHERE region = 'ap' AND id = 2")
    parts.execute("SELECT embed._tend_v1()")
    start_worker(dsn)
    assert settled(parts) == 4


def test_a_partition_that_changed_while_it_was_detached_is_renewed(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    worker = start_worker(dsn)
    assert settled(parts) == 2
    parts.execute("ALTER TABLE docs DETACH PARTITION docs_us")
    tend(parts)
    parts.execute("UPDATE docs_us SET body = 'changed while away'")
    parts.execute("ALTER TABLE docs ATTACH PARTITION docs_us FOR VALUES IN ('us')")
    worker.stop()
    parts.execute("SELECT embed._tend_v1()")
    start_worker(dsn)
    assert settled(parts) == 2


def test_a_row_that_moves_to_another_partition_is_embedded_there(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    start_worker(dsn)
    assert settled(parts) == 2
    parts.execute("UPDATE docs SET region = 'us', id = 9 WHERE region = 'eu'")
    assert settled(parts) == 2
    parts.execute("UPDATE docs SET region = 'eu', body = 'changed' WHERE id = 9")
    assert settled(parts) == 2


def test_a_dropped_partition_and_a_detached_one_leave_nothing_behind(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    parts.execute("ALTER TABLE docs DETACH PARTITION docs_us; DROP TABLE docs_eu")
    start_worker(dsn)
    assert settled(parts) == 0
    parts.execute("INSERT INTO docs_us (id, region, body) VALUES (7, 'us', 'on its own')")
    assert queued(parts) == []
    parts.execute("SELECT embed.drop_vectorizer('docs', drop_column => true)")


def test_a_renamed_key_of_a_partitioned_table_is_followed(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    parts.execute("ALTER TABLE docs RENAME id TO number")
    parts.execute("INSERT INTO docs VALUES (2, 'eu', 'three'); INSERT INTO docs_us VALUES (2, 'us', 'four')")
    start_worker(dsn)
    parts.execute("SELECT embed.wait('docs')")
    assert value(parts, "SELECT count(embedding) FROM docs") == 4


def test_a_partition_made_filled_and_attached_at_once_is_filled(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    with parts.transaction():
        parts.execute("CREATE TABLE docs_ap (LIKE docs INCLUDING ALL)")
        parts.execute("INSERT INTO docs_ap VALUES (1, 'ap', 'was there')")
        parts.execute("ALTER TABLE docs ATTACH PARTITION docs_ap FOR VALUES IN ('ap')")
    parts.execute("DELETE FROM embed._backfill")
    parts.execute("SELECT embed._tend_v1()")
    start_worker(dsn)
    assert settled(parts) == 3


def test_a_partition_that_was_away_between_two_looks_is_renewed(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    worker = start_worker(dsn)
    assert settled(parts) == 2
    worker.stop()
    parts.execute("ALTER TABLE docs DETACH PARTITION docs_us")
    parts.execute("UPDATE docs_us SET body = 'changed while away'")
    parts.execute("ALTER TABLE docs ATTACH PARTITION docs_us FOR VALUES IN ('us')")
    parts.execute("SELECT embed._tend_v1()")
    start_worker(dsn)
    assert settled(parts) == 2


def test_a_partition_that_nobody_has_noticed_yet_is_waited_for(
    parts: Connection, dsn: str, start_worker: StartWorker
) -> None:
    worker = start_worker(dsn)
    assert settled(parts) == 2
    worker.stop()
    parts.execute("CREATE TABLE docs_ap (LIKE docs INCLUDING ALL)")
    parts.execute("INSERT INTO docs_ap VALUES (1, 'ap', 'was there')")
    parts.execute("ALTER TABLE docs ATTACH PARTITION docs_ap FOR VALUES IN ('ap')")
    why = "SELECT state, explanation FROM embed.why('docs', '[\"%s\", \"1\"]')"
    state, explanation = parts.execute(why.replace("%s", "ap")).fetchall()[0]
    assert state == "pending"
    assert "its partition was attached a moment ago" in explanation
    assert parts.execute(why.replace("%s", "us")).fetchall()[0][0] == "embedded"
    assert refused(parts, "SELECT embed.wait('docs', '10 milliseconds')")[0] == "PE040"
    parts.execute("SELECT embed.pause('docs')")
    assert "paused by postgres" in refused(parts, "SELECT embed.wait('docs')")[1]
    parts.execute("SELECT embed.resume('docs')")
    start_worker(dsn)
    assert settled(parts) == 3


def test_triggers_made_anew_are_no_partitions_attached(parts: Connection) -> None:
    parts.execute("SELECT embed.alter_vectorizer('docs', template => '{body}!')")
    parts.execute("DELETE FROM embed._backfill")
    parts.execute("SELECT embed._tend_v1()")
    assert value(parts, "SELECT count(*) FROM embed._backfill") == 0
