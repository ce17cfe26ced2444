"""The encoder in the engine's precision: transformers' own modules around other products."""

import copy

import torch
from torch import Tensor, nn

from early_exit.linear import Linear, pack
from models.packing import made_once


def packed_encoder(model, precision: str) -> nn.Module:
    """The encoder of a model of `models.t5` with its linear layers in `precision`; made once, then kept.

    On devices other than CPUs a float32 encoder is the model's own.
    """
    if precision == "float32" and model.device.type != "cpu" and model.dtype == torch.float32:
        return model.encoder
    return made_once(
        model, ("encoder", precision), model.encoder.parameters(), lambda: _with_packed_layers(model, precision)
    )


def _with_packed_layers(model, precision: str) -> nn.Module:
    # Weights that stay as they are, such as the embedding, are shared with the model.
    shared = {id(parameter): parameter for parameter in model.encoder.parameters()}
    encoder = copy.deepcopy(model.encoder, shared)
    if precision == "bfloat16":
        return encoder.to(torch.bfloat16)
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, _PackedLayer(pack(child.weight, precision)))
    return encoder.float()


class _PackedLayer(nn.Module):
    """A linear layer whose weight is packed."""

    weight = None  # T5's feed-forward asks for its type

    def __init__(self, product: Linear):
        super().__init__()
        self._product = product

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self._product(inputs.flatten(0, -2)).view(*inputs.shape[:-1], self._product.width)
