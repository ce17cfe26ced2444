"""The kernels in plain torch, for any device.

Norm weights are folded into the product that follows, and products that read the same input are one.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import gelu, relu, scaled_dot_product_attention, silu

from early_exit.decoding.kv_cache import KVCache, SourceCache, on_device, take
from early_exit.kernels.interface import DecoderTensors, Items, LayerTensors, Top
from early_exit.kernels.relative_bias import bias_by_distance
from early_exit.linear import Linear

# Names as transformers' configurations have them.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_new": partial(gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "silu": silu,
    "swish": silu,
}

_PLANLESS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def normed(states: Tensor, floor: Tensor) -> Tensor:
    """T5's norm but for its weight and a factor √d, which the product that follows has folded in.

    states: [..., d]. With floor = √(d·ε), x / hypot(‖x‖, √(d·ε)) = x / √(d·(mean x² + ε)).
    """
    return states / torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), floor)


class TorchKernels:
    """`early_exit.kernels.interface.Kernels` on the device of the tensors it is given."""

    fuses_top = False

    def __init__(self, tensors: DecoderTensors, precision: str):
        """precision: "float32" or "bfloat16"."""
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision {precision!r} of torch's kernels; allowed: float32, bfloat16")
        spec = tensors.spec
        self.tensors, self.precision = tensors, precision
        self.device = tensors.head.device
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.norm_floor = torch.tensor(math.sqrt(spec.d_model * spec.norm_epsilon), device=self.device)
        self._layers = [_Layer(layer, tensors, self.dtype) for layer in tensors.layers]
        self._head = Linear(self.folded_head())
        adapters = () if tensors.exit_adapters is None else tensors.exit_adapters.to(self.dtype)
        self._adapters = [Linear(adapter) for adapter in adapters]
        self._biases = _Biases(tensors, self.dtype)

    def folded_head(self, tokens: Tensor | slice = slice(None)) -> Tensor:
        """Rows of the LM head with the norm before them. [n, d_model], in `dtype`."""
        tensors = self.tensors
        return (_after_norm(tensors.final_norm, tensors.head[tokens]) * tensors.head_scale).to(self.dtype)

    def embed(self, tokens: np.ndarray) -> Tensor:
        return self.tensors.embedding[on_device(tokens, self.device)].float()

    def adapted(self, layer: int, states: Tensor) -> Tensor:
        return states if layer > len(self._adapters) else self._adapters[layer - 1].add(states, states)

    def logits(self, states: Tensor) -> Tensor:
        return self._head(normed(states, self.norm_floor)).float()

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        inputs = normed(states, self.norm_floor).to(self.dtype)
        return torch.bmm(self.folded_head(tokens), inputs[:, :, None])[:, :, 0].float()

    def top(self, states: Tensor) -> Top:
        return _top(self.logits(states))

    def shortlist(self, tokens: Tensor) -> "TorchShortlist":
        return TorchShortlist(self, tokens.to(self.device))

    def run(
        self, items: Items, states: Tensor, first: int, last: int, cache: KVCache, sources: SourceCache
    ) -> Tensor:
        seen = _Seen(items, sources, self.device)
        with attention_kernels(self.dtype, self.device):
            for layer in range(first, last):
                states = self._run_layer(layer, items, states, cache, sources, seen)
        return states

    def _run_layer(
        self,
        layer: int,
        items: Items,
        states: Tensor,
        cache: KVCache,
        sources: SourceCache,
        seen: "_Seen",
    ) -> Tensor:
        """[n, d_model] → [n, d_model]; layers from 0 here."""
        packed, spec = self._layers[layer], self.tensors.spec
        project = partial(self._split, packed.queries_keys_values, parts=3)
        fill = partial(self._split, packed.keys_values, parts=2)
        mask = seen.own(self._biases(layer, cache.capacity))
        attended = attend_to_own(layer, items, states, cache, project, fill, mask)  # [n, inner]
        states = packed.self_output.add(attended, states)
        queries = packed.cross_queries(normed(states, self.norm_floor))
        queries = queries.view(len(items), spec.heads, 1, spec.head_dim)
        attended = self._attend_to_sources(layer, queries, sources, seen)
        states = packed.cross_output.add(attended, states)
        inner = packed.feed_forward_in(normed(states, self.norm_floor))  # [n, d_ff], or twice that
        if spec.gated:
            activated, linear = inner.chunk(2, dim=-1)
            inner = packed.activation(activated) * linear
        elif packed.activation is not None:
            inner = packed.activation(inner)
        return packed.feed_forward_out.add(inner, states)

    def _split(self, product, states: Tensor, parts: int) -> Tensor:
        """A product of the normed states, [parts, n, heads, head_dim]."""
        spec = self.tensors.spec
        projected = product(normed(states, self.norm_floor)).to(self.dtype)
        return projected.view(len(states), parts, spec.heads, spec.head_dim).transpose(0, 1)

    def _attend_to_sources(self, layer: int, queries: Tensor, sources: SourceCache, seen: "_Seen") -> Tensor:
        """Cross-attention. queries: [n, heads, 1, head_dim] → [n, inner]."""
        self._fill_sources(layer, seen.entries, sources)
        kept = take(sources.layers[layer], 1, seen.entries)
        keys, values = kept[..., : seen.longest_source, :]  # [n, heads, longest, head_dim]
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=seen.source_mask, scale=1.0)
        return attended.reshape(len(queries), -1)

    def _fill_sources(self, layer: int, entries: np.ndarray, sources: SourceCache) -> None:
        if sources.filled[layer, entries].all():
            return
        spec = self.tensors.spec
        new = np.unique(entries[~sources.filled[layer, entries]])
        for length in np.unique(sources.lengths[new]).tolist():
            same = on_device(new[sources.lengths[new] == length], self.device)  # [m]
            projected = self._layers[layer].cross_keys_values(sources.states[same, :length].flatten(0, 1))
            projected = projected.view(len(same), length, 2, spec.heads, spec.head_dim)
            # [2, m, heads, length, head_dim]
            sources.layers[layer][:, same, :, :length] = projected.permute(2, 0, 3, 1, 4)
        sources.filled[layer, new] = True


class TorchShortlist:
    """`early_exit.kernels.interface.Shortlist`."""

    def __init__(self, kernels: TorchKernels, tokens: Tensor):
        self.tokens, self._norm_floor = tokens, kernels.norm_floor
        self._head = Linear(kernels.folded_head(tokens))

    def logits(self, states: Tensor) -> Tensor:
        return self._head(normed(states, self._norm_floor)).float()

    def top(self, states: Tensor) -> Top:
        top = _top(self.logits(states))
        return Top(self.tokens.cpu().numpy()[top.tokens], top.response)


def _top(logits: Tensor) -> Top:
    largest = logits.softmax(-1).topk(min(2, logits.shape[1]), dim=-1).values  # [n, 2], or [n, 1]
    response = largest[:, 0] - largest[:, 1:].sum(-1)
    return Top(logits.argmax(-1).cpu().numpy(), response.cpu().numpy())


def attention_kernels(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Keeps bfloat16 on GPUs from cuDNN's attention, which plans anew for other lengths. The first text of 64
    tokens took 7 s on an H200, where float32, which it does not serve, took 0.4; not measured since."""
    return sdpa_kernel(_PLANLESS) if (dtype, device.type) == (torch.bfloat16, "cuda") else nullcontext()


def attend_to_own(
    layer: int, items: Items, states: Tensor, cache: KVCache, project, fill, mask: Tensor | None
) -> Tensor:
    """Self-attention of items, whose keys and values go into the cache.

    project: states → queries, keys and values [3, n, heads, head_dim]; fill: → keys and values alone, for
    positions that wait. mask: see `causal_mask`. Returns [n, inner].
    """
    waiting = cache.enter(layer, items.slots, items.positions)
    held = cache.layers[layer].permute(1, 3, 0, 2, 4)  # [slots, positions, 2, heads, head_dim]
    if waiting is not None:
        where = tuple(on_device(each, states.device) for each in waiting)
        held[where] = fill(cache.exit_states[where]).transpose(0, 1)
    queries, *own = project(states)
    held[items.on(states.device)] = torch.stack(own, dim=1)  # [n, 2, heads, head_dim]
    length = int(items.positions.max()) + 1
    keys, values = take(cache.layers[layer], 1, items.slots)[..., :length, :]  # [n, heads, length, head_dim]
    attended = scaled_dot_product_attention(queries[:, :, None], keys, values, attn_mask=mask, scale=1.0)
    return attended.reshape(len(items), -1)


def causal_mask(items: Items, bias: Tensor | None, device: torch.device) -> Tensor | None:
    """What is added to attention scores [n, heads, 1, length] of items over the positions up to the last of
    theirs: the bias, and −inf for later positions; or what counts, as bool; None if all do.

    bias: [heads, capacity] by distance, the largest first; or None.
    """
    positions, length = items.positions, int(items.positions.max()) + 1
    if (positions == length - 1).all():
        if bias is None:
            return None
        # A copy: on GPUs attention fails for a mask whose first number is not on a multiple of 16 bytes.
        return bias[:, bias.shape[1] - length :].clone()[None, :, None]
    distances = items.on(device)[1][:, None] - torch.arange(length, device=device)  # [n, length]
    if bias is None:
        return (distances >= 0)[:, None, None]
    by_item = bias[:, bias.shape[1] - 1 - distances.clamp(min=0)].transpose(0, 1)  # [n, heads, length]
    return by_item.masked_fill((distances < 0)[:, None], -torch.inf)[:, :, None]


class _Seen:
    """What the items of a call attend to, the same in all layers that the call runs."""

    def __init__(self, items: Items, sources: SourceCache, device: torch.device):
        self._items, self._device = items, device
        self._own: dict[int, Tensor | None] = {}  # by the bias it is made of
        self.entries = sources.of_slot[items.slots]
        lengths = sources.lengths[self.entries]
        self.longest_source, self.source_mask = int(lengths.max()), None
        if (lengths != self.longest_source).any():
            places = torch.arange(self.longest_source, device=device)
            self.source_mask = (places < on_device(lengths, device)[:, None])[:, None, None]

    def own(self, bias: Tensor | None) -> Tensor | None:
        """The `causal_mask` with this bias."""
        if id(bias) not in self._own:
            self._own[id(bias)] = causal_mask(self._items, bias, self._device)
        return self._own[id(bias)]


class _Biases:
    """Position biases of the layers, by distance; longer ones are made when they are first needed."""

    def __init__(self, tensors: DecoderTensors, dtype: torch.dtype):
        tables = [layer.self_attention.relative_bias for layer in tensors.layers]
        self._tables = [tables[0] if table is None else table for table in tables]
        self._spec, self._dtype = tensors.spec, dtype
        self._made: dict[tuple[int, int], Tensor] = {}

    def __call__(self, layer: int, longest: int) -> Tensor | None:
        """[heads, longest], the largest distance first."""
        table = self._tables[layer]
        if table is None:
            return None
        key = (id(table), longest)
        if key not in self._made:
            bias = bias_by_distance(table.float(), self._spec.max_distance, self._spec.causal, longest)
            self._made[key] = bias.flip(1).to(self._dtype)
        return self._made[key]


class _Layer:
    """One layer's packed products. `activation` is None where the product before it includes it."""

    def __init__(self, layer: LayerTensors, tensors: DecoderTensors, dtype: torch.dtype):
        own, cross, spec = layer.self_attention, layer.cross_attention, tensors.spec
        fused = spec.activation == "relu" and not spec.gated
        inner = _after_norm(layer.feed_forward_norm, layer.feed_forward_in)
        self.queries_keys_values = Linear(_after_norm(own.norm, own.queries, own.keys, own.values).to(dtype))
        self.keys_values = Linear(_after_norm(own.norm, own.keys, own.values).to(dtype))
        self.self_output = Linear(own.output.to(dtype))
        self.cross_queries = Linear(_after_norm(cross.norm, cross.queries).to(dtype))
        self.cross_keys_values = Linear(torch.cat([cross.keys, cross.values]).to(dtype))
        self.cross_output = Linear(cross.output.to(dtype))
        self.feed_forward_in = Linear(inner.to(dtype), relu=fused)
        self.feed_forward_out = Linear(layer.feed_forward_out.to(dtype))
        self.activation = None if fused else ACTIVATIONS[spec.activation]


def _after_norm(norm: Tensor, *weights: Tensor) -> Tensor:
    """Weights of projections of one normed input: one product of what `normed` gives."""
    together = torch.cat([weight.float() for weight in weights])
    return together * norm.float() * math.sqrt(together.shape[-1])
