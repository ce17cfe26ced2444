"""From transformers' T5-family modules to `early_exit.weights`."""

import math
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from early_exit.heads import HeadWeights, head_kind
from early_exit.linear import has_exact_int8, pack, usable_precision
from early_exit.screen import ScreenedHead
from early_exit.weights import DecoderWeights, LayerWeights
from models.exit_heads import packed_head
from models.packing import made_once


def packed_decoder(model, positions: int, precision: str) -> DecoderWeights:
    """`decoder_weights` of a model, packed once and kept until its weights change."""
    parameters = [*model.decoder.parameters(), model.lm_head.weight]
    weights = made_once(
        model, ("decoder", precision), parameters, lambda: decoder_weights(model, 1, precision)
    )
    longest = 1 << (positions - 1).bit_length()  # growing lengths do not compute biases again and again
    biases = made_once(
        model,
        ("position biases", precision, longest),
        parameters,
        lambda: [
            _position_bias(model.decoder, number, longest).to(weights.dtype)
            for number in range(len(weights.layers))
        ],
    )
    layers = (replace(layer, bias=bias) for layer, bias in zip(weights.layers, biases, strict=True))
    return replace(weights, layers=tuple(layers))


def packed_exit_head(
    model, measure: str | None, weights: DecoderWeights, precision: str
) -> HeadWeights | None:
    """The exit head that a measure names, for the decoder of `weights`; None where it names none.

    Raises ValueError where the model lacks it, or has it from another model.
    """
    if measure is None or head_kind(measure) is None:
        return None

    def make() -> HeadWeights:
        model.check_exit_heads(measure)
        return packed_head(model.exit_heads[measure], weights.norm_floor, weights.dtype, precision)

    return made_once(model, ("exit head", measure, precision), model.parameters(), make)


def decoder_weights(model, positions: int, precision: str = "float32") -> DecoderWeights:
    """Packs the decoder of a model of `models.t5`, for sequences of at most so many positions.

    precision: of `early_exit.linear.PRECISIONS`. Reads the weights as they are now: pack again after
    training.
    """
    stack = model.decoder
    attention = stack.block[0].layer[0].SelfAttention
    feed_forward = stack.block[0].layer[-1].DenseReluDense
    device = model.lm_head.weight.device
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    gated, d_model, norm = model.config.is_gated_act, model.config.d_model, stack.final_layer_norm
    fused_relu = not gated and model.config.dense_act_fn == "relu"
    scale = model.head_input(torch.ones((), device=device)).item()
    return DecoderWeights(
        embedding=stack.embed_tokens.weight.detach(),
        layers=tuple(
            _layer_weights(block, _position_bias(stack, number, positions).to(dtype), precision, fused_relu)
            for number, block in enumerate(stack.block)
        ),
        head=pack(_after_norm(norm, model.lm_head) * scale, precision),
        vocabulary=model.lm_head.weight.detach(),
        head_scale=norm.weight.detach().float() * (scale * math.sqrt(d_model)),
        heads=attention.n_heads,
        head_dim=attention.key_value_proj_dim,
        activation=None if fused_relu else _ACTIVATIONS.get(model.config.dense_act_fn, feed_forward.act),
        gated=gated,
        norm_floor=torch.tensor(math.sqrt(d_model * norm.variance_epsilon), device=device),
        dtype=dtype,
        precision=precision,
    )


def packed_screen(model) -> ScreenedHead | None:
    """The model's LM head in float32, screened; None, with a warning, where the device has no kernel."""
    if not has_exact_int8(model.device):
        warnings.warn(f"no screened LM head on {model.device}: the whole head is computed", stacklevel=2)
        return None

    def make() -> ScreenedHead:
        return ScreenedHead(model.lm_head.weight)

    return made_once(model, "screened head", [model.lm_head.weight], make)


def precision_of(model, asked: str | None) -> str:
    """The precision that the engine computes in when `asked` for one.

    None stands for the type that the model is in; float16 becomes float32, whose range the residual stream
    of a T5 needs. Raises ValueError for an unknown name.
    """
    if asked is None:
        return "bfloat16" if model.decoder.embed_tokens.weight.dtype == torch.bfloat16 else "float32"
    return usable_precision(asked, model.device)


# transformers writes this one as eight operations.
_ACTIVATIONS = {"gelu_new": partial(torch.nn.functional.gelu, approximate="tanh")}


def _position_bias(stack, layer: int, positions: int) -> Tensor:
    """[heads, positions], by distance from the query, 0 last. T5 has one in the first layer, UMT5 in each."""
    attention = stack.block[layer].layer[0].SelfAttention
    if not attention.has_relative_attention_bias:
        attention = stack.block[0].layer[0].SelfAttention
    return attention.compute_bias(1, positions, past_seen_tokens=positions - 1)[0, :, 0].detach()


def _after_norm(norm, *projections) -> Tensor:
    """Weights of projections of one normed input: one product of what `early_exit.weights.normed` gives."""
    weights = torch.cat([projection.weight.detach().float() for projection in projections])
    return weights * norm.weight.detach().float() * math.sqrt(weights.shape[1])


def _layer_weights(block, bias: Tensor, precision: str, fused_relu: bool) -> LayerWeights:
    self_layer, cross_layer, forward_layer = block.layer
    self_attention, cross_attention = self_layer.SelfAttention, cross_layer.EncDecAttention
    feed_forward = forward_layer.DenseReluDense
    inputs = [feed_forward.wi_0, feed_forward.wi_1] if hasattr(feed_forward, "wi_0") else [feed_forward.wi]
    queries, keys, values = self_attention.q, self_attention.k, self_attention.v
    sources = torch.cat([cross_attention.k.weight, cross_attention.v.weight])
    return LayerWeights(
        queries_keys_values=pack(_after_norm(self_layer.layer_norm, queries, keys, values), precision),
        keys_values=pack(_after_norm(self_layer.layer_norm, keys, values), precision),
        self_output=pack(self_attention.o.weight, precision),
        cross_queries=pack(_after_norm(cross_layer.layer_norm, cross_attention.q), precision),
        cross_keys_values=pack(sources, precision),
        cross_output=pack(cross_attention.o.weight, precision),
        feed_forward_in=pack(_after_norm(forward_layer.layer_norm, *inputs), precision, relu=fused_relu),
        feed_forward_out=pack(feed_forward.wo.weight, precision),
        bias=bias,
    )
