"""Terms of texts: languages, scripts without spaces, emoji, and what has no words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pg_embed.errors import InvalidArgument
from pg_embed.models.words import NUMBERS, Words, languages, term_number


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("english", "The Returns you were returning, returned!", ["return", "return", "return"]),
        ("english", "I don't know the company's 3.5% rate", ["don", "know", "compani", "3", "5", "rate"]),
        ("none", "The Returns snake_case e-mail", ["the", "returns", "snake", "case", "e", "mail"]),
        ("german", "Die Häuser der großen Straßen", ["haus", "gross", "strass"]),
        ("french", "L'économie des éléphants", ["économ", "éleph"]),
        ("russian", "Кошки и собаки", ["кошк", "собак"]),
        ("none", "ＦＵＬＬ ｗｉｄｔｈ ﬁne Ⅳ", ["full", "width", "fine", "iv"]),
        ("none", "e\u0301te\u0301 = été", ["été", "été"]),
        ("none", "hyphen\u00adated", ["hyphenated"]),
        ("none", "हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("english", "東京都に住む", ["東京", "京都", "都に", "に住", "住む"]),
        ("english", "我用Python3写代码", ["我用", "python3", "写代", "代码"]),
        ("english", "猫", ["猫"]),
        ("english", "ｶﾀｶﾅ", ["カタ", "タカ", "カナ"]),
        ("english", "한국어 검색", ["한국", "국어", "검색"]),
        ("english", "ภาษา", ["ภา", "าษ", "ษา"]),
        ("english", "hot 🌶️🌶️ soup", ["hot", "🌶", "🌶", "soup"]),
        ("english", "", []),
        ("english", " \t\n", []),
        ("english", "... --- !!!", []),
        ("english", "the of and", []),
        ("english", "\x00 \ud800 \ufffe", []),
    ],
)
def test_terms(language: str, text: str, terms: list[str]) -> None:
    assert Words(language).terms(text) == terms


def test_a_text_written_in_either_form_has_the_same_terms() -> None:
    words = Words("english")
    assert words.terms("Café İstanbul") == words.terms("CAFE\u0301 I\u0307stanbul")


def test_a_long_word_is_one_term_and_quick() -> None:
    word = "x" * 1_000_000
    assert Words("english").terms(f"{word} cats") == [word, "cat"]


def test_numbers_are_those_of_the_terms_on_every_machine() -> None:
    words = Words("english")
    text = "Returning cats 東京"
    assert words.numbers(text) == [term_number(term) for term in words.terms(text)]
    assert [term_number(term) for term in ("cat", "東京")] == [601_861_939, 353_289_198]
    assert all(0 <= term_number(str(n)) < NUMBERS for n in range(1_000))


def test_hardly_two_terms_share_a_number() -> None:
    assert len({term_number(f"term{n}") for n in range(100_000)}) > 99_980


@pytest.mark.parametrize("language", [language for language in languages() if language != "none"])
def test_every_language_stems_and_keeps_its_words(language: str) -> None:
    assert Words(language).terms("xyz 42")[-1] == "42"


def test_an_unknown_language_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Words("klingon")
    assert "english" in str(caught.value.hint)


def test_threads_may_share_it() -> None:
    words = Words("english")
    texts = [" ".join(f"running{n % 97}s houses{n * i % 89}ing" for n in range(200)) for i in range(40)]
    alone = [Words("english").numbers(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(words.numbers, texts)) == alone
