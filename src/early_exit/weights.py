"""The weights of a T5-family decoder, packed for decoding.

Three things make one token cheap: norm weights are folded into the projection that follows, projections
that read the same input are one product, and the products are those of `early_exit.linear`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from early_exit.linear import Linear


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. `inner` is heads * head_dim.

    queries_keys_values: d_model → 3 * inner of what `normed` gives. keys_values, cross_queries and
    feed_forward_in likewise; cross_keys_values reads the encoder's output as it is. A gated feed-forward
    has both its inputs in one product, the activated half first.
    bias: [heads, positions], self-attention's position bias by distance, 0 last.
    """

    queries_keys_values: Linear
    keys_values: Linear
    self_output: Linear
    cross_queries: Linear
    cross_keys_values: Linear
    cross_output: Linear
    feed_forward_in: Linear
    feed_forward_out: Linear
    bias: Tensor


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder. head: d_model → vocabulary of what `normed` gives, the model's scale folded in. The same
    product from the model's own weights: what `normed` gives, times head_scale, with the rows of vocabulary.

    The residual stream is float32 in every precision; `dtype` is that of keys, values and logits.
    precision: a name of `early_exit.linear.PRECISIONS`, of all products.
    activation: pointwise function of the feed-forward, None where its product includes it; gated:
    whether the result is multiplied with the second half of the product. norm_floor: scalar, √(d_model
    times the norms' epsilon), see `normed`.
    """

    embedding: Tensor  # [vocabulary, d_model]
    layers: tuple[LayerWeights, ...]
    head: Linear
    vocabulary: Tensor  # [vocabulary, d_model]
    head_scale: Tensor  # [d_model], float32
    heads: int
    head_dim: int
    activation: Callable[[Tensor], Tensor] | None
    gated: bool
    norm_floor: Tensor
    dtype: torch.dtype
    precision: str

    @property
    def d_model(self) -> int:
        return self.embedding.shape[1]

    @property
    def longest(self) -> int:
        """The positions that the position bias is known for."""
        return self.layers[0].bias.shape[1]

    def embed(self, tokens: Tensor) -> Tensor:
        """[rows] int64 → [rows, d_model] float32."""
        return self.embedding[tokens].float()

    def logits(self, states: Tensor) -> Tensor:
        """Outputs of a layer [rows, d_model] → logits of its exit [rows, vocabulary] float32."""
        return self.head(normed(states, self.norm_floor)).float()

    def head_inputs(self, states: Tensor) -> Tensor:
        """Outputs of a layer [rows, d_model] → what the rows of `vocabulary` are multiplied with."""
        return normed(states, self.norm_floor) * self.head_scale


def normed(states: Tensor, floor: Tensor) -> Tensor:
    """T5's norm but for its weight and a factor √d, which the product that follows has folded in.

    states: [..., d]. With floor = √(d·ε), x / hypot(‖x‖, √(d·ε)) = x / √(d·(mean x² + ε)).
    """
    return states / torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), floor)
