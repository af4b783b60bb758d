import os

import psycopg
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, selectinload

from pg_embed.sqlalchemy import Chunk, chunk_class, chunked, embed, search_chunks


class Base(DeclarativeBase): ...


class Guide(Base):
    __tablename__ = "guides"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    chunks: Mapped[list[Chunk]] = chunked("{body}", model="all-MiniLM-L6-v2", chunking={"size": 16})


GuideChunk = chunk_class(Guide.chunks)
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(os.environ["PG_EMBED_DSN"]))
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Guide(body="Pour the water while it boils. " * 4 + "You may send anything back in a month."))
    session.commit()
    session.execute(text("SELECT embed.wait('guides')"))
    for guide, chunk, score, *_ in session.execute(search_chunks(Guide, "get my money back", k=3)):
        print(guide.id, chunk, score)
    guide = session.scalars(select(Guide).options(selectinload(Guide.chunks))).one()
    print([chunk.chunk_no for chunk in guide.chunks])
    near = GuideChunk.embedding.cosine_distance(embed("boiling tea"))
    print(session.scalars(select(GuideChunk).order_by(near).limit(1)).one().chunk)
