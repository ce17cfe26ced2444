"""The encoder in the engine's precision: transformers' own modules around other products."""

import copy

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from early_exit.linear import Linear, pack
from models.readable import is_linear, weight_of


def packed_encoder(model, precision: str) -> nn.Module:
    """The encoder of a model of `models.t5` with its linear layers in `precision`.

    On devices other than CPUs a float32 encoder is the model's own.
    """
    if precision == "float32" and model.device.type != "cpu" and model.dtype == torch.float32:
        return model.encoder
    return _with_packed_layers(model, precision)


def _with_packed_layers(model, precision: str) -> nn.Module:
    kept_type = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # Weights that stay as they are, such as the embedding, are shared with the model.
    parameters = model.encoder.parameters()
    shared = {id(parameter): parameter for parameter in parameters if parameter.dtype == kept_type}
    encoder = copy.deepcopy(model.encoder, shared).to(kept_type)
    if precision == "bfloat16":
        return _InParts(encoder)
    for module in list(encoder.modules()):
        # T5's feed-forward without a gate: max(0, ·) becomes a part of the product before it.
        fused_relu = hasattr(module, "wi") and isinstance(module.act, nn.ReLU)
        for name, child in module.named_children():
            if is_linear(child):
                product = pack(weight_of(child), precision, fused_relu and name == "wi")
                setattr(module, name, _PackedLayer(product))
        if fused_relu:
            module.act = nn.Identity()
    return _InParts(encoder)


_TOKENS_AT_ONCE = 2048


class _InParts(nn.Module):
    """An encoder that on a CPU takes a large batch in parts, whose activations memory is reused for.

    Fresh memory for activations of 32 sources of 256 tokens costs as much time as a tenth of the products.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self._encoder = encoder
        self._device = next(encoder.parameters()).device

    def forward(self, return_dict: bool = True, **kwargs) -> BaseModelOutput:
        """kwargs: the encoder's tensors [sources, length, …] and settings. Gives `last_hidden_state`.

        `generate` leaves out a mask that it does not find named here, unless there are `kwargs` of that name.
        """
        with torch.autocast(self._device.type, enabled=False):
            return self._in_parts(**kwargs)

    def _in_parts(self, **kwargs) -> BaseModelOutput:
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        sources, length = next(iter(tensors.values())).shape[:2]
        at_once = max(1, _TOKENS_AT_ONCE // max(1, length))
        if sources <= at_once or next(iter(tensors.values())).device.type != "cpu":
            return self._encoder(**kwargs)
        parts = [
            self._encoder(
                **kwargs | {name: value[first : first + at_once] for name, value in tensors.items()}
            )
            for first in range(0, sources, at_once)
        ]
        return BaseModelOutput(last_hidden_state=torch.cat([part.last_hidden_state for part in parts]))


class _PackedLayer(nn.Module):
    """A linear layer whose weight is packed."""

    weight = None  # T5's feed-forward asks for its type

    def __init__(self, product: Linear):
        super().__init__()
        self._product = product

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self._product(inputs.flatten(0, -2)).view(*inputs.shape[:-1], self._product.width)
