"""The weights of a T5-family decoder, packed for decoding.

Three things make one token cheap: norm weights are folded into the projection that follows, projections
that read the same input are one product, and matrices lie in the layout that is fastest for few rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


class Linear:
    """x @ W for a matrix that is stored input-major: for one row several times faster on a CPU."""

    def __init__(self, weight: Tensor):
        """weight: [out, in], as torch.nn.Linear keeps it."""
        self._matrix = weight.detach().T.contiguous()  # [in, out]

    @property
    def width(self) -> int:
        """Features that come out."""
        return self._matrix.shape[1]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        return inputs @ self._matrix


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. `inner` is heads * head_dim.

    queries_keys_values: d_model → 3 * inner, self-attention's norm folded in. cross_queries and
    feed_forward_in likewise; cross_keys_values reads the encoder's output as it is. A gated feed-forward
    has both its inputs in one product, the activated half first.
    bias: [heads, positions], self-attention's position bias by distance, 0 first.
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
    """A decoder. head: d_model → vocabulary, the final norm and the model's scale folded in.

    activation: pointwise function of the feed-forward; gated: whether its result is multiplied with the
    second half of the product. epsilon: of the norms.
    """

    embedding: Tensor  # [vocabulary, d_model]
    layers: tuple[LayerWeights, ...]
    head: Linear
    heads: int
    head_dim: int
    activation: torch.nn.Module
    gated: bool
    epsilon: float

    @property
    def d_model(self) -> int:
        return self.embedding.shape[1]


def normed(states: Tensor, epsilon: float) -> Tensor:
    """T5's norm without its weight: states / root mean square over the last dimension, in float32."""
    scale = torch.rsqrt(states.float().square().mean(-1, keepdim=True) + epsilon)
    return (states * scale).to(states.dtype)
