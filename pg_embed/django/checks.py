"""What `manage.py check --database` and `migrate` say of a server before anything fails on it."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections, router

from pg_embed import statements
from pg_embed.django.chunks import ChunkedField
from pg_embed.django.fields import TemplateField
from pg_embed.django.operations import APP
from pg_embed.models.presets import presets

SQL = statements.fragments("django")


def check_databases(app_configs: Any = None, databases: Any = None, **options: Any) -> list[CheckMessage]:
    """Look at each of the databases where models have vectors."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        fields = _fields(alias)
        if fields and connections[alias].vendor == "postgresql":
            found += _look(alias, fields)
    return found


def _fields(alias: str) -> list[TemplateField]:
    return [
        field
        for model in apps.get_models()
        if router.allow_migrate_model(alias, model)
        for field in model._meta.local_fields
        if isinstance(field, TemplateField)
    ]


def _look(alias: str, fields: list[TemplateField]) -> list[CheckMessage]:
    with connections[alias].cursor() as cursor:
        cursor.execute(SQL["server"])
        available, installed = cursor.fetchone()
        if not available:
            hint = "install pgvector there, as in: apt install postgresql-17-pgvector"
            told = f"the server of database {alias!r} has no extension vector"
            return [Error(told, hint=hint, id="pg_embed.E004")]
        if not installed:
            return _look_at_routers(alias)
        unknown = [
            (field, model) for field in fields for model in _models(field) if not _is_known(cursor, model)
        ]
    return [
        Warning(
            f"database {alias!r} has no model {model!r}",
            hint="add pg_embed.django.operations.CreateModel to a migration",
            obj=field,
            id="pg_embed.W001",
        )
        for field, model in unknown
    ]


def _look_at_routers(alias: str) -> list[CheckMessage]:
    """Whether a migration is about to install us."""
    if router.allow_migrate(alias, APP):
        return []
    hint = f"let allow_migrate() of your router answer True for app_label {APP!r} and this database"
    told = f"database {alias!r} has models with vectors, and a router keeps the app {APP!r} out of it"
    return [Error(told, hint=hint, id="pg_embed.E006")]


def _models(field: TemplateField) -> list[str | None]:
    return [field.embedding_model, field.sparse_model if isinstance(field, ChunkedField) else None]


def _is_known(cursor: Any, name: str | None) -> bool:
    if name is None or name in presets():
        return True
    cursor.execute(SQL["has_model"], [name])
    return bool(cursor.fetchone()[0])
