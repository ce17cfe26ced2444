"""The fast decoding loop: rows that leave at their own layers, stand at their own positions, and are
replaced by the next prompt when they end.

It gives what `early_exit.decoding.reference` gives and is tested against it. docs/engine.md explains it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.drafts import Drafts
from early_exit.decoding.exits import Choose, ConfidenceExits, Exits, StaticExits
from early_exit.decoding.greedy import GreedyChoice
from early_exit.decoding.kv_cache import check_memory
from early_exit.decoding.results import DecodedBatch, DecodedRow, DecodedStream
from early_exit.decoding.rows import Rows
from early_exit.heads import HeadRun, HeadWeights
from early_exit.kernels.interface import Items, Kernels, Shortlist
from early_exit.kernels.native.loop import NativeLoop, Reads, serves
from early_exit.kernels.native.screen import Screen
from early_exit.lm_head.full import FullHead
from early_exit.lm_head.screened import ScreenedHead
from early_exit.lm_head.shortlist import ShortlistHead
from early_exit.lm_head.top_k import TopKHead
from early_exit.policy import ExitPolicy


@dataclass(frozen=True)
class Prompt:
    """source: [length >= 1, d_model], the encoder's output without padding; prompts that give the same tensor
    share its keys and values while they are decoded together. prefix: [n >= 1] int64 token numbers that
    decoding starts from; all but the last run at full depth."""

    source: Tensor
    prefix: np.ndarray


class Engine:
    """A decoder with its weights packed. Decoding leaves nothing on it: several threads may use it at once.

    exit_heads: packed exit heads by name; screen, shortlist: of the LM head, for policies that want them.
    """

    def __init__(
        self,
        kernels: Kernels,
        exit_heads: dict[str, HeadWeights] | None = None,
        screen: Screen | None = None,
        shortlist: Shortlist | None = None,
    ):
        self.kernels = kernels
        self._exit_heads = exit_heads or {}
        self.screen, self.shortlist = screen, shortlist

    @property
    def num_layers(self) -> int:
        return len(self.kernels.tensors.layers)

    def decode_batch(
        self,
        prompts: list[Prompt],
        policy: ExitPolicy,
        choose: Choose,
        max_new_tokens: int,
        enough: int = 1,
    ) -> DecodedBatch:
        """Decodes prompts together, a row each. With `enough` = 1, the default, every call of `choose` gets
        all unfinished rows at one length; see `decode`, which raises the same."""
        policy.check_rows(len(prompts))
        call = _Call(self, policy, choose, max_new_tokens, max(1, len(prompts)), enough)
        rows = list(call.decode(prompts))
        if not rows:
            raise ValueError("nothing to decode: 0 rows")
        return DecodedBatch.of(rows, self.kernels.device, screen=call.head.counts, kept=call.head.kept)

    def decode(
        self,
        prompts: Iterable[Prompt],
        policy: ExitPolicy,
        choose: Choose,
        max_new_tokens: int,
        rows: int,
        enough: int = 1,
    ) -> DecodedStream:
        """Decodes any number of prompts, so many rows at a time: a prompt joins when a row ends. Yields texts
        as they end.

        policy: thresholds and schedules a row are by the prompts' numbers. max_new_tokens: of every text.
        enough: a layer waits until so many rows have come to it, where others can run meanwhile; 1 was
        fastest (docs/speed.md). A text does not depend on it, nor on `rows`.

        Raises ValueError where thresholds or sources do not fit, for caches that the device cannot hold, and
        for NaN confidences.
        """
        call = _Call(self, policy, choose, max_new_tokens, rows, enough)
        return DecodedStream(call.decode(prompts), call.tokens, screen=call.head.counts, kept=call.head.kept)

    def exit_head(self, policy: ExitPolicy) -> HeadWeights | None:
        """The exit head that a policy's measure is, if it is one."""
        return None if policy.measure is None else self._exit_heads.get(policy.measure)

    def head_for(self, policy: ExitPolicy, slots: int) -> FullHead:
        """How a policy reads the LM head."""
        if policy.top_k is not None:
            return TopKHead(self.kernels, policy.top_k, slots)
        if policy.shortlist is not None:
            shortlist: Any = self.shortlist  # there is one where a policy names one
            return ShortlistHead(self.kernels, shortlist, policy.shortlist_at_full_depth)
        if policy.screen and self.screen is not None:
            return ScreenedHead(self.kernels, self.screen)
        return FullHead(self.kernels)

    def way_of_decoding(
        self, rows: Rows, head: FullHead, policy: ExitPolicy, limit: int, enough: int
    ) -> Exits | Drafts:
        """What decides where tokens leave, and what becomes of them."""
        if policy.measure is None:
            exits: Exits = StaticExits(rows, head, policy, limit, enough)
        else:
            weights = self.exit_head(policy)
            exit_head = None if weights is None else HeadRun(weights, rows.cache)
            exits = ConfidenceExits(rows, head, policy, limit, enough, exit_head=exit_head)
        return exits if policy.verify is None else Drafts(exits, rows, head, policy, enough)


class _Call:
    """One call of `decode`."""

    def __init__(
        self, engine: Engine, policy: ExitPolicy, choose: Choose, max_new_tokens: int, slots: int, enough: int
    ):
        kernels = engine.kernels
        policy.check_vocabulary(len(kernels.tensors.head))
        self._choose, self._max_new_tokens, self._enough = choose, max_new_tokens, enough
        self._rows = Rows(slots, kernels, policy.last_layer(engine.num_layers))
        self.head = engine.head_for(policy, slots)
        exit_head = engine.exit_head(policy)
        if isinstance(choose, GreedyChoice) and serves(policy, kernels, exit_head):
            shortlist: Any = None if policy.shortlist is None else engine.shortlist
            screen = engine.screen if policy.screen else None
            reads = Reads(exit_head, shortlist, screen, self.head.counts)
            self._way = NativeLoop(self._rows, policy, max_new_tokens, choose, enough, reads)
        else:
            self._way = engine.way_of_decoding(self._rows, self.head, policy, max_new_tokens, enough)
        self._finished_tokens = 0
        self._sources: dict[int, Tensor] = {}  # of rows under way, so that their ids are not given away

    @torch.no_grad()
    def decode(self, prompts: Iterable[Prompt]) -> Iterator[DecodedRow]:
        waiting = enumerate(prompts)
        self._admit(waiting)
        while len(occupied := self._rows.occupied):
            ended = self._way.step(self._next_group(occupied), self._choose)  # pyright: ignore[reportArgumentType]
            if len(ended):
                self._finished_tokens += int(self._rows.step[ended].sum())
                yield from self._rows.finish(ended.tolist())
                self._admit(waiting)

    def tokens(self) -> int:
        """New tokens so far."""
        return self._finished_tokens + int(self._rows.step[self._rows.occupied].sum())

    def _next_group(self, occupied: np.ndarray) -> np.ndarray:
        """Slots of rows that stand at one layer: the deepest where enough have come together, else where most
        have, else the deeper one."""
        layers = self._rows.layer[occupied]
        counts = np.bincount(layers)
        full = (counts >= self._enough).nonzero()[0]
        layer = full[-1] if len(full) else len(counts) - 1 - np.argmax(counts[::-1])
        return occupied[layers == layer]

    def _admit(self, waiting: Iterator[tuple[int, Prompt]]) -> None:
        """Takes in prompts as long as slots are free, and runs their prefixes."""
        rows, new = self._rows, []
        for slot, (number, prompt) in zip(rows.free.tolist(), waiting, strict=False):
            _check(number, prompt, rows)
            rows.admit(slot, number, prompt.source, id(prompt.source), prompt.prefix)
            self._sources[slot] = prompt.source
            new.append((slot, prompt.prefix[:-1]))
        self._way.forget(np.array([slot for slot, _ in new], dtype=np.int64))
        new = [(slot, prefix) for slot, prefix in new if len(prefix)]
        if new:
            slots = np.concatenate([np.full(len(prefix), slot) for slot, prefix in new])
            positions = np.concatenate([np.arange(len(prefix)) for _, prefix in new])
            tokens = np.concatenate([prefix for _, prefix in new])
            self._way.prefill(Items(slots, positions), rows.kernels.embed(tokens))


def _check(number: int, prompt: Prompt, rows: Rows) -> None:
    length = len(prompt.source)
    if length == 0 or len(prompt.prefix) == 0:
        raise ValueError(
            f"nothing to decode: prompt {number} has a source of {length} tokens and a prefix of "
            f"{len(prompt.prefix)}"
        )
    # The compiled loop reads the embedding without a check.
    vocabulary = len(rows.kernels.tensors.embedding)
    for token in (int(prompt.prefix.min()), int(prompt.prefix.max())):
        if not 0 <= token < vocabulary:
            raise ValueError(f"prompt {number} starts with token {token}; allowed: 0 to {vocabulary - 1}")
    spec, slots = rows.kernels.tensors.spec, len(rows.prompt)
    needed = 2 * rows.num_layers * slots * length * spec.heads * spec.head_dim * rows.kernels.dtype.itemsize
    if length > rows.sources.capacity:
        check_memory(needed, rows.kernels.device, f"{slots} sources of {length} tokens")
