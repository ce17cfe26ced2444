import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktSentenceTokenizer
from rouge_score import rouge_scorer

from util.metrics import ROUGE_TYPES, Rouge, rouge_against, scoring_rules, sentence_splitter
from util.words import rouge_words

word = st.sampled_from("the cat sat on a mat running runs . ! Mr. again".split())
text = st.lists(word, max_size=12).map(" ".join)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4))
def test_rouge_is_the_mean_of_the_packages_scores(pairs):
    scores = Rouge(keep_in_memory=True).compute(
        predictions=[prediction for prediction, _ in pairs], references=[reference for _, reference in pairs]
    )
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = [scorer.score(reference, prediction)[name].fmeasure for prediction, reference in pairs]
        assert scores[name] == pytest.approx(100 * sum(expected) / len(expected))


def test_sentences_count_for_rouge_lsum():
    splitter, name = sentence_splitter()
    assert splitter("It rained. Then it stopped.") == ["It rained.", "Then it stopped."]
    assert "punkt" in name
    scores = Rouge(keep_in_memory=True).compute(
        predictions=["Then it stopped. It rained."], references=["It rained. Then it stopped."]
    )
    assert set(scores) == set(ROUGE_TYPES)
    assert scores["rougeL"] < scores["rougeLsum"] == pytest.approx(100)


def test_texts_without_words_score_zero_as_in_the_package():
    for text in ("", "!", "👍"):
        scores = Rouge(keep_in_memory=True).compute(predictions=[text], references=[text])
        assert set(scores.values()) == {0.0}


@pytest.mark.parametrize(
    "text", ["Мама мыла раму.", "今天天气很好。我们去公园。", "Der Müller mäht.", "ภาษาไทย", "हिन्दी में लिखा।"]
)
def test_a_text_of_any_script_is_itself_and_not_another(text):
    rouge = Rouge(keep_in_memory=True).compute
    assert set(rouge(predictions=[text], references=[text]).values()) == {100.0}
    assert set(rouge(predictions=[text], references=["plain English"]).values()) == {0.0}
    first, *others = rouge_words(text)
    half = rouge(predictions=[first], references=[text])["rouge1"]
    assert half == pytest.approx(100 * 2 / (1 + len(rouge_words(text))))
    assert others


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("我来了。他走了！「好吗？」她问。", ["我来了。", "他走了！", "「好吗？」", "她问。"]),
        ("यह एक है। यह दो है॥", ["यह एक है।", "यह दो है॥"]),
        ("هل جاء؟ نعم.", ["هل جاء؟", "نعم."]),
        ("Er kam. Sie ging!", ["Er kam.", "Sie ging!"]),
    ],
)
def test_sentences_of_other_scripts_are_split(text, sentences):
    assert sentence_splitter()[0](text) == sentences


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_sentences_are_punkts(text):
    splitter, name = sentence_splitter()
    punkt = nltk.sent_tokenize if name.startswith("punkt_tab") else PunktSentenceTokenizer().tokenize
    assert splitter(text.strip()) == punkt(text.strip())


class Letters:
    """A tokenizer that knows the letters a to z only."""

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return ["".join(chr(token) for token in row) for row in rows]


def test_references_are_whole_and_as_they_are_written():
    rouge = rouge_against(["hello über world", "👍"], Letters())
    scores = rouge([list(b"hello"), list(b"ok")])
    assert scores["rouge1"] == pytest.approx(100 * (2 / 4) / 2)
    assert scores["references_without_words"] == 1
    assert scores["predictions_without_words"] == 0
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        rouge([[1]])


def test_the_rules_are_named():
    rules = scoring_rules()
    assert "Unicode" in rules["rouge_words"]
    assert "Porter" in rules["rouge_words"]
    assert "punkt" in rules["sentence_splitter"]
