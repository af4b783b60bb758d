"""A text as the terms that a keyword search knows it by, and a number for each term.

Unicode's compatibility form (NFKC), case folded; a word is a run of letters, digits and their marks. Words
are stemmed by Snowball, stop words left out. Scripts that set no space between words (Chinese, Japanese, Thai
and their like; Korean, whose particles hang on to the words) become pairs of neighbouring characters; a
character that stands alone is a term, and so is each emoji.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from hashlib import blake2b
from importlib import resources

from pg_embed.errors import InvalidArgument

NUMBERS = 1_000_000_000  # the dimensions that pgvector's sparsevec has at most
VERSION = 1  # of all that this file does to a text
LONGEST = 100  # letters of a word that is stemmed
REMEMBERED = 200_000  # words whose numbers are kept

UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd"  # Thai, Lao
    "\u1000-\u103f\u1050-\u109f\u1780-\u17d3"  # Burmese, Khmer
    "\u1100-\u11ff\ua960-\ua97c\uac00-\ud7ff"  # Hangul
    "\u3005-\u3007\u3021-\u3029\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"  # Han
)
EMOJI = "\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001f64f\U0001f680-\U0001faff"
# soft hyphens, joiners and variation selectors change how a text looks, not what it says
UNSEEN = str.maketrans("_", " ", "\u00ad\u200b\u200d\u2060\ufe0e\ufe0f\ufeff")  # a_name is two words

_ASCII = re.compile(r"[a-z0-9]+")
_PARTS = re.compile(f"([{UNSPACED}]+)|[^{UNSPACED}]+")


class Words:
    """The terms of texts in a language; safe to share between threads."""

    def __init__(self, language: str = "english") -> None:
        self._lock = threading.Lock()
        self._stem = _stemmer(language)
        self._stop = _stop_words(language)
        self._number = lru_cache(REMEMBERED)(self._number_of)

    def terms(self, text: str) -> list[str]:
        """The terms in the order of the text, each as often as it occurs."""
        return [term for word in _words(text) if (term := self._term(word))]

    def numbers(self, text: str) -> list[int]:
        """The number of each term, from 0 to before `NUMBERS`; in the order of the text."""
        return [number for word in _words(text) if (number := self._number(word)) >= 0]

    def _term(self, word: str) -> str:
        if word in self._stop:
            return ""
        if len(word) > LONGEST:
            return word
        with self._lock:  # a stemmer of Snowball holds the word in hand
            return self._stem(word)

    def _number_of(self, word: str) -> int:
        term = self._term(word)
        return term_number(term) if term else -1


def term_number(term: str) -> int:
    """A term's dimension: BLAKE2b of its UTF-8, 8 bytes, little end first, modulo 10^9.

    Of 160,000 terms about 13 share theirs with another.
    """
    digest = blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % NUMBERS


def languages() -> list[str]:
    """What a model can be told: Snowball's languages, and "none"."""
    import snowballstemmer

    return ["none", *sorted(snowballstemmer.algorithms())]


def _stemmer(language: str) -> Callable[[str], str]:
    if language == "none":
        return str
    if language not in languages():
        raise InvalidArgument(
            f"there is no stemmer for the language {language!r}", hint=f"languages: {', '.join(languages())}"
        )
    import snowballstemmer

    stem: Callable[[str], str] = snowballstemmer.stemmer(language).stemWord
    return stem


def _stop_words(language: str) -> frozenset[str]:
    """Those of the language, folded as texts are; none where no list is kept."""
    lists = json.loads(resources.files("pg_embed.models").joinpath("stop_words.json").read_text("utf-8"))
    return frozenset(_words(lists.get(language, "")))


def _words(text: str) -> Iterator[str]:
    """Folded words, pairs of characters, emoji."""
    if text.isascii():
        yield from _ASCII.findall(text.lower())
        return
    # folding may undo the composition
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for run in _runs().findall(folded.translate(UNSEEN)):
        for part in _PARTS.finditer(run):
            if part[1]:
                yield from _pairs(part[1])
            else:
                yield part[0]


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for place in range(len(run) - 1):
        yield run[place : place + 2]


@cache
def _runs() -> re.Pattern[str]:
    """Letters and digits with the marks that belong to them, which \\w leaves out; or one emoji."""
    return re.compile(rf"[\w{_marks()}]+|[{EMOJI}]")


def _marks() -> str:
    """Combining characters, as ranges of a regular expression."""
    marks = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"}
    firsts = sorted(mark for mark in marks if mark - 1 not in marks)
    ends = sorted(mark for mark in marks if mark + 1 not in marks)
    return "".join(f"{chr(first)}-{chr(end)}" for first, end in zip(firsts, ends, strict=True))
