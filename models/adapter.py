"""From transformers' T5-family modules to the plain description that kernels take.

The only file that knows how families differ: layers with or without a position bias, gates, scaled LM heads.
"""

import torch
from torch import Tensor

from early_exit.kernels.interface import (
    AttentionTensors,
    DecoderTensors,
    LayerTensors,
    StackSpec,
    StackTensors,
)
from early_exit.models.readable import weight_of


def decoder_tensors(model) -> DecoderTensors:
    """Describes the decoder of a model of `models.t5`, by the weights as they are now."""
    head = weight_of(model.lm_head)
    one = torch.ones((), device=head.device)
    return DecoderTensors(
        **_stack(model.decoder, model.config),
        head=head,
        head_scale=model.head_input(one).item(),
        exit_adapters=None if model.exit_adapters is None else model.exit_adapters.matrices(),
    )


def encoder_tensors(model) -> StackTensors:
    """Describes the encoder of a model that has T5's own: LongT5's attends otherwise."""
    return StackTensors(**_stack(model.encoder, model.config))


def _stack(stack, config) -> dict:
    attention, norm = stack.block[0].layer[0].SelfAttention, stack.final_layer_norm
    spec = StackSpec(
        d_model=config.d_model,
        heads=attention.n_heads,
        head_dim=attention.key_value_proj_dim,
        d_ff=config.d_ff,
        activation=config.dense_act_fn,
        gated=config.is_gated_act,
        norm_epsilon=norm.variance_epsilon,
        buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        causal=stack.is_decoder,
    )
    return {
        "spec": spec,
        "embedding": weight_of(stack.embed_tokens),
        "layers": tuple(_layer(block) for block in stack.block),
        "final_norm": norm.weight.detach(),
    }


def _layer(block) -> LayerTensors:
    own, *cross, last = block.layer
    feed_forward = last.DenseReluDense
    inputs = [feed_forward.wi_0, feed_forward.wi_1] if hasattr(feed_forward, "wi_0") else [feed_forward.wi]
    return LayerTensors(
        self_attention=_attention(own.SelfAttention, own.layer_norm),
        cross_attention=_attention(cross[0].EncDecAttention, cross[0].layer_norm) if cross else None,
        feed_forward_norm=last.layer_norm.weight.detach(),
        feed_forward_in=torch.cat([weight_of(layer) for layer in inputs]),
        feed_forward_out=weight_of(feed_forward.wo),
    )


def _attention(attention, norm) -> AttentionTensors:
    weights = [weight_of(getattr(attention, name)) for name in ("q", "k", "v", "o")]
    return AttentionTensors(norm.weight.detach(), *weights, relative_bias=_bias_table(attention))


def _bias_table(attention) -> Tensor | None:
    """[buckets, heads]. T5 has one in the first layer, UMT5 in each."""
    if not attention.has_relative_attention_bias:
        return None
    return weight_of(attention.relative_attention_bias)
