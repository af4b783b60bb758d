"""Asking a database: one statement of `sql/queries/cli.sql`, and its rows by name."""

from __future__ import annotations

from typing import Any


def ask(dsn: str, statement: str, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of one statement, in a transaction of its own."""
    from psycopg.rows import dict_row

    from pg_embed import db, statements

    with db.connect(dsn, row_factory=dict_row) as connection, db.translated():
        cursor = connection.execute(statements.load("cli")[statement], parameters)
        return list(cursor.fetchall()) if cursor.description else []
