"""Many prompts of very different lengths: continuous batching against fixed batches.

Decoding alone, from sources that are encoded beforehand. Both write the same texts: a text ends at a length
drawn for its prompt. In a fixed batch rows that have ended leave, and the next batch starts after the last.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from benchmarks.systems import VOCABULARY, Setting, policy, random_model
from benchmarks.workers import Workers
from early_exit.decoding.engine import Prompt
from early_exit.models.engines import engine_for, precision_of


@dataclass(frozen=True)
class Stream:
    """way: continuous, or fixed; rows: at a time. A `Setting`'s batch is the number of prompts, its source
    and new_tokens are the largest lengths."""

    way: str
    rows: int
    precision: str
    schedule: str
    process: str = "torch"

    def __str__(self) -> str:
        return f"{self.way} batches of {self.rows}, {self.precision}, {self.schedule}"


def drawn_lengths(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Of sources and texts, [prompts] each: from a sixty-fourth to the whole, as likely in every octave."""
    draw = np.random.default_rng(setting.seed)
    sources, texts = (
        np.exp(draw.uniform(np.log(max(1, longest / 64)), np.log(longest), setting.batch))
        for longest in (setting.source, setting.new_tokens)
    )
    return np.ceil(sources).astype(int), np.ceil(texts).astype(int)


@torch.no_grad()
def build(stream: Stream, setting: tuple, threads: int) -> Callable[[], dict[str, Any]]:
    """For `Workers`: decodes all prompts and gives `tokens`."""
    setting = Setting(*setting)
    model = random_model(setting.shape).to(setting.device)
    exits = policy(stream.schedule, model.num_exits, setting)
    held = engine_for(model, exits, precision_of(model, stream.precision))
    source_lengths, text_lengths = drawn_lengths(setting)
    generator, start = torch.Generator().manual_seed(setting.seed), np.zeros(1, dtype=np.int64)
    prompts = []
    for length in source_lengths.tolist():
        tokens = torch.randint(3, VOCABULARY - 128, (1, length), generator=generator).to(setting.device)
        prompts.append(Prompt(held.encoder(input_ids=tokens).last_hidden_state[0].float(), start))

    def decode(first: int, last: int) -> list[list[int]]:
        texts = [[] for _ in range(first, last)]

        def choose(numbers, lengths, scores):
            tokens = scores.tokens()
            for number, token in zip(numbers.tolist(), tokens.tolist(), strict=True):
                texts[number].append(token)
            return tokens, lengths >= text_lengths[first:last][numbers]  # with the prefix's one token

        own, longest = _of_prompts(exits, first, last), int(text_lengths[first:last].max())
        if stream.way == "fixed":
            held.engine.decode_batch(prompts[first:last], own, choose, longest)
        else:
            for _ in held.engine.decode(prompts[first:last], own, choose, longest, rows=stream.rows):
                pass
        return texts

    def call() -> dict[str, Any]:
        at_once = stream.rows if stream.way == "fixed" else len(prompts)
        parts = range(0, len(prompts), at_once)
        decoded = [decode(at, min(at + at_once, len(prompts))) for at in parts]
        return {"tokens": list(chain.from_iterable(decoded))}

    return call


def _of_prompts(exits, first: int, last: int):
    if exits.static_layer is None:
        return exits
    return replace(exits, static_layer=exits.static_layer[first:last])


def compare(workers: Workers, setting: Setting, rows: int, precision: str, rounds: int) -> list[dict]:
    """For full depth and ragged exits: seconds of both ways and their ratio, the median over turns."""
    result = []
    for schedule in ("full", "ragged"):
        ways = [Stream(way, rows, precision, schedule) for way in ("continuous", "fixed")]
        texts = [workers.timed(way, *setting)[1]["tokens"] for way in ways]
        turns = [[workers.timed(way, *setting)[0] for way in ways] for _ in range(rounds)]
        continuous, fixed = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
        result.append(
            {
                "rows": rows,
                "precision": precision,
                "schedule": schedule,
                "prompts": setting.batch,
                "continuous_seconds": continuous,
                "fixed_seconds": fixed,
                "ratio": statistics.median(own / other for own, other in turns),
                "same_texts": statistics.mean(own == other for own, other in zip(*texts, strict=True)),
            }
        )
        print(f"  {ways[0]} / fixed: {result[-1]['ratio']:.2f}", flush=True)
    return result
