"""Texts of prompts by a threshold that learns from those before, see `early_exit.adaptive`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from early_exit.adaptive import AdaptiveThreshold
from early_exit.decoding.agreement import exit_agreement
from early_exit.decoding.engine import Engine, Prompt
from early_exit.decoding.results import DecodedRow
from early_exit.models.engines import engine_for, precision_of
from early_exit.models.sources import Source, Watch, encode_all
from early_exit.models.stream import DecodedTexts, decode_prompts, plain_greedy
from early_exit.policy import ExitPolicy


def decode_adaptive(
    model,
    policy: ExitPolicy,
    precision: str | None,
    sources: Sequence[Source],
    rows: int,
    options: dict[str, Any],
    adaptive: AdaptiveThreshold,
    watch: Watch | None = None,
) -> tuple[DecodedTexts, AdaptiveThreshold]:
    """As `models.stream.decode_prompts`, and the estimate afterwards; the policy's threshold is not looked
    at.

    Prompts are taken in their order, some at a time (`AdaptiveThreshold.next_prompts`), and the threshold is
    renewed when all of these have ended, so that texts depend on the order of the prompts but not on `rows`.
    Learning takes a pass through all layers over each text, which is counted with its layers and its time.
    Raises ValueError for decoding that is not plain greedy.
    """
    greedy, watch = plain_greedy(model, options), watch or Watch()
    if greedy is None:
        raise ValueError("a threshold that adapts is for plain greedy decoding")
    engine, texts, first = engine_for(model, policy, precision_of(model, precision)), DecodedTexts(), 0
    start = np.array([greedy.start], dtype=np.int64)
    while first < len(sources):
        some = sources[first : first + (adaptive.next_prompts or len(sources))]
        watch.start()
        states = encode_all(engine.encoder, some, rows, model.device)
        watch.encoded(sum(len(state) for state in states))
        own = replace(policy, threshold=adaptive.threshold)
        decoded = decode_prompts(model, own, precision, some, rows, options, states, watch)
        if not adaptive.frozen:
            prompts = [Prompt(state, start) for state in states]
            adaptive = _learned(adaptive, engine.engine, own, prompts, decoded.rows)
            watch.chose(0)
        for row in decoded.rows:
            row.prompt += first
        texts.rows += decoded.rows
        texts.counts += decoded.counts
        first += len(some)
    return texts, adaptive


def _learned(
    adaptive: AdaptiveThreshold,
    engine: Engine,
    policy: ExitPolicy,
    prompts: Sequence[Prompt],
    texts: Sequence[DecodedRow],
) -> AdaptiveThreshold:
    """The estimate after some more texts, each of which a pass through all layers is counted with."""
    pairs = []
    for prompt, text in zip(prompts, texts, strict=True):
        pairs.append(exit_agreement(engine, prompt, text.tokens, policy))
        text.drafting.layers += engine.num_layers * len(text.tokens)
        text.drafting.reads += engine.num_layers
    return adaptive.updated(len(prompts), *map(np.concatenate, zip(*pairs, strict=True)))
