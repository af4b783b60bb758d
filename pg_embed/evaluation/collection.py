"""Collections with judged queries, read from folders in the form of BEIR (Thakur et al. 2021)."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pg_embed.errors import InvalidArgument

HINT = "a collection is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv, as BEIR publishes them"

Judged = Mapping[str, Mapping[str, int]]


class Document(NamedTuple):
    """A document; its title may be empty."""

    key: str
    title: str
    text: str


@dataclass(frozen=True)
class Collection:
    """Documents, the queries that somebody judged, and how relevant a document is to a query (0: not)."""

    name: str
    documents: Sequence[Document]
    queries: Mapping[str, str]
    judged: Judged

    @property
    def has_titles(self) -> bool:
        """Whether any document has a title."""
        return any(document.title for document in self.documents)

    @property
    def fingerprint(self) -> str:
        """Of the documents: equal ones need not be embedded again."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(json.dumps(document).encode())
        return digest.hexdigest()[:16]


def read_collection(folder: Path, split: str = "test") -> Collection:
    """The collection of a folder; its name is the folder's.

    The judgements of a split stand in qrels/SPLIT.tsv; those of test may stand in qrels.tsv.
    """
    if not folder.is_dir():
        raise InvalidArgument(f"there is no folder {folder}", hint=HINT)
    documents = list(_documents(folder / "corpus.jsonl"))
    texts = {key: text for key, _, text in _entries(folder / "queries.jsonl")}
    file = _judgements(folder, split)
    judged = _judged(file)
    if not documents or not judged:
        raise InvalidArgument(f"{folder} has no {'judgements' if documents else 'documents'}", hint=HINT)
    for key in judged:
        if key not in texts:
            raise InvalidArgument(f"{file} judges query {key!r}, which queries.jsonl does not have")
    return Collection(folder.resolve().name, documents, {key: texts[key] for key in judged}, judged)


def _documents(path: Path) -> Iterator[Document]:
    seen = set()
    for key, row, text in _entries(path):
        if key in seen:
            raise InvalidArgument(f"{path} has document {key!r} twice")
        seen.add(key)
        yield Document(key, _storable(row.get("title") or ""), text)


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each line's id, all of it, and its text."""
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            yield str(row["_id"]), row, _storable(row["text"])
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            told = f"has no {exc}" if isinstance(exc, KeyError) else f"is no JSON object with texts: {exc}"
            raise InvalidArgument(
                f"{path}, line {number} {told}", hint='as in {"_id": "1", "text": "..."}'
            ) from exc


def _storable(text: str) -> str:
    """Postgres has no character of the number 0."""
    return text.replace("\0", "").strip()


def _judgements(folder: Path, split: str) -> Path:
    file = folder / "qrels" / f"{split}.tsv"
    flat = folder / "qrels.tsv"
    if file.is_file() or split != "test" or not flat.is_file():
        return file
    return flat


def _judged(path: Path) -> Judged:
    judged: dict[str, dict[str, int]] = {}
    for number, row in enumerate(csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE), 1):
        if number == 1 and row and not row[-1].lstrip("-").isdigit():
            continue  # the head line
        try:
            query, document, score = row
            judged.setdefault(query, {})[document] = int(score)
        except ValueError as exc:
            hint = "a line is: the query's id, the document's id, a whole number, with tabs between them"
            raise InvalidArgument(f"{path}, line {number} is no judgement", hint=hint) from exc
    return judged


def _lines(path: Path) -> list[str]:
    try:
        # not splitlines: texts hold other characters that it takes for ends of lines
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError as exc:
        raise InvalidArgument(f"{path} is missing", hint=HINT) from exc
    except UnicodeDecodeError as exc:
        raise InvalidArgument(f"{path} is not valid UTF-8") from exc
