"""pg_embed's own schema."""

from __future__ import annotations

from django.db import migrations

from pg_embed.django.operations import EmbedUpgrade


class Migration(migrations.Migration):
    """The installation, on which migrations that make columns of vectors depend."""

    operations = (EmbedUpgrade(),)
