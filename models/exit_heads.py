"""Exit heads as modules, made, trained and saved with a model; `early_exit.heads` is their decoding side."""

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from early_exit.heads import HEAD_NAMES, HeadWeights, LayerHead, head_kind
from early_exit.linear import pack

_HEAD_DIM = 64  # attention of this width or a multiple of it has heads of this size, other widths have one


class ExitHead(nn.Module):
    """A classifier of states of one layer, or of all layers: log-odds that an exit agrees with full depth.

    name: of a kind of `early_exit.heads`. States are normed as T5's norm does, without a weight, so that
    layers whose states differ in size by a factor of ten train alike.
    """

    def __init__(self, name: str, d_model: int, epsilon: float):
        super().__init__()
        kind = head_kind(name)
        if kind is None:
            raise ValueError(f"{name!r} is no exit head; known: {', '.join(HEAD_NAMES)}")
        self._epsilon = epsilon
        width = kind.attention_width or d_model
        self.num_heads = width // _HEAD_DIM if width % _HEAD_DIM == 0 else 1
        self.projections = None if kind.attention_width is None else nn.Linear(d_model, 4 * width, bias=False)
        self.hidden = nn.Linear(width, width, bias=False) if kind.mlp else None
        self.output = nn.Linear(width, 1)

    def forward(self, states: Tensor) -> Tensor:
        """states: [rows, positions, d_model], raw outputs of a layer for all tokens so far. Returns
        [rows, positions], float32."""
        states = states.float()
        features = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self._epsilon)
        if self.projections is not None:
            *attention, own = self.projections(features).chunk(4, dim=-1)  # each [rows, positions, width]
            queries, keys, values = (
                each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [rows, heads, positions, head_dim]
                for each in attention
            )
            attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
            features = own + attended.transpose(1, 2).flatten(2)
        if self.hidden is not None:
            features = self.hidden(features).relu()
        return self.output(features).squeeze(-1)


class ExitHeads(nn.Module):
    """The exit heads of one name: one for each of the layers 1 to L − 1, or one shared by them.

    agreed, seen: [L − 1] int64, over the training set: tokens whose exit agreed, and all that were labelled.

    Training fits `log_odds` to agreement as frequent as it is; decoding subtracts the log-odds of agreement
    in the whole training set (logit adjustment, Menon et al. 2021). Deep layers nearly always agree: without
    that, their confidence is high for every token, and a threshold fit for low layers lets all leave there.
    """

    agreed: Tensor
    seen: Tensor

    def __init__(self, name: str, num_layers: int, d_model: int, epsilon: float, shared: bool = False):
        super().__init__()
        with torch.random.fork_rng():  # the same start whatever other heads are trained beside it
            torch.manual_seed((torch.initial_seed() + zlib.crc32(name.encode())) % 2**63)
            self.heads = nn.ModuleList(
                ExitHead(name, d_model, epsilon) for _ in range(1 if shared else num_layers - 1)
            )
        self.register_buffer("agreed", torch.zeros(num_layers - 1, dtype=torch.long))
        self.register_buffer("seen", torch.zeros(num_layers - 1, dtype=torch.long))

    def forward(self, layer: int, states: Tensor) -> Tensor:
        """What decoding reads: log-odds [rows, positions] of agreement after `layer`, from 1, as if half of
        the training set's exits had agreed. states: [rows, positions, d_model], its raw outputs."""
        return self.log_odds(layer, states) - self.prior_log_odds()[layer - 1]

    def log_odds(self, layer: int, states: Tensor) -> Tensor:
        """Log-odds of agreement as the training set has it, of the same shape."""
        return self.heads[0 if len(self.heads) == 1 else layer - 1](states)

    def prior_log_odds(self) -> Tensor:
        """[L − 1], log-odds of agreement in the training set, 0 before there is one; of a shared head over
        all layers, as it was trained."""
        agreed, seen = self.agreed, self.seen
        if len(self.heads) == 1:
            agreed, seen = agreed.sum().expand_as(agreed), seen.sum().expand_as(seen)
        return torch.log((agreed + 1) / (seen - agreed + 1))


def new_exit_heads(config, name: str) -> ExitHeads:
    """Untrained heads for a model's configuration, whose `exit_heads[name]` says whether they are shared."""
    return ExitHeads(
        name,
        config.num_decoder_layers,
        config.d_model,
        config.layer_norm_epsilon,
        shared=config.exit_heads[name]["shared"],
    )


def packed_head(heads: ExitHeads, norm_floor: Tensor, dtype: torch.dtype, precision: str) -> HeadWeights:
    """For decoding. norm_floor: of the decoder's weights; dtype: of keys and values in `precision`."""
    each, priors = cast(Sequence[ExitHead], heads.heads), heads.prior_log_odds()
    layers = [_packed_layer(head, prior, precision) for head, prior in zip(each, priors, strict=False)]
    one = each[0]
    width = 0 if one.projections is None else one.projections.out_features // 4
    return HeadWeights(
        layers=tuple(layers * len(heads.seen) if len(layers) == 1 else layers),
        heads=one.num_heads,
        head_dim=width // one.num_heads,
        norm_floor=norm_floor,
        dtype=dtype,
    )


def _packed_layer(head: ExitHead, prior: Tensor, precision: str) -> LayerHead:
    d_model = (head.projections or head.hidden or head.output).in_features
    # `early_exit.kernels.torch_kernels.normed` leaves this factor to the product that follows.
    norm = math.sqrt(d_model)
    projections = keys_values = hidden = None
    output = head.output.weight.detach().float()[0]
    if head.projections is not None:
        queries, keys, values, own = (norm * head.projections.weight.detach().float()).chunk(4)
        queries = queries / math.sqrt(len(queries) // head.num_heads)
        projections = pack(torch.cat([queries, keys, values, own]), precision)
        keys_values = pack(torch.cat([keys, values]), precision)
        norm = 1.0
    if head.hidden is not None:
        hidden = pack(norm * head.hidden.weight, precision, relu=True)
        norm = 1.0
    offset = head.output.bias.detach().float()[0] - prior
    return LayerHead(projections, keys_values, hidden, norm * output, offset)


@torch.no_grad()
def fingerprint(model, through: torch.dtype = torch.float32, adapters: bool = True) -> str:
    """Tells the weights that exit heads were trained on from others: of some numbers of each parameter, in
    bfloat16, so that a model in float32 and in bfloat16 has one fingerprint. through: rounds to this type
    before, as a model in float16 has been. adapters: whether exit adapters count, which heads depend on."""
    digest = hashlib.sha256()
    others = ("exit_heads.", "exit_transformation.", *([] if adapters else ["exit_adapters."]))
    for name, parameter in model.named_parameters():
        if not name.startswith(others):
            sample = parameter.flatten()[:64].to("cpu", through).to(torch.bfloat16)
            digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def backbone_fingerprints(model, adapters: bool = True) -> list[str]:
    """The fingerprints that a model's weights may have later, in other types: two roundings are not one."""
    return [fingerprint(model, through, adapters) for through in (torch.float32, torch.float16)]
