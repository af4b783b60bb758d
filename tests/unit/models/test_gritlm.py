"""The family "gritlm" against its authors' own class, and the ways in which it goes wrong silently."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pg_embed.errors import InputRejected
from pg_embed.models.gritlm import load
from pg_embed.models.transformer import WEB_SEARCH, TransformerEmbedder
from pg_embed.records import ModelSpec
from tests.fix_checkpoints import ByName, Change
from tests.fix_gritlm import Theirs
from tests.unit.models import reference
from tests.unit.models.reference import LONG, TEXTS

QUERY = f"<|user|>\n{WEB_SEARCH}\n<|embed|>\n"
DOCUMENT = "<|embed|>\n"


def model(folder: Any, **options: Any) -> TransformerEmbedder:
    return load(ModelSpec("tiny", "gritlm", {"checkpoint": str(folder), **options}))


def rows(folder: Any, header: str, texts: list[str]) -> tuple[list[list[int]], int]:
    """Token ids with the header, and how many are the header's."""
    return [reference.token_ids(folder, header + text) for text in texts], len(
        reference.token_ids(folder, header)
    )


def mean(folder: Any, header: str, texts: list[str], *, skip: int | None = None, both: bool = True) -> Any:
    ids, count = rows(folder, header, texts)
    states = [reference.states(folder, row, bidirectional=both) for row in ids]
    return reference.unit([row[count if skip is None else skip :].mean(dim=0).numpy() for row in states])


def test_the_authors_class_gives_the_same_vectors(checkpoint: ByName, theirs: Theirs) -> None:
    folder = checkpoint("gritlm")
    texts = [*TEXTS, LONG]
    queries, documents, short = theirs(
        folder,
        [
            {"texts": texts, "settings": {"instruction": QUERY}},
            {"texts": texts, "settings": {"instruction": DOCUMENT}},
            {"texts": [LONG], "settings": {"instruction": DOCUMENT, "max_length": 64}},
        ],
    )
    embedder = model(folder)
    for expected, kind in ((queries, "query"), (documents, "document")):
        dense = embedder.embed(texts, kind).dense  # type: ignore[arg-type]
        assert reference.same(np.concatenate([dense, dense]), expected)
    cut = model(folder, max_tokens=64, instruction="").embed([LONG], "document")
    assert reference.same(cut.dense, short[:1])
    assert cut.tokens == 64


def test_the_plain_algorithm_gives_the_same_vectors(checkpoint: ByName) -> None:
    folder = checkpoint("gritlm")
    embedder = model(folder)
    assert reference.same(embedder.embed(TEXTS, "query").dense, mean(folder, QUERY, TEXTS))
    assert reference.same(embedder.embed(TEXTS, "document").dense, mean(folder, DOCUMENT, TEXTS))
    assert embedder.embed(TEXTS, "query").tokens == sum(map(len, rows(folder, QUERY, TEXTS)[0]))


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"both": False}, id="tokens do not see later ones"),
        pytest.param({"skip": 0}, id="the header is pooled"),
        pytest.param({"skip": 1}, id="only <s> is not pooled"),
    ],
)
def test_a_mistake_would_give_other_vectors(checkpoint: ByName, mistake: dict[str, Any]) -> None:
    folder = checkpoint("gritlm")
    ours = model(folder).embed(TEXTS, "query").dense
    assert reference.different(ours, mean(folder, QUERY, TEXTS, **mistake))


def test_no_end_token_is_added(checkpoint: ByName) -> None:
    folder = checkpoint("gritlm")
    ids, _ = rows(folder, DOCUMENT, ["a cat"])
    assert model(folder).embed(["a cat"], "document").tokens == len(ids[0])
    assert ids[0][0] == 1
    assert ids[0][-1] != 2


def test_a_window_in_the_configuration_hides_nothing(checkpoint: ByName, changed: Change) -> None:
    plain, windowed = model(checkpoint("gritlm")), model(changed("gritlm", config={"sliding_window": 4}))
    assert reference.same(windowed.embed(TEXTS, "query").dense, plain.embed(TEXTS, "query").dense)
    assert windowed.card.space_id == plain.card.space_id


def test_without_a_task_queries_are_as_documents(checkpoint: ByName) -> None:
    embedder = model(checkpoint("gritlm"), instruction="")
    assert np.array_equal(embedder.embed(TEXTS, "query").dense, embedder.embed(TEXTS, "document").dense)


def test_an_empty_text_is_the_mean_of_its_header(checkpoint: ByName) -> None:
    folder = checkpoint("gritlm")
    dense = model(folder).embed(["", "a cat"], "document").dense
    assert reference.same(dense[:1], mean(folder, DOCUMENT, [""], skip=0))
    assert reference.same(dense[1:], mean(folder, DOCUMENT, ["a cat"]))


def test_a_header_that_the_tokenizer_joins_to_the_text_is_an_error(
    checkpoint: ByName, changed: Change
) -> None:
    tokens = json.loads((checkpoint("gritlm") / "tokenizer.json").read_text())["added_tokens"]
    joining = {**tokens[0], "id": 1_000, "content": "\nword", "special": False}
    embedder = model(changed("gritlm", tokenizer={"added_tokens": [*tokens, joining]}))
    with pytest.raises(InputRejected, match="joins"):
        embedder.embed(["word"], "document")
    assert np.isfinite(embedder.embed(["a word"], "document").dense).all()
