"""Sampling with drafts: exact ones leave the distribution of texts as it is at full depth."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import T5Config
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from early_exit import ExitPolicy
from early_exit.decoding.sampled_drafts import SampledDrafts
from early_exit.models.generation import reference_generate
from early_exit.models.t5 import EarlyExitT5
from tests.tiny import MODELS, source_batch

VOCABULARY, STEPS, END = 6, 3, 1
SOURCE = torch.tensor([[2, 4, 3, 5]])


def small_model() -> EarlyExitT5:
    """Few tokens, so that all texts can be counted; exits that disagree with each other."""
    torch.manual_seed(3)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 3, "num_heads": 2}
    config = T5Config(
        vocab_size=VOCABULARY, decoder_start_token_id=0, eos_token_id=END, dropout_rate=0.0, **sizes
    )
    model = EarlyExitT5(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.25 * torch.randn_like(parameter)
    return model


MODEL = small_model()
OPTIONS = {
    "plain": ({}, []),
    "temperature and top-k": (
        {"temperature": 0.6, "top_k": 4},
        [TemperatureLogitsWarper(0.6), TopKLogitsWarper(4)],
    ),
    "top-p and a minimum": (
        {"top_p": 0.8, "min_new_tokens": 2},
        [MinNewTokensLengthLogitsProcessor(1, 2, END, "cpu"), TopPLogitsWarper(0.8)],
    ),
}
LEAVING = {
    "all from layer 1": {"static_layer": 1, "max_draft": 2},
    "some by confidence": {"measure": "softmax", "threshold": 0.15},
    "one at a time": {"static_layer": 2, "max_draft": 1},
}


@torch.no_grad()
def logits_at(layer: int, tokens: list[int]) -> torch.Tensor:
    """Logits [1, vocabulary] of an exit after some tokens at full depth, by transformers' forward."""
    output = MODEL(input_ids=SOURCE, decoder_input_ids=torch.tensor([tokens]), output_hidden_states=True)
    if layer == 3:
        return output.logits[:, -1]
    return MODEL.exit_logits(output.decoder_hidden_states[layer][:, -1])


def shares_after(tokens: list[int], processors, layer: int = 3) -> np.ndarray:
    logits = logits_at(layer, tokens)
    for processor in processors:
        logits = processor(torch.tensor([tokens]), logits)
    return logits[0].double().softmax(-1).numpy()


def text_shares(next_shares) -> dict[tuple[int, ...], float]:
    """The probability of every text, from a function of tokens that gives the shares of the next one."""
    texts, unfinished = {}, {(0,): 1.0}
    while unfinished:
        tokens, share = unfinished.popitem()
        for token, own in enumerate(next_shares(list(tokens))):
            longer = (*tokens, token)
            if own > 0 and (token == END or len(longer) > STEPS):
                texts[longer[1:]] = share * own
            elif own > 0:
                unfinished[longer] = share * own
    return texts


def drawn_texts(policy: ExitPolicy | None, options: dict, calls: int = 7, rows: int = 100, **how) -> Counter:
    counts = Counter()
    inputs = {"input_ids": SOURCE.expand(rows, -1), "do_sample": True, "top_k": 0, "max_new_tokens": STEPS}
    for seed in range(calls):
        torch.manual_seed(seed)
        texts = MODEL.generate(**inputs | options, exit_policy=policy, **how)[:, 1:].tolist()
        for text in texts:
            end = text.index(END) + 1 if END in text else len(text)
            counts[tuple(text[:end])] += 1
    return counts


def p_value(counts: Counter, shares: dict) -> float:
    """Of a chi-squared test; texts that are expected fewer than five times are one cell."""
    assert not set(counts) - set(shares)  # no text that cannot be
    total = sum(counts.values())
    often = [text for text, share in shares.items() if share * total >= 5]
    observed = [counts[text] for text in often]
    expected = [shares[text] * total for text in often]
    if total - sum(expected) >= 5:
        observed.append(total - sum(observed))
        expected.append(total - sum(expected))
    else:  # the few others are left out
        expected = [each * sum(observed) / sum(expected) for each in expected]
    return chisquare(observed, expected).pvalue


@pytest.mark.slow
@pytest.mark.parametrize(("leaving", "name"), list(zip(LEAVING, OPTIONS, strict=True)))
def test_exact_drafts_draw_the_texts_of_full_depth(leaving, name):
    options, processors = OPTIONS[name]
    shares = text_shares(lambda tokens: shares_after(tokens, processors))
    counts = drawn_texts(ExitPolicy(**LEAVING[leaving], verify="exact"), options)
    assert p_value(counts, shares) > 1e-3
    # The exits' own texts are others, so the test would see it if drafts simply stayed.
    parallel = drawn_texts(ExitPolicy(**LEAVING[leaving], verify="parallel"), options, calls=2)
    total = sum(parallel.values())
    assert sum(abs(parallel[text] / total - share) for text, share in shares.items()) > 0.1


@pytest.mark.slow
def test_the_plain_loop_draws_them_too():
    options, processors = OPTIONS["temperature and top-k"]
    shares = text_shares(lambda tokens: shares_after(tokens, processors))
    policy = ExitPolicy(static_layer=1, max_draft=2, verify="exact")
    counts = drawn_texts(policy, options, calls=5, rows=20, custom_generate=reference_generate)
    assert p_value(counts, shares) > 1e-3


@pytest.mark.parametrize("lenience", [0.0, 0.4])
def test_lenient_drafts_are_drawn_by_the_rule_with_a_lenience(lenience):
    """With one draft a block and a text of two tokens, the first is always a draft."""

    def mixed(tokens: list[int]) -> np.ndarray:
        full, own = shares_after(tokens, []), shares_after(tokens, [], layer=1)
        if len(tokens) > 1:
            return np.eye(VOCABULARY)[END]  # one token is looked at
        kept = own * np.minimum(1, full / (lenience * own)) if lenience else own
        beyond = np.maximum(0, full - lenience * own)
        return kept + (1 - kept.sum()) * beyond / beyond.sum()

    counts = Counter()
    policy = ExitPolicy(static_layer=1, max_draft=1, verify="lenient", accept_ratio=lenience)
    for text, count in drawn_texts(policy, {}, calls=8).items():
        counts[text[:1]] += count
    first = dict(enumerate(mixed([0])))
    assert p_value(counts, {(token,): share for token, share in first.items()}) > 1e-3
    if lenience:
        most = (1 + 1e-5) * shares_after([0], []) / lenience  # some shares equal it, but for rounding
        assert (np.array(list(first.values())) <= most).all()


def test_parallel_drafts_are_the_exits_draws():
    shares = text_shares(lambda tokens: shares_after(tokens, [], layer=1))
    policy = ExitPolicy(static_layer=1, max_draft=STEPS, verify="parallel")
    assert p_value(drawn_texts(policy, {}, calls=5), shares) > 1e-3


SAMPLING = [{}, {"temperature": 0.7, "top_k": 8}, {"top_p": 0.9, "no_repeat_ngram_size": 2}]
EXITS = [
    {"static_layer": 1, "max_draft": 3},
    {"static_layer": torch.tensor([1, 4, 2, 3]), "max_draft": 5},
    {"measure": "softmax", "threshold": 0.1, "max_draft": 4},
    {"measure": "softmax", "threshold": 0.1, "max_draft": 4, "shortlist": 40},
]


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["exact", "lenient", "parallel"])
@pytest.mark.parametrize("exits", EXITS)
@pytest.mark.parametrize("options", SAMPLING)
def test_the_engine_draws_what_the_plain_loop_does(verify, exits, options):
    policy = ExitPolicy(**exits, verify=verify, accept_ratio=0.5)
    options = options | {"do_sample": True, "max_new_tokens": 9, "eos_token_id": [1, 6, 9]}
    inputs = source_batch(4, 7) | options
    outputs = []
    for how in ({}, {"custom_generate": reference_generate}):
        torch.manual_seed(5)
        outputs.append(
            MODELS["t5"].generate(**inputs, **how, exit_policy=policy, return_dict_in_generate=True)
        )
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert torch.equal(outputs[0].exit_layers, outputs[1].exit_layers)


def test_a_seed_decides_and_a_text_does_not_depend_on_its_company():
    policy = ExitPolicy(measure="softmax", threshold=0.05, verify="exact")
    inputs = source_batch(5, 7)
    options = {"do_sample": True, "max_new_tokens": 10, "exit_policy": policy}

    def texts(seed: int, rows: int) -> torch.Tensor:
        torch.manual_seed(seed)
        batch = {name: tensor[:rows] for name, tensor in inputs.items()}
        return MODELS["t5"].generate(**batch, **options)

    assert torch.equal(texts(1, 5), texts(1, 5))
    assert not torch.equal(texts(1, 5), texts(2, 5))
    alone, together = texts(1, 1)[0], texts(1, 5)[0]
    assert torch.equal(together[: len(alone)], alone)
    several = MODELS["t5"].generate(**source_batch(1, 7), **options, num_return_sequences=8)
    assert len({tuple(text) for text in several.tolist()}) > 1


def test_the_rule_holds_for_drawn_shares():
    """A draft, and what is put in its place, is distributed as p whatever q is."""
    generator = np.random.default_rng(0)
    for number in range(4):
        full, own = (torch.from_numpy(generator.dirichlet(np.full(5, 0.5))) for _ in range(2))
        full[number] = 0
        full /= full.sum()
        counts = np.zeros(5)
        for text in range(1000):
            draws = SampledDrafts(seed=7, text=text)
            token = draws.draft(3, own)
            counts[token if draws.stays(3, token, full) else draws.final(3, full)] += 1
        possible = full.numpy() > 1e-3
        assert counts[full.numpy() == 0].sum() == 0
        kept = full.numpy()[possible] / full.numpy()[possible].sum()
        assert chisquare(counts[possible], kept * counts[possible].sum()).pvalue > 1e-3


def test_shares_of_nothing_are_an_error():
    with pytest.raises(ValueError, match="no token can be drawn at length 2"):
        SampledDrafts(seed=1, text=0).final(2, torch.full((4,), float("nan")))


def test_rollback_is_greedy():
    options = {"do_sample": True, "max_new_tokens": 2}
    options |= {"exit_policy": ExitPolicy(static_layer=1, verify="rollback")}
    for how in ({}, {"custom_generate": reference_generate}):
        with pytest.raises(ValueError, match="verify='rollback' is for greedy decoding"):
            MODEL.generate(SOURCE, **options, **how)
