"""The decoder in training as it runs when tokens leave early, or with layers left out.

References: state propagation, CALM, Schuster et al. 2022 (section 3.4, appendix A); layer dropout, LayerSkip,
Elhoushi et al. 2024 (section 4.1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout
from transformers.masking_utils import create_bidirectional_mask


@dataclass(frozen=True)
class Perturbation:
    """What training does to the decoder, as shares in [0, 1].

    propagation: of tokens that hand the state of an exit, drawn evenly from 1 to L − 1, to the keys and
    values of the layers above it. layer_dropout: of rows that the last layer is left out for; the first layer
    always runs, and the share rises exponentially between. Raises ValueError for values out of range.
    """

    propagation: float = 0.0
    layer_dropout: float = 0.0

    def __post_init__(self):
        for name in ("propagation", "layer_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is outside [0, 1]")

    def __bool__(self) -> bool:
        return bool(self.propagation or self.layer_dropout)

    def exits(self, rows: int, length: int, num_layers: int, device: torch.device) -> Tensor:
        """Draws the layer that each token leaves at: [rows, length] int64, L where it does not."""
        exits = torch.full((rows, length), num_layers, device=device)
        if self.propagation and num_layers > 1:
            leaves = torch.rand(rows, length, device=device) < self.propagation
            exits = torch.where(leaves, torch.randint_like(exits, 1, num_layers), exits)
        return exits

    def kept(self, rows: int, num_layers: int, device: torch.device) -> Tensor:
        """Draws which layers run: [L, rows] bool."""
        shares = torch.tensor(layer_dropout_shares(self.layer_dropout, num_layers), device=device)
        return torch.rand(num_layers, rows, device=device) >= shares[:, None]


def layer_dropout_shares(highest: float, num_layers: int) -> list[float]:
    """p·(exp(l·ln 2 / (L − 1)) − 1) for l from 0 to L − 1: LayerSkip's equation 1 without its curriculum."""
    steps = max(1, num_layers - 1)
    return [highest * (math.exp(layer * math.log(2) / steps) - 1) for layer in range(num_layers)]


def perturbed_states(
    model,
    embeddings: Tensor,
    source: Tensor,
    source_mask: Tensor | None,
    exits: Tensor,
    kept: Tensor,
) -> list[Tensor]:
    """Raw outputs [rows, length, d_model] of the L decoder layers of a model of `models.t5`.

    embeddings: [rows, length, d_model]. source: [rows, source length, d_model], the encoder's output;
    source_mask: [rows, source length] of 0 and 1. exits: [rows, length], the layer that a token leaves at;
    other tokens then see, above it, keys and values made of its state there, itself its own. kept: [L, rows]
    bool, False where a layer is left out and hands on its input.
    """
    stack = model.decoder
    cross_mask = create_bidirectional_mask(
        config=stack.config,
        inputs_embeds=embeddings,
        attention_mask=source_mask,
        encoder_hidden_states=source,
    )
    hidden, states, bias = stack.dropout(embeddings), [], None
    carried = hidden  # of each token the output of the last layer that it ran
    for layer, block in enumerate(stack.block, start=1):
        bias = _position_bias(block.layer[0].SelfAttention, hidden.shape[1], bias)
        runs = kept[layer - 1]
        if runs.all():
            hidden = _run_block(block, hidden, carried, bias, source, cross_mask)
        elif runs.any():
            mask = None if cross_mask is None else cross_mask[runs]
            output = _run_block(block, hidden[runs], carried[runs], bias, source[runs], mask)
            hidden = hidden.index_put((runs,), output)
        states.append(hidden)
        carried = torch.where((exits >= layer)[..., None], hidden, carried)
    return states


def _position_bias(attention, length: int, before: Tensor | None) -> Tensor:
    """[1, heads, length, length], −∞ ahead of a token. UMT5 has one in each layer, the others share the first
    layer's."""
    if before is not None and not attention.has_relative_attention_bias:
        return before
    bias = attention.compute_bias(length, length, device=attention.q.weight.device)
    ahead = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    return bias.masked_fill(ahead, -torch.inf)


def _run_block(
    block, hidden: Tensor, carried: Tensor, bias: Tensor, source: Tensor, cross_mask: Tensor | None
) -> Tensor:
    """[rows, length, d_model]. hidden: what tokens bring; carried: what others see of them."""
    self_attention, cross_attention = block.layer[0], block.layer[1]
    attended = _attend(
        self_attention.SelfAttention,
        self_attention.layer_norm(hidden),
        self_attention.layer_norm(carried),
        bias,
    )
    hidden = hidden + self_attention.dropout(attended)
    hidden = cross_attention(hidden, source, attention_mask=cross_mask)[0]
    return block.layer[-1](hidden)


def _attend(attention, own: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
    """T5's attention, unscaled. own, seen: [rows, length, d_model], normed: what a token is to itself, and to
    those behind it."""

    def heads(projected: Tensor) -> Tensor:  # [rows, heads, length, head_dim]
        return projected.unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)

    queries = heads(attention.q(own))
    keys, values, own_keys, own_values = (
        heads(project(states)) for states in (seen, own) for project in (attention.k, attention.v)
    )
    scores = queries @ keys.transpose(-1, -2)  # [rows, heads, length, length]
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    scores = torch.where(itself, (queries * own_keys).sum(-1, keepdim=True), scores) + bias
    weights = scores.float().softmax(-1).type_as(values)
    weights = dropout(weights, attention.dropout, attention.training)
    attended = weights @ values + weights.diagonal(dim1=-2, dim2=-1)[..., None] * (own_values - values)
    return attention.o(attended.transpose(1, 2).flatten(2))
