"""Words of any script: English as rouge-score and str.split have it, the others seen at all."""

import json
import string
import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from util.words import rouge_words, without_words, words

DATA = Path(__file__).parents[3] / "shared" / "data"
CYRILLIC = str.maketrans(string.ascii_lowercase, "абвгдежзийклмнопрстуфхцчшщ")
PACKAGE = DefaultTokenizer(use_stemmer=True).tokenize
english = st.lists(
    st.sampled_from(
        "The runners' cities don't e-mail 3.5% relational U.S.A. snake_case 42nds skis (agreed)".split()
    )
)


@given(st.one_of(st.text(st.characters(max_codepoint=127)), english.map(" ".join)))
def test_ascii_has_the_words_that_it_always_had(text):
    assert rouge_words(text) == PACKAGE(text)
    assert words(text) == text.split()


@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}")
@pytest.mark.parametrize("file", ["e2e/validation.json", "dialogsum/validation.json"])
def test_so_have_real_english_records(file):
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()[:300]
    texts = [str(value) for line in lines for value in json.loads(line).values()]
    texts = [text for text in texts if text.isascii()]
    assert len(texts) > 100
    for text in texts:
        assert rouge_words(text) == PACKAGE(text)
        assert words(text) == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Der Müller aß Öl.", ["der", "müller", "ass", "öl"]),
        ("Мама мыла раму", ["мама", "мыла", "раму"]),
        ("ΟΔΟΣ οδός", ["οδοσ", "οδόσ"]),
        ("今天iPhone 15很贵。", ["今", "天", "iphon", "15", "很", "贵"]),
        ("サーバーです", ["サ", "ー", "バ", "ー", "で", "す"]),
        ("ｻｰﾊﾞｰ ＡＢＣ１", ["サ", "ー", "バ", "ー", "abc1"]),
        ("ภาษาไทย", list("ภาษาไทย")),
        ("ប្រទេស", ["ប្", "រ", "ទេ", "ស"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("हिन्दी में लिखा।", ["हिन्दी", "में", "लिखा"]),
        ("한국어 문장입니다.", ["한국어", "문장입니다"]),
        ("می‌خواهم بروم؟", ["میخواهم", "بروم"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("co\u00adoperate", ["cooper"]),  # a soft hyphen
        ("ﬁnd", ["find"]),
    ],
)
def test_other_scripts_have_words(text, expected):
    assert rouge_words(text) == expected


@given(st.text())
def test_no_letter_and_no_digit_is_lost(text):
    seen = regex.search(r"(?V1)[[\p{L}\p{N}]--\p{Default_Ignorable_Code_Point}]", text)
    if seen:
        assert not without_words(text)
    assert "".join(words(text)) == "".join(unicodedata.normalize("NFC", text).split())


@given(st.text(string.ascii_lowercase + " .", max_size=30))
def test_a_script_with_spaces_has_as_many_words_as_its_latin_twin(text):
    """Each letter of a-z as a Cyrillic one: words correspond one to one but for English stems."""
    twin = text.translate(CYRILLIC)
    assert len(rouge_words(twin)) == len(rouge_words(text))
    assert words(twin) == [word.translate(CYRILLIC) for word in words(text)]


@pytest.mark.parametrize("text", ["", " \n", "?!…", "👍🏽", "👩‍👩‍👧", "❤️", "—「」。", "\u00ad", "\u0301"])
def test_texts_without_words(text):
    assert without_words(text)
    assert rouge_words(text) == []
