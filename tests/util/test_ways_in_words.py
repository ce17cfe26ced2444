import pytest

from early_exit import ExitPolicy
from util.results import setting_name
from util.ways_in_words import in_words, ways


def point(policy: ExitPolicy, rouge: float, speed: float, counts: list[int]) -> dict:
    metrics = {"eval_rougeL": rouge, "eval_tokens_per_second": speed, "eval_block_avg": 2.0}
    metrics |= {"eval_exit_layer_counts": counts, "eval_accept_rate": 0.75}
    return {"setting": setting_name(policy), "policy": policy.to_dict(), "metrics": metrics}


def softmax(threshold: float, **fields) -> ExitPolicy:
    return ExitPolicy(measure="softmax", threshold=threshold, **fields)


FULL = point(ExitPolicy(static_layer=3), 50.0, 100.0, [0, 0, 9])
POINTS = [
    point(ExitPolicy(static_layer=1), 20.0, 300.0, [9, 0, 0]),
    FULL,
    point(softmax(0.9), 49.9, 130.0, [3, 3, 3]),
    point(softmax(0.8), 49.6, 150.0, [5, 2, 2]),
    point(softmax(0.7), 48.0, 200.0, [7, 1, 1]),
    point(softmax(0.8, verify="parallel"), 50.0, 400.0, [5, 2, 2]),
    point(ExitPolicy(static_layer=1, verify="exact"), 50.0, 140.0, [6, 0, 3]),
    point(ExitPolicy(static_layer=2, verify="exact"), 50.0, 120.0, [0, 6, 3]),
]


def test_the_fastest_of_each_way_that_keeps_quality():
    found = {name: each["setting"] for name, each in ways(POINTS).items()}
    assert found == {"full depth": "static 3", "exact drafts": "static 1 exact ×6", "exits": "softmax λ=0.8"}
    text = in_words(POINTS)
    assert "token for token, at 1.40 times its speed; 75% of the drafts stayed" in text
    assert "Exits within 1% of full depth's ROUGE-L run at 1.50 times its speed" in text


@pytest.mark.parametrize(
    ("points", "words"),
    [(POINTS[:1], "no point at full depth"), (POINTS[:2], "No exits come within 1%"), ([], "no point")],
)
def test_what_is_missing_is_said(points, words):
    assert words in in_words(points)


def test_the_score_is_that_of_the_task():
    def of_translation(each):
        metrics = {name.replace("rougeL", "bleu"): value for name, value in each["metrics"].items()}
        return {**each, "metrics": metrics}

    translated = [of_translation(each) for each in POINTS]
    assert [each["setting"] for each in ways(translated).values()] == [
        each["setting"] for each in ways(POINTS).values()
    ]
    assert "within 1% of full depth's BLEU" in in_words(translated)
