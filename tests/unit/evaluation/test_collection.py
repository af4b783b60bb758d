"""Collections in their folders: what is read, and what is wrong with a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.evaluation import Document, read_collection

HEAD = "query-id\tcorpus-id\tscore\n"
DOCUMENTS = [{"_id": "d1", "title": "Cats", "text": " purr\u2028 "}, {"_id": "d2", "text": "dogs\0 bark"}]
QUERIES = [{"_id": "q1", "text": "purr?"}, {"_id": "q2", "text": "nobody judged this"}]
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small collection."""
    made = tmp_path / "pets"
    (made / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (made / f"{name}.jsonl").write_text(f"{text}\n", encoding="utf-8")
    (made / "qrels" / "test.tsv").write_text(f"{HEAD}q1\td1\t2\nq1\td2\t0\n", encoding="utf-8")
    return made


def test_a_folder_is_read(folder: Path) -> None:
    read = read_collection(folder)
    assert read.name == "pets"
    assert read.documents == [Document("d1", "Cats", "purr"), Document("d2", "", "dogs bark")]
    assert read.queries == {"q1": "purr?"}
    assert read.judged == {"q1": {"d1": 2, "d2": 0}}
    assert read.has_titles


def test_a_split_has_judgements_of_its_own(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("q2\td2\t1\n", encoding="utf-8")
    assert read_collection(folder, "dev").judged == {"q2": {"d2": 1}}


def test_test_judgements_may_lie_beside_the_texts(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert read_collection(folder).judged == {"q1": {"d1": 2, "d2": 0}}
    with pytest.raises(InvalidArgument, match=r"train\.tsv is missing"):
        read_collection(folder, "train")


def test_other_documents_have_another_fingerprint(folder: Path) -> None:
    before = read_collection(folder).fingerprint
    assert read_collection(folder).fingerprint == before
    (folder / "corpus.jsonl").write_text(json.dumps(DOCUMENTS[0]), encoding="utf-8")
    assert read_collection(folder).fingerprint != before


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (remove("corpus.jsonl"), r"corpus\.jsonl is missing"),
        (remove("qrels/test.tsv"), r"test\.tsv is missing"),
        (write("corpus.jsonl", ""), "has no documents"),
        (write("qrels/test.tsv", HEAD), "has no judgements"),
        (
            write("corpus.jsonl", '{"_id": "1", "text": "a"}\nno json'),
            r"corpus\.jsonl, line 2 is no JSON object",
        ),
        (write("corpus.jsonl", '{"_id": "1"}'), "line 1 has no 'text'"),
        (write("corpus.jsonl", '{"_id": "1", "text": null}'), "line 1 is no JSON object with texts"),
        (write("corpus.jsonl", '["a"]'), "line 1 is no JSON object"),
        (write("corpus.jsonl", '{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}'), "document '1' twice"),
        (write("qrels/test.tsv", f"{HEAD}q1 d1 1\n"), r"test\.tsv, line 2 is no judgement"),
        (write("qrels/test.tsv", f"{HEAD}q9\td1\t1\n"), "judges query 'q9'"),
    ],
)
def test_a_broken_folder_is_explained(folder: Path, change: Change, told: str) -> None:
    change(folder)
    with pytest.raises(InvalidArgument, match=told):
        read_collection(folder)


def test_a_folder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no folder") as raised:
        read_collection(tmp_path / "nowhere")
    assert "qrels/test.tsv" in str(raised.value.hint)
