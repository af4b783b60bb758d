"""What the tests of the SQL functions share: errors as a reader sees them, and what stands in the queue."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.fix_worker import Connection


def refused(db: Connection, statement: str, *parameters: Any) -> tuple[str, str, str]:
    """Run a statement that must fail: its SQLSTATE, message and hint."""
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement, parameters or None)
    diagnostic = caught.value.diag
    return str(diagnostic.sqlstate), str(diagnostic.message_primary), str(diagnostic.message_hint or "")


def queued(db: Connection, vectorizer: str = "docs_embedding", priority: int = 1) -> list[str]:
    """The keys in a vectorizer's queue, each as often as it stands there."""
    found = db.execute(
        "SELECT k FROM embed._queue AS q JOIN embed._vectorizer AS v ON v.id = q.vectorizer_id,"
        " unnest(coalesce(q.keys, q.ids::text[])) AS k WHERE v.name = %s AND q.priority ="
        " %s ORDER BY q.id, k",
        [vectorizer, priority],
    )
    return [row[0] for row in found.fetchall()]


def clear_queue(db: Connection) -> None:
    """Forget what waits, so that a test sees only what comes."""
    db.execute("DELETE FROM embed._queue")


def value(db: Connection, statement: str, *parameters: Any) -> Any:
    """The one value that a statement gives."""
    row = db.execute(statement, parameters or None).fetchone()
    assert row is not None
    return row[0]


def tend(db: Connection) -> None:
    """Look after tables and columns now, and not only where no worker is at it."""
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(1885695330, 3)")
        db.execute("SELECT embed._tend_v1()")
