"""Exits that choose from the most frequent tokens; the engine against the reference is in test_engine.py and
test_drafts.py, whose policies have shortlists too."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from early_exit import PRECISIONS, DecodingSetting, ExitPolicy, load_model
from early_exit.linear import has_native
from early_exit.models.pipeline import model_pipeline
from early_exit.models.token_ranking import rank_tokens, shortlist_of
from tests.strategies import batch_policies
from tests.tiny import FAMILIES, MODELS, source_batch, tiny_model

texts = st.lists(st.lists(st.integers(-100, 30).filter(lambda token: token >= 0), max_size=9), max_size=9)


@given(texts=texts)
def test_tokens_are_ranked_by_how_often_they_occur(texts):
    counts = Counter(token for text in texts for token in text)
    ranking = rank_tokens(texts, 31).tolist()
    assert sorted(ranking) == list(range(31))
    for first, second in pairwise(ranking):
        assert (counts[first], -first) > (counts[second], -second)


def test_a_token_outside_of_the_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="token 31 of a vocabulary of 31"):
        rank_tokens([[3], [31]], 31)


@pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
@pytest.mark.parametrize("precision", PRECISIONS)
@given(rows=st.integers(1, 5), data=st.data())
def test_a_list_of_all_tokens_changes_nothing_in_any_precision(precision, rows, data):
    policy = data.draw(batch_policies(rows).filter(lambda policy: policy.top_k is None))
    inputs = source_batch(rows, 9) | {"max_new_tokens": 10, "engine_precision": precision}
    inputs |= {"return_dict_in_generate": True}
    plain = MODELS["t5"].generate(
        **inputs, exit_policy=replace(policy, shortlist=None, shortlist_at_full_depth=False)
    )
    listed = MODELS["t5"].generate(**inputs, exit_policy=replace(policy, shortlist=97))
    assert torch.equal(listed.sequences, plain.sequences)
    assert torch.equal(listed.exit_layers, plain.exit_layers)
    torch.testing.assert_close(listed.confidences, plain.confidences, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_choose_listed_tokens_and_full_depth_chooses_from_all(family):
    model, policy = MODELS[family], ExitPolicy(static_layer=torch.tensor([1, 4, 2, 4, 3, 4]), shortlist=5)
    output = model.generate(
        **source_batch(6, 9), max_new_tokens=12, exit_policy=policy, return_dict_in_generate=True
    )
    listed = torch.isin(output.sequences[:, 1:], shortlist_of(model, 5))
    early = (output.exit_layers > 0) & (output.exit_layers < 4)
    assert early.any()
    assert listed[early].all()
    assert not listed[output.exit_layers == 4].all()


def test_full_depth_may_choose_from_the_list_alone():
    policy = ExitPolicy(shortlist=5, shortlist_at_full_depth=True)
    assert not DecodingSetting(policy).is_full_model(4)
    tokens = MODELS["t5"].generate(**source_batch(6, 9), max_new_tokens=12, exit_policy=policy)[:, 1:]
    assert torch.isin(tokens, torch.cat([shortlist_of(MODELS["t5"], 5), torch.tensor([0])])).all()


def test_sampling_draws_listed_tokens_at_exits():
    policy = ExitPolicy(static_layer=2, shortlist=7)
    for seed in range(5):
        torch.manual_seed(seed)
        tokens = MODELS["t5"].generate(
            **source_batch(3, 9), max_new_tokens=12, do_sample=True, temperature=9.0, exit_policy=policy
        )[:, 1:]
        assert set(tokens.flatten().tolist()) <= {0, *shortlist_of(MODELS["t5"], 7).tolist()}


def test_the_ranking_is_saved_and_loaded(tmp_path):
    model = tiny_model()
    model.rank_tokens([[5, 5, 6]])
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.token_ranking.tolist()[:3] == [5, 6, 0]
    assert torch.equal(loaded.token_ranking, model.token_ranking)


def test_a_checkpoint_that_has_lost_its_ranking(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["token_ranking"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    policy = ExitPolicy(static_layer=1, shortlist=9)
    with pytest.raises(ValueError, match="a ranking of tokens that its weights lack"):
        load_model(tmp_path).generate(**source_batch(1, 3), exit_policy=policy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortlist": 0}, "a shortlist of 0 tokens; allowed: 1 and above"),
        ({"shortlist": 5, "top_k": 5, "measure": "softmax"}, "top-k propagation exclude"),
        ({"shortlist": 5, "screen": True}, "a screened LM head exclude"),
        ({"shortlist_at_full_depth": True}, "and none is given"),
    ],
)
def test_policies_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        ExitPolicy(**fields)


def test_models_that_have_no_such_list():
    policy = ExitPolicy(measure="softmax", threshold=0.1, shortlist=98)
    with pytest.raises(ValueError, match="a shortlist of 98 tokens, of a ranking of 97"):
        MODELS["t5"].generate(**source_batch(1, 3), exit_policy=policy)
    model = FAMILIES["t5"]()
    with pytest.raises(ValueError, match="no ranking of tokens"):
        model.generate(**source_batch(1, 3), exit_policy=policy)


def test_another_ranking_is_another_pipeline_for_those_who_read_it():
    model = tiny_model()
    with_list = DecodingSetting(ExitPolicy(measure="softmax", threshold=0.1, shortlist=9), "float32")
    without = DecodingSetting(ExitPolicy(measure="softmax", threshold=0.1), "float32")
    before = model_pipeline(model, with_list), model_pipeline(model, without)
    model.rank_tokens([[40, 41, 42]])
    assert model_pipeline(model, with_list) != before[0]
    assert model_pipeline(model, without) == before[1]
    assert model_pipeline(model, with_list)["shortlist"] != before[0]["shortlist"]
