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
from early_exit.memory import SourceMemory, TokenMemory, on_device
from early_exit.policy import ExitPolicy
from early_exit.weights import DecoderWeights, LayerWeights, normed

# Rows are dropped from the caches once no more than this share of them is unfinished.
_COMPACT_BELOW = 0.5

NextTokens = Callable[[np.ndarray, Tensor], tuple[Tensor, np.ndarray]]


@dataclass(frozen=True)
class DecodedBatch:
    """What decoding a batch gave, a row each; padded to the longest row.

    exit_layers: [rows, steps] int64, 0 after a row's end. confidences: [rows, steps] float32 at the exit,
    NaN where no exit was tried and after the end. highest_kept: [rows] float32, the highest confidence
    that did not exit; lowest_left: [rows], the lowest that did (-inf and inf where there is none), each
    divided by the threshold's decay at its position, so that they compare with λ: the row's text is the
    same at every λ' with highest_kept <= λ' < lowest_left.
    """

    exit_layers: Tensor
    confidences: Tensor
    highest_kept: Tensor
    lowest_left: Tensor


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
) -> DecodedBatch:
    """Decodes a batch.

    source: [sources, length, d_model], the encoder's output; source_mask: [sources, length], 0 where
    padded, or None. row_sources: [rows] int64, the source of each row; row i reads source i if None.
    prefix: [rows, n >= 1] int64, what decoding starts from; all but its last token run at full depth.
    next_tokens: gets the numbers of the unfinished rows [active] and their logits [active, vocabulary];
        returns their tokens [active] int64 and which of them end [active] bool, on the host.

    Raises ValueError where thresholds or sources do not fit the batch, and for NaN confidences.
    """
    rows = len(prefix)
    policy.check_rows(rows)
    row_sources = np.arange(rows) if row_sources is None else row_sources
    if len(row_sources) != rows or row_sources.max() >= len(source):
        raise ValueError(f"{len(row_sources)} row sources for {rows} rows and {len(source)} sources")
    source = source.to(weights.embedding.dtype)
    run = _Run(weights, source, source_mask, row_sources, policy, prefix.shape[1], max_new_tokens)
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


class _Run:
    """The state of one call of `decode`.

    Rows have three numberings: in the batch (`active` holds the unfinished ones), in the memories (which
    drop finished rows now and then), and among the unfinished, which tensors of one step use.
    """

    def __init__(
        self, weights, source, source_mask, row_sources, policy: ExitPolicy, prefix_length, new_tokens
    ):
        rows = len(row_sources)
        self._weights = weights
        self._policy = policy
        self._measure = None if policy.measure is None else get_measure(policy.measure)
        self._last_layer = policy.last_layer(len(weights.layers))
        self._tokens = TokenMemory(weights, rows, prefix_length + new_tokens)
        self._sources = SourceMemory(weights, source, source_mask, row_sources)
        self.active = np.arange(rows)
        self._places = np.arange(rows)  # in the memories, of the active rows
        self._position, self._step, self._new_tokens = 0, 0, new_tokens
        device = source.device
        self._exit_layers = np.zeros((rows, new_tokens), dtype=np.int64)
        self._confidences = torch.full((rows, new_tokens), float("nan"), device=device)
        self._highest_kept = torch.full((rows,), -float("inf"), device=device)
        self._lowest_left = torch.full((rows,), float("inf"), device=device)
        thresholds = torch.as_tensor(policy.threshold, dtype=torch.float32)
        self._thresholds = thresholds.expand(rows).to(device)

    def full_depth(self, tokens: Tensor) -> None:
        """Runs all layers for a token of every row, without choosing a next one."""
        hidden = self._weights.embedding[tokens]
        for layer in range(self._last_layer):
            hidden = self._run_layer(layer, self._places, hidden)
        self._position += 1

    def step(self, tokens: Tensor) -> Tensor:
        """Runs the last tokens [active] until each leaves. Returns logits [active, vocabulary]."""
        hidden = self._weights.embedding[tokens]
        inside = np.arange(len(tokens))  # among the active rows, those that have not left
        logits = None
        for layer in range(1, self._last_layer + 1):
            previous, hidden = hidden, self._run_layer(layer - 1, self._places[inside], hidden)
            if not self._policy.tries_exit(layer, len(self._weights.layers)):
                continue
            view = LayerView(hidden, previous, _Once(self._logits, hidden))
            confidence = self._measure(view)  # [inside]
            leaves = self._decide(confidence, inside)
            if not leaves.any():
                continue
            if logits is None:
                logits = hidden.new_empty(len(tokens), self._weights.head.width)
            logits = self._leave(inside, leaves, confidence, layer, view, logits)
            hidden = hidden[on_device((~leaves).nonzero()[0], hidden.device)]
            inside = inside[~leaves]
            if not len(inside):
                break
        if len(inside):
            self._exit_layers[self.active[inside], self._step] = self._last_layer
            rest = self._logits(hidden)
            if logits is None:
                logits = rest
            else:
                logits[on_device(inside, logits.device)] = rest
        self._position += 1
        self._step += 1
        return logits

    def finish(self, ends: np.ndarray) -> None:
        """Takes rows that have ended, [active] bool, out of the batch."""
        self.active, self._places = self.active[~ends], self._places[~ends]
        if 0 < len(self.active) <= _COMPACT_BELOW * self._tokens.rows:
            self._tokens.keep(self._places)
            self._sources.keep(self._places)
            self._places = np.arange(len(self.active))

    def result(self) -> DecodedBatch:
        return DecodedBatch(
            torch.from_numpy(self._exit_layers[:, : self._step]).to(self._confidences.device),
            self._confidences[:, : self._step],
            self._highest_kept,
            self._lowest_left,
        )

    def _run_layer(self, layer: int, places: np.ndarray, hidden: Tensor) -> Tensor:
        """One decoder layer, from 0, for the rows at `places` in the memories. [n, d_model] twice."""
        weights, epsilon = self._weights.layers[layer], self._weights.epsilon
        self._tokens.fill(layer, places, self._position)
        projected = weights.queries_keys_values(normed(hidden, epsilon))  # [n, 3 * inner]
        attended = self._tokens.attend(layer, places, self._position, projected)
        hidden = hidden + weights.self_output(attended)
        queries = weights.cross_queries(normed(hidden, epsilon))  # [n, inner]
        hidden = hidden + weights.cross_output(self._sources.attend(layer, places, queries))
        return hidden + self._feed_forward(weights, normed(hidden, epsilon))

    def _feed_forward(self, weights: LayerWeights, inputs: Tensor) -> Tensor:
        inner = weights.feed_forward_in(inputs)
        if self._weights.gated:
            activated, linear = inner.chunk(2, dim=-1)
            return weights.feed_forward_out(self._weights.activation(activated) * linear)
        return weights.feed_forward_out(self._weights.activation(inner))

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._weights.head(normed(hidden, self._weights.epsilon))

    def _decide(self, confidence: Tensor, inside: np.ndarray) -> np.ndarray:
        """Which of the rows leave, [inside] bool on the host: the one wait for the device in a layer."""
        rows = on_device(self.active[inside], confidence.device)
        decay = self._policy.decay(self._step, self._new_tokens)
        thresholds = self._thresholds[rows] * decay
        leaves = confidence > thresholds
        scaled = confidence / decay
        self._highest_kept[rows] = self._highest_kept[rows].maximum(scaled.masked_fill(leaves, -float("inf")))
        self._lowest_left[rows] = self._lowest_left[rows].minimum(scaled.masked_fill(~leaves, float("inf")))
        # NaN leaves nowhere and would be found nowhere: it travels with the decision.
        decision = torch.stack([leaves, confidence.isnan()]).cpu().numpy()
        if decision[1].any():
            raise self._policy.nan_error()
        return decision[0]

    def _leave(
        self,
        inside: np.ndarray,
        leaves: np.ndarray,
        confidence: Tensor,
        layer: int,
        view: LayerView,
        logits: Tensor,
    ) -> Tensor:
        """Notes the rows that leave after `layer`, and puts their logits into [active, vocabulary]."""
        gone = inside[leaves]
        chosen = on_device(leaves.nonzero()[0], logits.device)
        states = view.hidden[chosen]
        rows = self.active[gone]
        self._exit_layers[rows, self._step] = layer
        self._confidences[on_device(rows, logits.device), self._step] = confidence[chosen]
        self._tokens.leave(self._places[gone], self._position, states)
        computed = view.logits.value  # a measure that asked for logits has computed these
        gone_logits = self._logits(states) if computed is None else computed[chosen]
        if len(gone) == len(logits):
            return gone_logits
        logits[on_device(gone, logits.device)] = gone_logits
        return logits


class _Once:
    """Calls a function at most once and keeps what it gave, None before."""

    def __init__(self, function: Callable[[Tensor], Tensor], argument: Tensor):
        self._function, self._argument = function, argument
        self.value: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.value is None:
            self.value = self._function(self._argument)
        return self.value
