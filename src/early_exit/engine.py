"""The fast decoding loop: a batch of rows, each with its own threshold, leaving at its own layers.

It gives what `early_exit.reference` gives and is tested against it. See `early_exit.memory` for deferred
state propagation and shared sources, `early_exit.weights` for the layout of the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import LayerView, get_measure
from early_exit.heads import HeadRun, HeadWeights
from early_exit.memory import ExitStates, SourceMemory, TokenMemory, check_memory
from early_exit.policy import ExitPolicy
from early_exit.rows import Rows, on_device
from early_exit.screen import ScreenedHead
from early_exit.vocabulary import FullReader, Look, PropagatedReader, Scores, ScreenedReader
from early_exit.weights import DecoderWeights, normed

# Rows are dropped from the caches once no more than this share of them is unfinished.
_COMPACT_BELOW = 0.5

NextTokens = Callable[[np.ndarray, Scores], tuple[Tensor, np.ndarray]]


@dataclass(frozen=True)
class DecodedBatch:
    """What decoding a batch gave, a row each; padded to the longest row.

    exit_layers: [rows, steps] int64, 0 after a row's end. confidences: [rows, steps] float32 at the exit,
    NaN where no exit was tried and after the end. highest_kept: [rows] float32, the highest confidence
    that did not exit; lowest_left: [rows], the lowest that did (-inf and inf where there is none), each
    divided by the threshold's decay at its position, so that they compare with λ: the row's text is the
    same at every λ' with highest_kept <= λ' < lowest_left. With a screened LM head, confidences and
    lowest_left are lower bounds and highest_kept is an upper one.
    screen: with a screened LM head, how often it was "asked", how many "candidates" it computed exactly where
    it knew the answer, and how often it "fell_back" on the whole head. kept: with top-k propagation, a call
    that gives of how many tokens the whole head's choice was among the K, and of how many in all; it computes
    the whole head for every token.
    """

    exit_layers: Tensor
    confidences: Tensor
    highest_kept: Tensor
    lowest_left: Tensor
    screen: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None


@torch.no_grad()
def decode(
    weights: DecoderWeights,
    source: Tensor,
    source_mask: Tensor | None,
    prefix: Tensor,
    policy: ExitPolicy,
    next_tokens: NextTokens,
    max_new_tokens: int,
    row_sources: np.ndarray | None = None,
    exit_head: HeadWeights | None = None,
    screened_head: ScreenedHead | None = None,
) -> DecodedBatch:
    """Decodes a batch.

    source: [sources, length, d_model], the encoder's output; source_mask: [sources, length], 0 where
    padded, or None. row_sources: [rows] int64, the source of each row; row i reads source i if None.
        Rows of one source are cheapest next to each other.
    prefix: [rows, n >= 1] int64, what decoding starts from; all but its last token run at full depth.
    next_tokens: gets the numbers of the unfinished rows [active] and their `vocabulary.Scores`;
        returns their tokens [active] int64 and which of them end [active] bool, on the host.
    exit_head: the exit head that the policy's measure names, if it does.
    screened_head: what to read instead of the LM head where the policy wants that; the LM head if None.

    Raises ValueError where thresholds, sources or positions do not fit, for a source that is empty or all
    padding, for memories that the device cannot hold, and for NaN confidences.
    """
    rows, positions = len(prefix), prefix.shape[1] + max_new_tokens
    policy.check_rows(rows)
    policy.check_vocabulary(weights.head.width)
    row_sources = np.arange(rows) if row_sources is None else np.asarray(row_sources)
    _check_sources(source, source_mask, row_sources, rows)
    if positions > weights.longest:
        raise ValueError(f"{positions} positions; the weights were packed for {weights.longest}")
    check_memory(weights, exit_head, rows, positions, *source.shape[:2])
    if policy.top_k is not None:
        reader = PropagatedReader(weights, policy.top_k)
    elif policy.screen and screened_head is not None:
        reader = ScreenedReader(weights, screened_head)
    else:
        reader = FullReader(weights)
    run = _Run(
        weights, reader, exit_head, source, source_mask, row_sources, policy, prefix.shape[1], max_new_tokens
    )
    for position in range(prefix.shape[1] - 1):
        run.full_depth(prefix[:, position])
    tokens = prefix[:, -1]
    for _ in range(max_new_tokens):
        tokens, ends = next_tokens(run.active, run.step(tokens))
        if ends.any():
            tokens = tokens[on_device((~ends).nonzero()[0], tokens.device)]
            run.finish(ends)
        if not len(run.active):
            break
    return run.result()


def _check_sources(source: Tensor, mask: Tensor | None, row_sources: np.ndarray, rows: int) -> None:
    sources, length = source.shape[:2]
    if rows == 0 or length == 0:
        raise ValueError(f"nothing to decode: {rows} rows, sources of {length} tokens")
    if len(row_sources) != rows or not 0 <= row_sources.min() <= row_sources.max() < sources:
        raise ValueError(f"{len(row_sources)} row sources for {rows} rows and {sources} sources")
    if mask is not None:
        empty = (mask == 0).all(dim=1).cpu().numpy().nonzero()[0]
        if len(empty):
            raise ValueError(f"source {empty[0]} is all padding")


class _Run:
    """The state of one call of `decode`.

    Rows have three numberings: in the batch (`active` holds the unfinished ones), in the memories (which
    drop finished rows now and then; `Rows`), and among the unfinished, which tensors of one step use.
    """

    def __init__(
        self,
        weights,
        reader,
        exit_head,
        source,
        source_mask,
        row_sources,
        policy: ExitPolicy,
        prefix_length,
        new_tokens,
    ):
        rows = len(row_sources)
        self._weights = weights
        self._reader = reader
        self._policy = policy
        self._measure = None if policy.measure is None else get_measure(policy.measure)
        self._last_layer = policy.last_layer(len(weights.layers))
        self._exit_states = ExitStates(weights, rows, prefix_length + new_tokens)
        self._tokens = TokenMemory(weights, self._exit_states)
        self._head = None if exit_head is None else HeadRun(exit_head, self._exit_states)
        self._sources = SourceMemory(weights, source.float(), source_mask, row_sources)
        self._device = source.device
        self.active = np.arange(rows)
        self._rows = Rows(np.arange(rows), row_sources, source.device)  # the active ones
        self._position, self._step, self._new_tokens = 0, 0, new_tokens
        thresholds = torch.as_tensor(policy.threshold, dtype=torch.float64).cpu()
        self._thresholds = thresholds.expand(rows).numpy()
        self._exit_layers = np.zeros((rows, new_tokens), dtype=np.int64)
        self._confidences = np.full((rows, new_tokens), np.nan, dtype=np.float32)
        self._highest_kept = np.full(rows, -np.inf, dtype=np.float32)
        self._lowest_left = np.full(rows, np.inf, dtype=np.float32)

    def full_depth(self, tokens: Tensor) -> None:
        """Runs all layers for a token of every row, without choosing a next one."""
        hidden = self._weights.embed(tokens)
        for layer in range(1, self._last_layer + 1):
            hidden = self._run_layer(layer, self._rows, hidden)
            if self._head is not None and self._policy.tries_exit(layer, len(self._weights.layers)):
                self._head.logits(layer, self._rows, self._position, hidden)  # which later tokens attend to
        self._position += 1

    def step(self, tokens: Tensor) -> Scores:
        """Runs the last tokens [active] until each leaves. Returns what the next are chosen from."""
        hidden, rows = self._weights.embed(tokens), self._rows
        inside = np.arange(len(tokens))  # among the active rows, those that have not left
        planned = self._policy.planned_layers(self._step, len(self._exit_layers))
        for layer in range(1, self._last_layer + 1):
            previous, hidden = hidden, self._run_layer(layer, rows, hidden)
            asks = self._policy.tries_exit(layer, len(self._weights.layers))
            if not asks and planned is None and layer < self._last_layer:
                continue
            look, active = self._reader.look(inside, hidden), self.active[inside]
            if planned is not None:
                leaves = planned[active] == layer
            elif asks:
                leaves = self._decide(active, look, self._view(layer, rows, look, previous))
            else:
                leaves = np.ones(len(active), dtype=bool)
            if not leaves.any():
                continue
            self._exit_layers[active[leaves], self._step] = layer
            states = hidden if leaves.all() else hidden[on_device(leaves.nonzero()[0], self._device)]
            self._reader.leave(look, leaves, states)
            if layer < self._last_layer:
                self._exit_states.leave(rows.of(leaves), self._position, states)
            if leaves.all():
                break
            inside, rows = inside[~leaves], rows.of(~leaves)
            hidden = hidden[on_device((~leaves).nonzero()[0], self._device)]
        self._position += 1
        self._step += 1
        return self._reader.scores(len(tokens))

    def finish(self, ends: np.ndarray) -> None:
        """Takes rows that have ended, [active] bool, out of the batch."""
        self.active, self._rows = self.active[~ends], self._rows.of(~ends)
        if 0 < len(self.active) <= _COMPACT_BELOW * self._tokens.rows:
            self._exit_states.keep(self._rows.places)
            self._tokens.keep(self._rows.places)
            if self._head is not None:
                self._head.keep(self._rows.places)
            self._sources.keep(self._rows.places)
            self._rows = Rows(np.arange(len(self.active)), self._sources.row_sources, self._device)

    def result(self) -> DecodedBatch:
        return DecodedBatch(
            torch.from_numpy(self._exit_layers[:, : self._step]).to(self._device),
            torch.from_numpy(self._confidences[:, : self._step]).to(self._device),
            torch.from_numpy(self._highest_kept).to(self._device),
            torch.from_numpy(self._lowest_left).to(self._device),
            screen=self._reader.counts,
            kept=self._reader.kept,
        )

    def _run_layer(self, layer: int, rows: Rows, hidden: Tensor) -> Tensor:
        """One decoder layer, from 1. [n, d_model] → [n, d_model]."""
        weights, floor = self._weights.layers[layer - 1], self._weights.norm_floor
        self._tokens.fill(layer - 1, rows, self._position)
        projected = weights.queries_keys_values(normed(hidden, floor))  # [n, 3 * inner]
        attended = self._tokens.attend(layer - 1, rows, self._position, projected)
        hidden = weights.self_output.add(attended, hidden)
        queries = weights.cross_queries(normed(hidden, floor))  # [n, inner]
        hidden = weights.cross_output.add(self._sources.attend(layer - 1, rows, queries), hidden)
        inner = weights.feed_forward_in(normed(hidden, floor))
        if self._weights.gated:
            activated, linear = inner.chunk(2, dim=-1)
            inner = self._weights.activation(activated) * linear
        elif self._weights.activation is not None:
            inner = self._weights.activation(inner)
        return weights.feed_forward_out.add(inner, hidden)

    def _view(self, layer: int, rows: Rows, look: Look, previous: Tensor) -> LayerView:
        hidden = look.states

        def head() -> Tensor:
            if self._head is None:
                raise ValueError(f"decoding with measure {self._policy.measure!r} needs its exit head")
            return self._head.logits(layer, rows, self._position, hidden)

        def final_tokens() -> Tensor:
            deepest = hidden
            for deeper in range(layer + 1, self._last_layer + 1):
                deepest = self._run_layer(deeper, rows, deepest)
                self._tokens.forget(deeper - 1, rows, self._position)  # the token may still leave here
            return self._weights.logits(deepest).argmax(-1)

        return LayerView(hidden, previous, look.logits, head, final_tokens)

    def _decide(self, active: np.ndarray, look: Look, view: LayerView) -> np.ndarray:
        """Which of the rows at hand, numbered `active` in the batch, leave: bool, on the host. Keeps the
        extremes of both sides."""
        decay = self._policy.decay(self._step, self._new_tokens)
        limits = (self._thresholds[active] * decay).astype(np.float32)
        bounds = self._reader.response(look, limits) if self._policy.measure == "softmax" else None
        if bounds is None:
            confidence = self._measure(view).cpu().numpy()  # [n]; the one wait for the device in a layer
            bounds = confidence, confidence
        low, high = bounds
        if np.isnan(low).any():
            raise self._policy.nan_error()
        leaves = low > limits
        self._confidences[active[leaves], self._step] = low[leaves]
        kept, left = active[~leaves], active[leaves]
        self._highest_kept[kept] = np.maximum(self._highest_kept[kept], high[~leaves] / decay)
        self._lowest_left[left] = np.minimum(self._lowest_left[left], low[leaves] / decay)
        return leaves
