import os

import django
from django.conf import settings
from django.db import models
from psycopg.conninfo import conninfo_to_dict

from pg_embed.django import ChunkedField, CosineDistance, Embed, EmbeddedManager

database = conninfo_to_dict(os.environ["PG_EMBED_DSN"])
postgres = {"ENGINE": "django.db.backends.postgresql", "NAME": database.pop("dbname"), "OPTIONS": database}
settings.configure(INSTALLED_APPS=["pg_embed.django"], DATABASES={"default": postgres})
django.setup()


class Guide(models.Model):
    body = models.TextField()
    chunks = ChunkedField("{body}", model="all-MiniLM-L6-v2", chunking={"size": 16})
    objects = EmbeddedManager()

    class Meta:
        app_label = "shop"
        db_table = "guides"


for guide in Guide.objects.search_chunks("get my money back", k=3):
    print(guide.pk, guide.chunk, guide.score)
guide = Guide.objects.prefetch_related("chunks").get()
print([chunk.chunk_no for chunk in guide.chunks.all()])
near = CosineDistance("embedding", Embed("boiling tea"))
print(Guide.chunks.model.objects.order_by(near)[0].chunk)
