"""BGE-M3 by one vectorizer: its three columns have what the model gives, of one forward pass a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from pg_embed.models.bge_m3 import load
from pg_embed.models.transformer import TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName
from tests.fix_worker import Connection, StartWorker, create_docs
from tests.sql.helpers import value

TEXTS = [
    "How do I get my money back?",
    "You may send anything back within thirty days.",
    "a cat sat on the mat while the stock market fell",
]


def test_one_vectorizer_fills_three_columns_of_one_forward_pass(
    db: Connection,
    dsn: str,
    start_worker: StartWorker,
    checkpoint: ByName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"checkpoint": str(checkpoint("bge_m3")), "device": "cpu"}
    model = load(ModelSpec("m3", "bge_m3", options))
    card = Jsonb(model.card.as_dict())
    db.execute("SELECT embed.create_model('m3', 'bge_m3', %s, card => %s)", [Jsonb(options), card])
    create_docs(db, *TEXTS)
    db.execute(
        "SELECT embed.create_vectorizer('docs', 'body', model => 'm3', column_type => 'vector',"
        " sparse_column => 'words', multi_column => 'tokens')"
    )
    passes = []
    forward = TransformerEmbedder._forward

    def counted(self: TransformerEmbedder, *parts: Any) -> Any:
        passes.append(len(parts[0]))
        return forward(self, *parts)

    monkeypatch.setattr(TransformerEmbedder, "_forward", counted)
    start_worker(dsn)
    db.execute("SELECT embed.wait('docs', '60 seconds')")
    loaded = [count for count in passes if count == len(TEXTS)]
    assert len(loaded) == 1  # the others are single texts, tried when the model is loaded
    found = model.embed(TEXTS, "document")
    assert found.sparse is not None
    assert found.multi is not None
    for row in range(len(TEXTS)):
        dense, words, tokens = db.execute(
            "SELECT embedding::real[], words::text, tokens::text[] FROM docs WHERE id = %s", [row + 1]
        ).fetchone() or (None, None, None)
        assert np.allclose(dense, found.dense[row], atol=1e-6)
        indices, values = found.sparse.row(row)
        pairs, _, size = str(words).strip("{}").replace("}", "").rpartition("/")
        assert int(size) == model.card.size("sparse")
        stored = dict(pair.split(":") for pair in pairs.split(",") if pair)
        assert [int(index) - 1 for index in stored] == indices.tolist()
        assert np.allclose([float(weight) for weight in stored.values()], values, rtol=1e-5)
        halves = np.array([np.fromstring(token.strip("[]"), sep=",") for token in tokens])
        assert np.allclose(halves, found.multi.row(row), atol=1e-3)  # stored as halfvec
    # the authors' score of words that two texts share is pgvector's inner product
    weights = [dict(zip(*map(np.ndarray.tolist, found.sparse.row(row)), strict=True)) for row in (0, 1)]
    shared = sum(weight * weights[1].get(index, 0.0) for index, weight in weights[0].items())
    product = value(db, "SELECT -(a.words <#> b.words) FROM docs AS a, docs AS b WHERE a.id = 1 AND b.id = 2")
    assert product == pytest.approx(shared, rel=1e-5)
