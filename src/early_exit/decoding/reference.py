"""Reference decoding: the plainest loop that is right, one sequence at a time.

It defines what early-exit decoding means here; faster loops are tested against it.

References: CALM, Schuster et al. 2022, section 3.1 (states of skipped layers are copied from the
exit layer, and give these layers' keys and values).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import LayerView, get_measure
from early_exit.lm_head.top_k import NOT_PROPAGATED
from early_exit.policy import ExitPolicy


class DecoderSteps(Protocol):
    """A decoder over one source, advanced a token and a layer at a time.

    Layers count from 1. For every token, each layer up to the deepest that will ever run must be
    either run or filled, in order: its keys and values are kept, one entry a position.
    """

    num_layers: int

    def embed(self, token: Tensor) -> Tensor:
        """[1] int64 → [1, d_model]."""
        ...

    def run_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Input state of a layer [1, d_model] → its output [1, d_model]; keeps keys and values."""
        ...

    def fill_layer(self, layer: int, hidden: Tensor) -> None:
        """Keeps the keys and values that a skipped layer has for the exit state [1, d_model]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Output of the last layer [1, d_model] → logits [1, vocabulary]."""
        ...

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        """Output of any layer [1, d_model] → logits of its exit [1, vocabulary]."""
        ...

    def head_logits(self, head: str, layer: int, states: Tensor) -> Tensor:
        """Log-odds [1] of a layer's exit head at the last of the states [1, n, d_model] that all tokens so
        far had there: the layer's output, or the exit state of a token that left before."""
        ...

    def shortlist(self, size: int) -> Tensor:
        """The `size` most frequent tokens, [size] int64, in any order."""
        ...

    def fork(self) -> "DecoderSteps":
        """A copy; what it runs does not change this one."""
        ...


@dataclass(frozen=True)
class Decoded:
    """tokens: [new tokens] int64; exit_layers: [new tokens] int64, from 1; confidences: [new tokens]
    float32 at the exit, NaN where no exit was tried (full depth, static layers)."""

    tokens: Tensor
    exit_layers: Tensor
    confidences: Tensor


class Text:
    """A text under way. tokens: [n] int64, prefix first."""

    def __init__(self, prefix: Tensor):
        self.tokens, self._prefix_length = prefix, len(prefix)
        self._exit_layers: list[int] = []
        self._confidences: list[float] = []

    @property
    def new_tokens(self) -> int:
        """How many."""
        return len(self._exit_layers)

    def add(self, token: Tensor, exit_layer: int, confidence: float) -> None:
        """A new token [1]."""
        self.tokens = torch.cat([self.tokens, token])
        self._exit_layers.append(exit_layer)
        self._confidences.append(confidence)

    def cut(self, new_tokens: int) -> None:
        """So many new tokens stay, the first ones."""
        self.tokens = self.tokens[: self._prefix_length + new_tokens]
        del self._exit_layers[new_tokens:], self._confidences[new_tokens:]

    def decoded(self) -> Decoded:
        device = self.tokens.device
        return Decoded(
            self.tokens[self._prefix_length :],
            torch.tensor(self._exit_layers, device=device),
            torch.tensor(self._confidences, device=device),
        )


NextToken = Callable[[Tensor, Tensor], tuple[Tensor, bool]]


def decode_reference(
    decoder: DecoderSteps,
    prefix: Tensor,
    policy: ExitPolicy,
    next_token: NextToken,
    max_new_tokens: int,
) -> Decoded:
    """Decode one sequence.

    prefix: [n >= 1] int64, what the decoder starts from; all but its last token run at full depth.
    next_token: gets all tokens so far [1, n] and logits [1, vocabulary]; returns the chosen token
        [1] and whether the sequence ends with it.
    """
    last_layer = policy.last_layer(decoder.num_layers)
    history = {layer: [] for layer in range(1, last_layer + 1)}  # a state [1, d_model] a token so far
    for token in prefix[:-1]:
        hidden = decoder.embed(token[None])
        for layer in range(1, last_layer + 1):
            hidden = decoder.run_layer(layer, hidden)
            history[layer].append(hidden)

    text = Text(prefix)
    for position in range(max_new_tokens):
        exit_logits = ExitLogits(decoder, policy)
        hidden, layer, confidence = _run_until_exit(
            decoder, exit_logits, decoder.embed(text.tokens[-1:]), history, policy, position, max_new_tokens
        )
        for skipped in range(layer + 1, last_layer + 1):
            decoder.fill_layer(skipped, hidden)
            history[skipped].append(hidden)
        token, ends = next_token(text.tokens[None], exit_logits(layer, hidden))
        text.add(token, layer, confidence)
        if ends:
            break
    return text.decoded()


class ExitLogits:
    """Logits [1, vocabulary] of one token's exits. NOT_PROPAGATED is in the place of some: with top-k
    propagation, of all but the K likeliest at the first layer that was asked; below full depth, or at all
    layers, of those that are not on the policy's shortlist."""

    def __init__(self, decoder: DecoderSteps, policy: ExitPolicy):
        self._decoder, self._top_k, self._shortlist = decoder, policy.top_k, policy.shortlist
        self._listed_layers = decoder.num_layers - (not policy.shortlist_at_full_depth)
        self._proposed: tuple[int, Tensor] | None = None  # the layer, and which tokens

    def propose(self, layer: int, hidden: Tensor) -> None:
        """To be called with each exit that is tried."""
        if self._top_k is not None and self._proposed is None:
            self._proposed = (layer, self._decoder.exit_logits(layer, hidden).topk(self._top_k).indices)

    def __call__(self, layer: int, hidden: Tensor) -> Tensor:
        logits = self._decoder.exit_logits(layer, hidden)
        if self._shortlist is not None and layer <= self._listed_layers:
            ids = self._decoder.shortlist(self._shortlist)[None]
        elif self._proposed is None or layer == self._proposed[0]:
            return logits
        else:
            ids = self._proposed[1]
        return torch.full_like(logits, NOT_PROPAGATED).scatter(1, ids, logits.gather(1, ids))


def _run_until_exit(
    decoder: DecoderSteps,
    exit_logits: ExitLogits,
    hidden: Tensor,
    history: dict[int, list[Tensor]],
    policy: ExitPolicy,
    position: int,
    max_new_tokens: int,
) -> tuple[Tensor, int, float]:
    """Runs a token's layers, which are added to the history. Returns its exit state [1, d_model], exit
    layer and confidence there."""
    planned = policy.planned_layers(np.array([position]), np.zeros(1, int), decoder.num_layers)
    last_layer = int(planned[0])
    for layer in range(1, last_layer + 1):
        previous, hidden = hidden, decoder.run_layer(layer, hidden)
        history[layer].append(hidden)
        if not policy.tries_exit(layer, decoder.num_layers):
            continue
        exit_logits.propose(layer, hidden)
        measure = str(policy.measure)  # it tries exits
        view = LayerView(
            hidden,
            previous,
            logits=partial(exit_logits, layer, hidden),
            head=partial(_head_logits, decoder, measure, layer, history[layer]),
            final_tokens=partial(_final_tokens, decoder, layer, hidden),
        )
        confidence = get_measure(measure)(view)  # [1]
        if policy.exits(confidence, position, max_new_tokens).item():
            return hidden, layer, confidence.item()
    return hidden, last_layer, float("nan")


def _head_logits(decoder: DecoderSteps, head: str, layer: int, states: list[Tensor]) -> Tensor:
    return decoder.head_logits(head, layer, torch.stack(states, dim=1))


def _final_tokens(decoder: DecoderSteps, layer: int, hidden: Tensor) -> Tensor:
    """The likeliest token [1] at full depth, from the output of a layer."""
    fork = decoder.fork()
    for deeper in range(layer + 1, decoder.num_layers + 1):
        hidden = fork.run_layer(deeper, hidden)
    return fork.logits(hidden).argmax(-1)
