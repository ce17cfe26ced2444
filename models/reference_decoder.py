"""The decoder of a T5-family model, advanced a token and a layer at a time.

It runs transformers' own blocks, so that reference decoding inherits their arithmetic.
"""

import copy

from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask

from early_exit.models.token_ranking import shortlist_of


class ReferenceDecoder:
    """`early_exit.DecoderSteps` over one source.

    source: [1, length, d_model], the encoder's output; source_mask: [1, length] of 0 and 1, or None.
    """

    def __init__(self, model, source: Tensor, source_mask: Tensor | None = None):
        self._model = model
        self._stack = model.decoder
        self._source = source
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._source_mask = create_bidirectional_mask(
            config=self._stack.config,
            inputs_embeds=source[:, :1],
            attention_mask=source_mask,
            encoder_hidden_states=source,
        )
        last_attention = self._stack.block[-1].layer[0].SelfAttention
        self._every_layer_has_a_bias = last_attention.has_relative_attention_bias  # UMT5
        # Of the current position; T5's first layer computes them and the others share them.
        self._position_bias = self._cross_bias = None
        self.num_layers = len(self._stack.block)

    def embed(self, token: Tensor) -> Tensor:
        self._position_bias = None
        return self._stack.embed_tokens(token)

    def run_layer(self, layer: int, hidden: Tensor) -> Tensor:
        arguments = {
            "encoder_hidden_states": self._source,
            "encoder_attention_mask": self._source_mask,
            "past_key_values": self._cache,
        }
        block, hidden = self._stack.block[layer - 1], hidden[:, None]  # [1, 1, d_model]
        if self._every_layer_has_a_bias:
            return block(hidden, **arguments)[:, 0]
        hidden, *others = block(
            hidden,
            position_bias=self._position_bias,
            encoder_decoder_position_bias=self._cross_bias,
            **arguments,
        )
        # Two biases; LongT5 has attention weights after each.
        self._position_bias, self._cross_bias = others if len(others) == 2 else others[::2]
        return hidden[:, 0]

    def fill_layer(self, layer: int, hidden: Tensor) -> None:
        sublayer = self._stack.block[layer - 1].layer[0]
        attention, normed = sublayer.SelfAttention, sublayer.layer_norm(hidden)
        shape = (1, 1, -1, attention.key_value_proj_dim)
        keys, values = (
            project(normed).view(shape).transpose(1, 2)  # [1, heads, 1, head_dim]
            for project in (attention.k, attention.v)
        )
        self._cache.self_attention_cache.update(keys, values, layer - 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._model.exit_logits(hidden)

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        return self._model.exit_logits(self._model.adapted(layer, hidden))

    def shortlist(self, size: int) -> Tensor:
        return shortlist_of(self._model, size)

    def head_logits(self, head: str, layer: int, states: Tensor) -> Tensor:
        return self._model.exit_heads[head](layer, states)[:, -1]

    def fork(self) -> "ReferenceDecoder":
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        return other
