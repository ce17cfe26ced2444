import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from util.metrics import ROUGE_TYPES, Rouge, sentence_splitter

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


def test_empty_texts_score_zero():
    scores = Rouge(keep_in_memory=True).compute(predictions=[""], references=[""])
    assert set(scores.values()) == {0.0}
