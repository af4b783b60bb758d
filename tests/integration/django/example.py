import os

import django
from django.conf import settings
from django.db import models
from psycopg.conninfo import conninfo_to_dict

from pg_embed.django import EmbeddedField, EmbeddedManager

database = conninfo_to_dict(os.environ["PG_EMBED_DSN"])
postgres = {"ENGINE": "django.db.backends.postgresql", "NAME": database.pop("dbname"), "OPTIONS": database}
settings.configure(INSTALLED_APPS=["pg_embed.django"], DATABASES={"default": postgres})
django.setup()


class Article(models.Model):
    title = models.TextField()
    body = models.TextField()
    embedding = EmbeddedField("{title}\n{body}", model="all-MiniLM-L6-v2")
    words = EmbeddedField("{title}\n{body}", model="bm25", output="sparse")
    objects = EmbeddedManager()

    class Meta:
        app_label = "shop"
        db_table = "articles"


for article in Article.objects.search("how do I get my money back?", k=2).filter(title__startswith="R"):
    print(article.title, article.score)
