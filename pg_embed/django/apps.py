"""pg_embed as an app of a Django project."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class PgEmbedConfig(AppConfig):
    """`"pg_embed.django"` in INSTALLED_APPS."""

    name = "pg_embed.django"
    label = "pg_embed"
    verbose_name = "pg_embed"

    def ready(self) -> None:
        """Let the commands that find changes of models find those of vectorizers."""
        from django.core.management.commands import makemigrations, migrate

        from pg_embed.django.autodetector import with_vectorizers
        from pg_embed.django.checks import check_databases

        checks.register(check_databases, checks.Tags.database)
        for command in (makemigrations.Command, migrate.Command):
            command.autodetector = with_vectorizers(command.autodetector)
