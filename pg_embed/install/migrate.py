"""Our Alembic history, run inside a connection that somebody else opened, with a version table of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from pg_embed.errors import InvalidArgument, VersionMismatch
from pg_embed.resources import migrations_dir

VERSION_TABLE = "_schema_version"
SCHEMA = "embed"


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(migrations_dir()))


def _options(steps: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA, "fn": steps}


def head() -> str:
    """The newest revision that this package knows."""
    return _script().get_current_head() or ""


def current(connection: sa.Connection) -> str | None:
    """The revision that a database is at; None when nothing is installed."""
    context = MigrationContext.configure(connection, opts=_options(lambda revision, context: []))
    return context.get_current_revision()


def is_known(revision: str) -> bool:
    """Whether this package has a revision; one that it has not is of a newer package."""
    return revision in {known.revision for known in _script().walk_revisions()}


def _check_known(connection: sa.Connection) -> None:
    """Refuse a database of a newer package: what is unknown here can be neither upgraded nor taken back."""
    revision = current(connection)
    if revision is not None and not is_known(revision):
        raise VersionMismatch(
            f"the database is at revision {revision} of a newer pg_embed; this one knows {head()} at most",
            hint="upgrade the package here, as in pip install --upgrade pg-embed; until then nothing of this"
            " version can install, upgrade or remove, but workers, embed() and searches go on while the"
            " database serves their version",
        )


def upgrade(connection: sa.Connection, target: str = "head") -> None:
    """Bring the schema to a revision."""
    _check_known(connection)
    script = _script()
    _run(connection, lambda revision, context: script._upgrade_revs(target, revision))


def downgrade(connection: sa.Connection, target: str = "base") -> None:
    """Take the schema back to a revision."""
    _check_known(connection)
    script = _script()
    _run(connection, lambda revision, context: script._downgrade_revs(target, revision))


@contextmanager
def _operations(context: MigrationContext) -> Iterator[None]:
    """Let `op` be ours for a while; in a migration of somebody else's it is theirs again afterwards."""
    theirs = getattr(op, "_proxy", None)
    try:
        with Operations.context(context):
            yield
    finally:
        if theirs is not None:
            theirs._install_proxy()


def _run(connection: sa.Connection, steps: Callable[[Any, Any], Any]) -> None:
    context = MigrationContext.configure(connection, opts=_options(steps))
    with _operations(context):
        context.run_migrations()


def upgrade_sql(start: str | None = None) -> str:
    """What `upgrade` sends to a database at a revision, or to an empty one, as text that psql runs."""
    if start is not None and not is_known(start):
        raise InvalidArgument(f"there is no revision {start!r}", hint=f"the newest is {head()}")
    script, text = _script(), io.StringIO()
    options = _options(lambda revision, context: script._upgrade_revs("head", revision))
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        opts={
            **options,
            "as_sql": True,
            "starting_rev": start,
            "output_buffer": text,
            "transactional_ddl": False,
        },
    )
    with _operations(context):
        context.run_migrations()
    return text.getvalue()
