import os

import psycopg
from pgvector import SparseVector
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pg_embed.sqlalchemy import embedded, search


class Base(DeclarativeBase): ...


class Article(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    embedding: Mapped[list[float] | None] = embedded("{title}\n{body}", model="all-MiniLM-L6-v2")
    words: Mapped[SparseVector | None] = embedded("{title}\n{body}", model="bm25", output="sparse")


engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(os.environ["PG_EMBED_DSN"]))
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Article(title="Returns", body="You may send anything back within thirty days."))
    session.add(Article(title="Tea", body="Pour the water while it boils."))
    session.commit()
    session.execute(text("SELECT embed.wait('articles')"))
    for article, score, *_ in session.execute(search(Article, "how do I get my money back?", k=2)):
        print(article.title, score)
