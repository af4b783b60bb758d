"""Vectors that are kept for texts that come again: settings, bounds, rights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.fix_pg import MakeRole
from tests.fix_worker import Connection, create_fake_model
from tests.sql.helpers import refused, value

GIB = 1 << 30


@pytest.fixture
def model(db: Connection) -> Connection:
    """A model whose vectors are reused."""
    create_fake_model(db)
    db.execute("SELECT embed.set_reuse('fake', true)")
    return db


def remember(db: Connection, numbers: Sequence[int], dense: bytes | None = b"1234", **other: bytes) -> None:
    """Keep the same vectors under these keys."""
    arrays = [
        None if blob is None else [blob] * len(numbers)
        for blob in (dense, other.get("sparse"), other.get("multi"))
    ]
    db.execute(
        "SELECT embed._remember_v1('fake', %s, %s::bytea[], %s::bytea[], %s::bytea[])",
        [[UUID(int=number) for number in numbers], *arrays],
    )


def recall(db: Connection, numbers: Sequence[int], outputs: str = "dense", size: int = 4) -> list[Any]:
    return db.execute(
        "SELECT * FROM embed._recall_v1('fake', %s, string_to_array(%s, ','), ARRAY[%s]) ORDER BY place",
        [[UUID(int=number) for number in numbers], outputs, size],
    ).fetchall()


def stored(db: Connection) -> list[int]:
    """The keys that are there; their count and size are as counted."""
    rows = db.execute("SELECT key, size FROM embed._reuse ORDER BY key").fetchall()  # nobody works here
    counted = db.execute("SELECT rows, bytes FROM embed.reuse WHERE model = 'fake'").fetchone()
    assert counted in ((len(rows), sum(row[1] for row in rows)), None)
    return [row[0].int for row in rows]


def age(db: Connection, numbers: Sequence[int], days: int) -> None:
    db.execute(
        "UPDATE embed._reuse SET used_at = now() - make_interval(days => %s) WHERE key = ANY (%s)",
        [days, [UUID(int=number) for number in numbers]],
    )


def evict(db: Connection, at_most: int = 20_000) -> int:
    return int(value(db, "SELECT embed._evict_v1(%s)", at_most))


def settings(db: Connection, name: str) -> Any:
    return db.execute(
        "SELECT reuse, max_rows, max_bytes, extract(day FROM keep)::int FROM embed.reuse WHERE model = %s",
        [name],
    ).fetchone()


def test_models_of_providers_are_reused_and_others_not(db: Connection) -> None:
    create_fake_model(db)
    card = {"dimensions": 8, "metric": "cosine", "space_id": "s", "paid": True}
    db.execute("SELECT embed.create_model('paid', 'openai', card => %s)", [Jsonb(card)])
    assert settings(db, "fake") == (False, None, GIB, 90)
    assert settings(db, "paid") == (True, None, GIB, 90)
    db.execute("SELECT embed.set_reuse(reuse => true, max_rows => 7)")
    assert settings(db, "fake") == (True, 7, GIB, 90)
    db.execute(
        "SELECT embed.set_reuse(reuse => false), embed.set_reuse('paid', max_bytes => 5, keep => '3 days')"
    )
    assert settings(db, "paid") == (False, None, 5, 3)
    db.execute("SELECT embed.set_reuse('paid', true), embed.set_reuse()")
    assert settings(db, "paid") == (True, None, GIB, 90)
    db.execute("SELECT embed.set_reuse('paid', false)")
    assert settings(db, "paid") == (False, None, GIB, 90)
    db.execute("SELECT embed.set_reuse('paid')")
    assert settings(db, "paid") == (True, None, GIB, 90)


@pytest.mark.parametrize("bound", ["max_rows => -1", "max_bytes => -1", "keep => '-1 day'"])
def test_a_bound_is_not_less_than_nothing(model: Connection, bound: str) -> None:
    assert refused(model, f"SELECT embed.set_reuse('fake', {bound})")[0] == "PE003"
    assert refused(model, f"SELECT embed.set_reuse({bound})")[0] == "PE003"


def test_a_model_that_is_not_there_has_no_settings(model: Connection) -> None:
    assert refused(model, "SELECT embed.set_reuse('nobody', true)")[0] == "PE001"


def test_what_is_remembered_is_recalled(model: Connection) -> None:
    remember(model, [1, 3])
    assert recall(model, [1, 2, 3]) == [(1, b"1234", None, None), (3, b"1234", None, None)]
    assert recall(model, [2]) == []
    assert recall(model, [1], size=8) == [], "rounded vectors are none of float32"
    assert recall(model, [1], "dense,sparse") == []
    assert recall(model, [1], "sparse") == []


def test_outputs_come_together_and_what_is_there_stays(model: Connection) -> None:
    remember(model, [1, 2])
    remember(model, [1], None, sparse=b"s")
    remember(model, [1, 2], b"12345678", sparse=b"t", multi=b"")
    remember(model, [1, 2], b"4321")
    assert recall(model, [1, 2], "dense,multi,sparse", 8) == [
        (1, b"12345678", b"s", b""),
        (2, b"12345678", b"t", b""),
    ]
    assert recall(model, [1], "sparse") == [(1, None, b"s", None)]
    assert stored(model) == [1, 2]


def test_a_model_that_is_not_reused_keeps_and_tells_nothing(model: Connection) -> None:
    remember(model, [1])
    model.execute("UPDATE embed._reuse_model SET reuse = false")
    remember(model, [2])
    assert recall(model, [1]) == []
    assert stored(model) == [1]
    assert evict(model) == 1
    assert stored(model) == []


def test_switching_all_off_forgets_those_without_settings_of_their_own(model: Connection) -> None:
    remember(model, [1])
    model.execute("SELECT embed.set_reuse(reuse => false)")
    assert stored(model) == [1]
    model.execute("SELECT embed.set_reuse('fake')")
    assert stored(model) == []


def test_the_longest_unused_go_first(model: Connection) -> None:
    remember(model, range(1, 11))
    age(model, [4], 9)
    age(model, [7], 8)
    age(model, [5, 6], 7)
    model.execute("SELECT embed.set_reuse('fake', true, max_rows => 8)")
    assert evict(model) == 2
    assert stored(model) == [1, 2, 3, 5, 6, 8, 9, 10]
    assert evict(model) == 0
    model.execute("SELECT embed.set_reuse('fake', true, max_bytes => 6 * 104)")
    assert evict(model, 1) == 1
    assert evict(model, 1) == 1
    assert evict(model, 1) == 0
    assert stored(model) == [1, 2, 3, 8, 9, 10]
    model.execute("SELECT embed.set_reuse('fake', true, max_rows => 0)")
    assert evict(model) == 6
    assert stored(model) == []


def test_what_nobody_used_for_long_goes(model: Connection) -> None:
    remember(model, [1, 2, 3])
    age(model, [2], 89)
    age(model, [3], 91)
    assert evict(model) == 1
    assert stored(model) == [1, 2]
    model.execute("SELECT embed.set_reuse('fake', true, keep => '30 days')")
    assert evict(model) == 1
    assert stored(model) == [1]


def test_a_use_is_noted_once_a_day(model: Connection) -> None:
    remember(model, [1, 2])
    age(model, [1], 2)
    before = "SELECT array_agg(xmin::text || used_at ORDER BY key) FROM embed._reuse"
    noted = value(model, before)
    recall(model, [1, 2])
    after = value(model, before)
    assert after[0] != noted[0]
    assert after[1] == noted[1], "a hit is no write"
    recall(model, [1, 2])
    assert value(model, before) == after
    assert value(model, "SELECT min(used_at) > now() - interval '1 minute' FROM embed._reuse")


def test_what_a_worker_holds_is_passed_over(model: Connection, dsn: str) -> None:
    remember(model, [1, 2])
    model.execute("UPDATE embed._reuse_model SET max_rows = 0")
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM embed._reuse WHERE key = %s FOR UPDATE", [UUID(int=1)])
        assert evict(model) == 1
    assert evict(model) == 1
    assert stored(model) == []


def test_a_model_that_goes_takes_its_vectors_along(model: Connection) -> None:
    create_fake_model(model, "other")
    remember(model, [1])
    model.execute("SELECT embed.drop_model('other')")
    assert stored(model) == [1]
    model.execute("SELECT embed.drop_model('fake')")
    assert stored(model) == []
    assert value(model, "SELECT count(*) FROM embed._reuse_total") == 0


def test_what_came_late_for_a_model_that_is_gone_is_evicted(model: Connection) -> None:
    remember(model, [1])
    model.execute("DELETE FROM embed._model")
    assert evict(model) == 1
    assert stored(model) == []


def test_reuse_is_counted_and_says_nothing_of_the_account(model: Connection) -> None:
    model.execute("SELECT embed._refuse_v1('fake', 'no money')")
    told = [
        {"model": "fake", "vectorizer": 5, "requests": 0, "inputs": 0, "bytes": 0, "tokens": 0, "reused": 9}
    ]
    model.execute("SELECT embed._use_v1(%s)", [Jsonb(told)])
    model.execute("SELECT embed._use_v1(%s)", [Jsonb(told)])
    assert value(model, "SELECT reused FROM embed.usage") == 18
    assert value(model, "SELECT reused FROM embed.reuse") == 18
    assert value(model, "SELECT refusal FROM embed.limits") == "no money"


@pytest.mark.parametrize("role", ["embed_reader", "embed_owner"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT embed.set_reuse('fake', true)",
        "SELECT * FROM embed.reuse",
        "SELECT * FROM embed._reuse",
        "SELECT * FROM embed._reuse_of",
        "SELECT salt FROM embed._reuse_all",
        "SELECT * FROM embed._reused_v1(1)",
        "SELECT * FROM embed._recall_v1('fake', '{}', '{dense}', '{4}')",
        "SELECT embed._remember_v1('fake', '{}', NULL, NULL, NULL)",
        "SELECT embed._forget_reused(1, 'infinity', 1)",
        "SELECT embed._evict_v1()",
    ],
)
def test_nobody_but_a_worker_can_ask(
    model: Connection, make_role: MakeRole, role: str, statement: str
) -> None:
    with psycopg.connect(make_role(role).dsn, autocommit=True) as connection:
        assert refused(connection, statement)[0] == "42501"


def test_a_worker_asks_by_functions_alone(model: Connection, make_role: MakeRole) -> None:
    with psycopg.connect(make_role("embed_worker").dsn, autocommit=True) as connection:
        remember(connection, [1])
        assert recall(connection, [1]) == [(1, b"1234", None, None)]
        assert evict(connection) == 0
        for table in ("_reuse", "_reuse_of", "_reuse_all", "_reuse_model", "_reuse_total", "reuse"):
            assert refused(connection, f"SELECT * FROM embed.{table}")[0] == "42501"
        assert refused(connection, "SELECT embed.set_reuse('fake', false)")[0] == "42501"


def test_each_owner_has_a_salt_of_its_own(model: Connection, make_role: MakeRole) -> None:
    salts = []
    for owner in (make_role().name, make_role().name):
        for table in ("a", "b"):
            name = f"{table}_{owner}"
            model.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, body text)")
            model.execute("SELECT embed.create_vectorizer(%s::regclass, 'body')", [name])
            model.execute(f"ALTER TABLE {name} OWNER TO {owner}")
            identity = value(model, "SELECT max(id) FROM embed._vectorizer")
            salts.append(model.execute("SELECT * FROM embed._reused_v1(%s)", [identity]).fetchall())
    (first, again, second, _) = salts
    assert first == again
    assert first != second
    assert [(name, len(salt)) for name, salt in first] == [("fake", 32)]
    assert value(model, "SELECT length(salt) FROM embed._reuse_all") == 32
