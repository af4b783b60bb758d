"""Splitting: nothing is lost, nothing is too long, and an edit changes little."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_embed.chunks import Chunk, Chunking, Counter, grammars, split, token_spans
from pg_embed.errors import MissingExtra

WORDS = "the a of river stone light house walks under seven green window paper cloud opens".split()  # noqa: SIM905
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " ", "\t", ". ", "# a\n", "```\n", "- ", "| a |\n"]
        ),
        st.sampled_from(
            [
                "word",
                "日本語の文です。",
                "👨‍👩‍👧",
                "🇩🇪",
                "e\u0301\u0302",
                "x" * 90,
                "def f():\n    return 1\n",
            ]
        ),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    ),
    max_size=60,
).map("".join)
CHUNKINGS = st.builds(
    lambda size, overlap, kind: Chunking(size, min(overlap, size - 1), *kind),
    st.integers(8, 60),
    st.integers(0, 20),
    st.sampled_from([("text",), ("markdown",), ("markdown", None, True), ("code", "python")]),
)
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def prose(draw: random.Random, characters: int) -> str:
    """Paragraphs of one to nine sentences."""
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < characters:
        paragraphs.append(" ".join(sentence(draw) for _ in range(draw.randint(1, 9))))
    return "\n\n".join(paragraphs)


def sentence(draw: random.Random) -> str:
    """Five to thirty words and a full stop."""
    return " ".join(draw.choices(WORDS, k=draw.randint(5, 30))).capitalize() + "."


def check(text: str, chunks: list[Chunk], size: int, count: Counter) -> None:
    """What holds of any split."""
    covered = set[int]()
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert count(chunk.input) <= size or len(chunk.text.strip()) == 1
        covered.update(range(chunk.start, chunk.end))
    assert not [at for at, sign in enumerate(text) if not sign.isspace() and at not in covered]
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)


@PATIENT
@given(text=TEXTS, chunking=CHUNKINGS)
def test_nothing_is_lost_and_nothing_too_long(
    text: str, chunking: Chunking, byte_counter: Counter, minilm_counter: Counter
) -> None:
    for count in (byte_counter, minilm_counter):
        chunks = split(text, chunking, count)
        check(text, chunks, chunking.size, count)
        assert split(text, chunking, count) == chunks


@pytest.mark.parametrize("text", ["", " ", "\n\r\n\t "])
@pytest.mark.parametrize("kind", [("text",), ("markdown", None, True), ("code", "python")])
def test_a_text_without_words_has_no_chunks(text: str, kind: tuple[str], byte_counter: Counter) -> None:
    assert split(text, Chunking(40, 0, *kind), byte_counter) == []  # type: ignore[arg-type]


def test_a_short_text_is_one_chunk(minilm_counter: Counter) -> None:
    text = "\n  One line. Another.\n\nThe end.\n"
    [chunk] = split(text, Chunking(), minilm_counter)
    assert chunk.text == text.strip("\n")


@pytest.mark.parametrize(
    "text", ["x" * 3000, "日本語" * 1000, "👨‍👩‍👧" * 300, "e" + "\u0301" * 2000, "1.2," * 700]
)
def test_what_has_no_boundary_is_cut_by_characters(text: str, byte_counter: Counter) -> None:
    chunks = split(text, Chunking(100), byte_counter)
    check(text, chunks, 100, byte_counter)
    assert len(chunks) < 2.5 * len(text.encode()) / 100


def test_chunks_of_prose_are_mostly_full_and_end_with_sentences(minilm_counter: Counter) -> None:
    text = prose(random.Random(1), 100_000)
    chunks = split(text, Chunking(200), minilm_counter)
    check(text, chunks, 200, minilm_counter)
    assert sum(minilm_counter.many([chunk.input for chunk in chunks])) / len(chunks) >= 0.6 * 200
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_tokens_that_begin_and_end_each_input_have_room(minilm_counter: Counter) -> None:
    text = prose(random.Random(2), 5_000)

    def count(text: str) -> int:
        return minilm_counter(text) + 2

    assert max(count(chunk.input) for chunk in split(text, Chunking(50, 10), count)) <= 50


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_an_edit_changes_few_chunks(seed: int, byte_counter: Counter) -> None:
    draw = random.Random(seed)
    paragraphs = prose(draw, 40_000).split("\n\n")
    before = {chunk.input for chunk in split("\n\n".join(paragraphs), Chunking(200), byte_counter)}
    changes = []
    for _ in range(4):
        row = draw.randrange(len(paragraphs))
        sentences = paragraphs[row].split(". ")
        sentences[draw.randrange(len(sentences))] = sentence(draw).rstrip(".")
        edited = [*paragraphs[:row], ". ".join(sentences), *paragraphs[row + 1 :]]
        after = split("\n\n".join(edited), Chunking(200), byte_counter)
        changes.append(sum(chunk.input not in before for chunk in after))
    assert len(before) >= 200
    assert max(changes) <= 12
    assert sorted(changes)[1] <= 3  # half of the edits, at the least


@pytest.mark.parametrize("seed", range(12))
def test_an_edit_of_a_sentence_makes_three_chunks_at_most(seed: int) -> None:
    draw, count = random.Random(seed), Counter(lambda texts: [(len(text) + 3) // 4 for text in texts])
    paragraphs = prose(draw, 80_000).split("\n\n")
    chunks = split("\n\n".join(paragraphs), Chunking(130), count)
    assert len(chunks) >= 200
    before = {chunk.input for chunk in chunks}
    for _ in range(8):
        row = draw.randrange(len(paragraphs))
        sentences = paragraphs[row].split(". ")
        sentences[draw.randrange(len(sentences))] = sentence(draw).rstrip(".")
        edited = [*paragraphs[:row], ". ".join(sentences), *paragraphs[row + 1 :]]
        after = split("\n\n".join(edited), Chunking(130), count)
        assert sum(chunk.input not in before for chunk in after) <= 3


def test_a_paragraph_in_front_moves_no_cut_far_behind(minilm_counter: Counter) -> None:
    text = prose(random.Random(3), 60_000)
    before = {chunk.input for chunk in split(text, Chunking(100), minilm_counter)}
    after = split("A new beginning stands here.\n\n" + text, Chunking(100), minilm_counter)
    assert sum(chunk.input not in before for chunk in after) <= 3


def test_overlap_repeats_up_to_so_many_tokens(minilm_counter: Counter) -> None:
    text = prose(random.Random(4), 20_000)
    chunks = split(text, Chunking(100, 20), minilm_counter)
    shared = [text[b.start : a.end] for a, b in pairwise(chunks)]
    counts = minilm_counter.many(shared)
    assert max(counts) <= 20
    assert sum(counts) / len(counts) > 8


def test_the_library_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, byte_counter: Counter
) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(MissingExtra, match="semantic_text_splitter") as caught:
        split("a text", Chunking(), byte_counter)
    assert "pg-embed[chunks]" in str(caught.value.hint)
    with pytest.raises(MissingExtra) as caught:
        grammars.grammar("go")
    assert "pg-embed[code]" in str(caught.value.hint)


def test_the_room_loads_no_library() -> None:
    names = "semantic_text_splitter|markdown_it|tree_sitter|tokenizers"
    program = f"import re, sys, pg_embed.chunks; print([m for m in sys.modules if re.match('{names}', m)])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spans_of_tokens_of_the_whole_document() -> None:
    offsets = [(0, 0), (0, 3), (4, 7), (7, 8), (10, 13), (0, 0)]  # "One two.  Six" between special tokens
    chunks = [Chunk("One two.", 0, 8), Chunk("Six", 10, 13), Chunk("", 20, 22)]
    assert token_spans(chunks, offsets) == [(1, 4), (4, 5), (0, 0)]
