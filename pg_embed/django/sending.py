"""How SQL that needs no parameters goes through Django's schema editor, or is only told by it."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from pg_embed.install import install_by, installation_steps


def send(schema_editor: Any, statement: sql.Composable) -> None:
    """Neither Django's nor the driver's placeholders are looked for: the text reaches Postgres as it is."""
    schema_editor.execute(statement.as_string(None), params=None)


def install_in(schema_editor: Any) -> None:
    """Install or upgrade; `sqlmigrate` prints what psql runs."""
    if schema_editor.collect_sql:
        schema_editor.collected_sql.append(installation_steps())
        return

    def run(text: str) -> Any:
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(text, None)
            while cursor.nextset():
                pass
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    install_by(run)
