"""Texts of any number of prompts: by continuous batching where decoding is plain greedy, else by batches
through `generate`.

In a stream a prompt joins as soon as a row ends, so that rows are always full and none waits for the longest
text of its batch. Logits processors, sampling and stopping criteria may look at a whole batch, so that what
is not plain greedy decoding goes through `generate`, in fixed batches.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.engine import Prompt
from early_exit.decoding.greedy import GreedyChoice
from early_exit.decoding.results import DecodedRow
from early_exit.models.effective_generation import effective_generation, merged_config, unlike_greedy
from early_exit.models.engines import engine_for, precision_of
from early_exit.models.fixed_batches import decode_batches
from early_exit.models.options import why_not_served
from early_exit.models.sources import Source, Watch, by_length, encoded
from early_exit.policy import ExitPolicy

_COUNTED_TOGETHER = 256  # texts: top-k propagation keeps the states of their tokens until they are counted


@dataclass
class DecodedTexts:
    """rows: a text for each prompt, in the order of the prompts. counts: what there was to count of the LM
    head's reading, see `early_exit.decoding.results.DecodedBatch`: "asked", "candidates" and "fell_back" of a
    screened head; of top-k propagation "kept", of how many "chosen"."""

    rows: list[DecodedRow] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class Greedy:
    """Plain greedy decoding. start: the token that texts start from; ends: [n] int64, those that end them."""

    start: int
    ends: np.ndarray
    max_new_tokens: int


def plain_greedy(model, options: dict[str, Any]) -> Greedy | None:
    """What `model.generate(**options, exit_policy=…)` does, where that is plain greedy decoding from the
    start token."""
    config, _ = merged_config(model, options)
    effective = effective_generation(model, options)
    start = config.decoder_start_token_id
    start = config.bos_token_id if start is None else start
    others = unlike_greedy(effective) or why_not_served(config, options) or options.get("streamer")
    if others or not isinstance(start, int) or effective["max_length"] < 2:
        return None
    ends = np.array(effective.get("eos_token_id", []), dtype=np.int64)
    return Greedy(start, ends, effective["max_length"] - 1)


def decode_prompts(
    model,
    policy: ExitPolicy | None,
    precision: str | None,
    sources: Sequence[Source],
    rows: int,
    options: dict[str, Any],
    states: Sequence[Tensor] | None = None,
    watch: Watch | None = None,
) -> DecodedTexts:
    """The texts, exit layers and confidences that `model.generate(**options, exit_policy=policy)` gives each
    source, in the order of the sources.

    policy: None for transformers' own decoding; thresholds and static layers a row are by the sources'
    numbers. precision: see `EarlyExitMixin.generate`. rows: decoded at a time. options: of `generate`.
    states: of the sources, where they are known (`models.sources.encode_all`). watch: is told of progress.

    Raises ValueError as `generate` does.
    """
    watch = watch or Watch()
    if not sources:
        return DecodedTexts()
    if policy is not None:
        policy.check_rows(len(sources))
        greedy = plain_greedy(model, options)
        if greedy is not None:
            return _Stream(model, policy, precision, greedy, watch).decode(sources, rows, states)
    texts = DecodedTexts()
    for decoded, counts in decode_batches(model, policy, precision, sources, rows, options, states, watch):
        texts.rows += decoded
        texts.counts += counts
    return texts


class _Stream:
    def __init__(self, model, policy: ExitPolicy, precision: str | None, greedy: Greedy, watch: Watch):
        self._policy, self._greedy, self._watch = policy, greedy, watch
        self._held = engine_for(model, policy, precision_of(model, precision))
        self._device = model.device

    def decode(self, sources: Sequence[Source], rows: int, states: Sequence[Tensor] | None) -> DecodedTexts:
        order, decoded = by_length(sources), {}
        prompts = self._prompts(
            [sources[number] for number in order],
            rows,
            None if states is None else [states[number] for number in order],
        )
        policy, limit = self._policy.for_row(order), self._greedy.max_new_tokens
        seen = 0
        self._watch.start()
        with torch.autocast(self._device.type, enabled=False):
            stream = self._held.engine.decode(
                prompts, policy, GreedyChoice(self._greedy.ends), limit, rows=min(rows, len(sources))
            )
            for count, row in enumerate(stream, start=1):
                row.prompt = order[row.prompt]
                decoded[row.prompt] = row
                tokens, seen = stream.tokens() - seen, stream.tokens()
                if tokens:
                    self._watch.chose(tokens)
                self._watch.ended(1)
                if stream.kept is not None and count % _COUNTED_TOGETHER == 0:
                    stream.kept()  # which lets go of the states
                    self._watch.start()
        texts = DecodedTexts([decoded[number] for number in range(len(sources))])
        texts.counts += Counter(stream.screen or {})
        if stream.kept is not None:
            texts.counts["kept"], texts.counts["chosen"] = stream.kept()
        return texts

    def _prompts(
        self, sources: Sequence[Source], at_once: int, states: Sequence[Tensor] | None
    ) -> Iterator[Prompt]:
        each_alone: Iterable[Tensor] = states or encoded(
            self._held.encoder, sources, at_once, self._device, self._watch
        )
        prefix = np.array([self._greedy.start], dtype=np.int64)
        return (Prompt(each, prefix) for each in each_alone)
