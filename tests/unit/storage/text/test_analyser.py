"""The analyser: the same terms for texts and queries, in every script, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell.errors import InvalidSetting
from llmspell.storage.text.analyser import TERM_MAX_BYTES, Analyser, languages

ENGLISH = Analyser()
EXACT = Analyser("none")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Don’t panic at ten o'clock", ["don't", "panic", "at", "ten", "o'clock"]),
        ("'quoted' rock 'n' roll'", ["quoted", "rock", "n", "roll"]),
        ("user_id e-mail a/b ada@example.com", ["user", "id", "e", "mail", "a", "b", "ada", "example", "com"]),
        ("1,000,000 12,345 1,2,3", ["1000000", "12345", "1", "2", "3"]),
        ("$3.50 v1.2.3 10.0.0.1 ends.", ["3.50", "v1.2.3", "10.0.0.1", "ends"]),
        ("C++ and C# but not f#4", ["c++", "and", "c#", "but", "not", "f", "4"]),
        ("2026-05-01 at 9:30pm", ["2026", "05", "01", "at", "9", "30pm"]),
        ("... !?", []),
        ("", []),
    ],
)
def test_words_and_numbers_are_cut_where_a_reader_would(text: str, terms: list[str]) -> None:
    assert EXACT.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ＡＢＣ１２", "abc12"),
        ("STRASSE", "straße"),
        ("Zürich", "zurich"),
        ("Zu\u0308rich", "Zürich"),
        ("soft\u00adhyphen", "softhyphen"),
        ("ﬁre", "fire"),
        ("٢٠٢٣", "2023"),
        ("१२", "12"),
        ("👍🏽", "👍"),
        ("❤️", "❤"),
        ("1️⃣", "1"),
        ("كتا\u200dب", "كتاب"),
        ("가", "가"),
    ],
)
def test_ways_to_write_the_same_word_give_the_same_term(text: str, same: str) -> None:
    assert ENGLISH.terms(text) == ENGLISH.terms(same) != []


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("東京に行く", ["東", "東京", "京", "京に", "に行", "行", "行く"]),
        ("猫", ["猫"]),
        ("カタカナー", ["カタ", "タカ", "カナ", "ナー"]),
        ("서울에 갔다", ["서울", "울에", "갔다"]),
        ("ไทยง่าย", ["ไท", "ทย", "ยง่", "ง่า", "าย"]),
        ("ខ្មែរ", ["ខ្មែរ"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("ພາສາ", ["ພາ", "າສ", "ສາ"]),
        ("2023年5月", ["2023", "年", "5", "月"]),
        ("Python是語言", ["python", "是", "是語", "語", "語言", "言"]),
    ],
)
def test_scripts_without_spaces_become_pairs_of_characters(text: str, terms: list[str]) -> None:
    assert EXACT.terms(text) == [unicodedata.normalize("NFKC", term) for term in terms]


@pytest.mark.parametrize("part", ["東京", "京", "行く", "に行"])
def test_a_part_of_a_text_without_spaces_is_found_by_that_part(part: str) -> None:
    assert set(ENGLISH.terms(part)) <= set(ENGLISH.terms("昨日は東京に行く人が多い"))


def test_marks_stay_with_their_letters() -> None:
    assert EXACT.terms("हिन्दी में लिखना, мі́сто") == ["हिन्दी", "में", "लिखना", "мі́сто"]


def test_pictographs_and_flags_are_terms() -> None:
    assert ENGLISH.terms("so happy 🎉🎉 in 🇨🇭🇩🇪") == ["so", "happi", "🎉", "🎉", "in", "🇨🇭", "🇩🇪"]


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("english", "Caroline's running quickly", ["carolin", "run", "quick"]),
        ("english", "moved moves moving move", ["move"] * 4),
        ("french", "L'homme mangeait", ["l", "homm", "mang"]),
        ("italian", "dell'acqua", ["dell", "acqua"]),
        ("german", "Häuser Haus", ["haus", "haus"]),
        ("turkish", "ISPARTA'da İstanbul", ["ıspar", "istanbul"]),
        ("turkish", "ISPARTA'da", ["ıspar"]),
        ("greek", "Ελλάδας ΕΛΛΆΔΑΣ", ["ελλαδ", "ελλαδ"]),
        ("russian", "книгами книга", ["книг", "книг"]),
        ("none", "running", ["running"]),
    ],
)
def test_stems_are_these_until_the_version_of_the_analyser_changes(language: str, text: str, terms: list[str]) -> None:
    assert Analyser(language).terms(text) == terms


@pytest.mark.parametrize("language", languages())
def test_every_known_language_analyses_text(language: str) -> None:
    assert len(Analyser(language).terms("Ada lives in Zürich since 2023")) == 6


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSetting, match=r"klingon.*english.*none"):
        Analyser("klingon")


def test_the_signature_names_version_and_language() -> None:
    assert Analyser("german").signature == "1:german"


def test_counts_are_the_terms_counted_in_order_of_first_occurrence() -> None:
    assert list(ENGLISH.counts("red fish, blue fish").items()) == [("red", 1), ("fish", 2), ("blue", 1)]


def test_a_query_drops_its_function_words() -> None:
    assert ENGLISH.query_counts("When did Caroline move to Zurich?") == {"carolin": 1, "move": 1, "zurich": 1}


def test_a_query_of_function_words_alone_keeps_them() -> None:
    assert list(ENGLISH.query_counts("Who is it?")) == ["who", "is", "it"]


def test_the_month_of_may_is_no_function_word() -> None:
    assert "may" in ENGLISH.query_counts("what happened in May?")


def test_a_language_without_a_list_keeps_all_words_of_a_query() -> None:
    assert EXACT.query_counts("who is Ada") == {"who": 1, "is": 1, "ada": 1}


def test_a_long_word_is_shortened_by_digest_and_stays_distinct() -> None:
    [first], [second] = ENGLISH.terms("x" * 5_000), ENGLISH.terms("x" * 5_001)

    assert first != second
    assert first.startswith("xxxx")
    assert max(len(first), len(second)) <= TERM_MAX_BYTES


def test_a_word_that_is_long_in_bytes_alone_is_cut_between_characters() -> None:
    [term] = Analyser("russian").terms("щ" * 40)

    assert len(term.encode()) <= TERM_MAX_BYTES
    assert term.startswith("щщ")


@given(st.text(max_size=200))
def test_every_text_has_clean_terms(text: str) -> None:
    for term in ENGLISH.terms(text):
        assert 0 < len(term.encode()) <= TERM_MAX_BYTES
        assert not any(character.isspace() for character in term)


@pytest.mark.parametrize("language", ["english", "french", "turkish", "none"])
@given(first=st.text(max_size=100), second=st.text(max_size=100) | st.text("aIiKe'1,. É", max_size=20))
def test_words_do_not_change_by_what_stands_beside_them(language: str, first: str, second: str) -> None:
    terms = Analyser(language).terms

    assert terms(f"{first}\n{second}") == terms(first) + terms(second)


def test_lone_surrogates_do_no_harm() -> None:
    assert EXACT.terms("ab\ud800cd é") == ["ab", "cd", "e"]


def test_threads_that_share_an_analyser_get_the_terms_of_one() -> None:
    words = [f"{stem}{ending}" for stem in _made_up_words(3_000) for ending in ("ing", "ations", "fulness")]
    parts = [" ".join(words[start::8]) for start in range(8)]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(Analyser("porter").terms, parts))
    finally:
        sys.setswitchinterval(switching)
    alone = _run_elsewhere("porter", parts, seed="0")
    assert together == alone


def test_terms_are_the_same_in_another_process() -> None:
    texts = ["Zürich’s cafés, 東京に行く 👍🏽", "word " + "y" * 300]
    assert _run_elsewhere("english", texts, seed="1") == _run_elsewhere("english", texts, seed="2")


def _made_up_words(count: int) -> list[str]:
    letters = "bcdfglmnprst"
    return [
        f"{letters[n % 12]}o{letters[n // 12 % 12]}e{letters[n // 144 % 12]}i{letters[n // 1728]}" for n in range(count)
    ]


def _run_elsewhere(language: str, texts: list[str], *, seed: str) -> list[list[str]]:
    program = (
        "import json, sys; from llmspell.storage.text.analyser import Analyser; "
        "print(json.dumps([Analyser(sys.argv[1]).terms(text) for text in json.load(sys.stdin)]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, language],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    found: list[list[str]] = json.loads(ran.stdout)
    return found
