"""From transformers' T5-family modules to `early_exit.weights`."""

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from early_exit.weights import DecoderWeights, LayerWeights, Linear

_optimizer_steps = 0


def _count_step(*_) -> None:
    """Fused optimizers change parameters without moving their version counters."""
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


def packed_decoder(model, positions: int) -> DecoderWeights:
    """`decoder_weights` of a model, packed once and kept with it until its weights change.

    A change is seen by the tensors' version counters and by the steps of any optimizer; writing through
    `.data` moves neither.
    """
    parameters = [*model.decoder.parameters(), model.lm_head.weight]
    tensors = [(parameter.data_ptr(), parameter._version, parameter.dtype) for parameter in parameters]
    state = (_optimizer_steps, tensors)
    kept = model.__dict__.get("_packed_decoder")
    if kept is None or kept[0] != state or kept[1] < positions:
        longer = 1 << (positions - 1).bit_length()  # so that growing lengths do not pack again and again
        kept = model.__dict__["_packed_decoder"] = (state, longer, decoder_weights(model, longer))
    return kept[2]


def decoder_weights(model, positions: int) -> DecoderWeights:
    """Packs the decoder of a model of `models.t5`, for sequences of at most so many positions.

    Reads the weights as they are now: pack again after training. They get the embedding's type; float16
    becomes float32, whose range the residual stream of a T5 needs.
    """
    stack = model.decoder
    attention = stack.block[0].layer[0].SelfAttention
    last_query = attention.compute_bias(1, positions, past_seen_tokens=positions - 1)[0, :, 0]
    biases = last_query.flip(-1).detach()  # [heads, positions], by distance from the query, 0 first
    feed_forward = stack.block[0].layer[-1].DenseReluDense
    scale = model.head_input(torch.ones((), device=model.device)).item()
    dtype = stack.embed_tokens.weight.dtype
    dtype = torch.float32 if dtype == torch.float16 else dtype
    return DecoderWeights(
        embedding=stack.embed_tokens.weight.detach().to(dtype),
        layers=tuple(_layer_weights(block, biases.to(dtype), dtype) for block in stack.block),
        head=_packed(model.lm_head.weight.float() * stack.final_layer_norm.weight.float() * scale, dtype),
        heads=attention.n_heads,
        head_dim=attention.key_value_proj_dim,
        activation=feed_forward.act,
        gated=model.config.is_gated_act,
        epsilon=stack.final_layer_norm.variance_epsilon,
    )


def _layer_weights(block, bias: Tensor, dtype: torch.dtype) -> LayerWeights:
    self_layer, cross_layer, forward_layer = block.layer
    self_attention, cross_attention = self_layer.SelfAttention, cross_layer.EncDecAttention
    feed_forward = forward_layer.DenseReluDense
    inputs = [feed_forward.wi_0, feed_forward.wi_1] if hasattr(feed_forward, "wi_0") else [feed_forward.wi]

    def folded(norm, *projections) -> Linear:
        """Projections of one normed input, as one product that includes the norm's weight."""
        weights = torch.cat([projection.weight for projection in projections])
        return _packed(weights.float() * norm.weight.float(), dtype)

    return LayerWeights(
        queries_keys_values=folded(
            self_layer.layer_norm, self_attention.q, self_attention.k, self_attention.v
        ),
        keys_values=folded(self_layer.layer_norm, self_attention.k, self_attention.v),
        self_output=_packed(self_attention.o.weight, dtype),
        cross_queries=folded(cross_layer.layer_norm, cross_attention.q),
        cross_keys_values=_packed(torch.cat([cross_attention.k.weight, cross_attention.v.weight]), dtype),
        cross_output=_packed(cross_attention.o.weight, dtype),
        feed_forward_in=folded(forward_layer.layer_norm, *inputs),
        feed_forward_out=_packed(feed_forward.wo.weight, dtype),
        bias=bias,
    )


def _packed(weight: Tensor, dtype: torch.dtype) -> Linear:
    return Linear(weight.detach().to(dtype))
