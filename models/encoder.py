"""The encoder in the engine's precision."""

import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from early_exit.kernels.native.encoder import NativeEncoder
from early_exit.linear import has_native
from early_exit.models.adapter import encoder_tensors
from early_exit.models.readable import weight_of


def engine_encoder(model, precision: str) -> nn.Module:
    """The encoder of a model of `models.t5`: compiled where kernels are and the family has T5's own, else
    transformers' modules, in bfloat16 or float32. Beside an int4 decoder it is in int8: a source's tokens
    share each reading of a weight, and 4 bits take longer to compute with."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    plain = _PlainEncoder(model, dtype)
    if has_native(model.device) and model.config.model_type != "longt5":
        return _CompiledEncoder(model, "int8" if precision == "int4" else precision, plain)
    return plain


class _PlainEncoder(nn.Module):
    """transformers' encoder in a type, converted when it is first asked. Weights that have it already are
    shared with the model."""

    def __init__(self, model, dtype: torch.dtype):
        super().__init__()
        self._own, self._dtype, self._device = model.encoder, dtype, model.device

    @cached_property
    def _encoder(self) -> nn.Module:
        parameters = [*self._own.parameters()]
        if all(parameter.dtype == self._dtype for parameter in parameters):
            return self._own
        shared = {id(each): each for each in parameters if each.dtype == self._dtype}
        return copy.deepcopy(self._own, shared).to(self._dtype)

    def forward(self, return_dict: bool = True, **kwargs) -> BaseModelOutput:
        """kwargs: the encoder's tensors [sources, length, …] and settings. Gives `last_hidden_state`.

        `generate` leaves out a mask that it does not find named here, unless there are `kwargs` of that name.
        """
        with torch.autocast(self._device.type, enabled=False):
            return self._encoder(**kwargs)


class _CompiledEncoder(nn.Module):
    """The compiled encoder, for sources whose real tokens lie in a row; `plain` for others."""

    def __init__(self, model, precision: str, plain: nn.Module):
        super().__init__()
        self._native = NativeEncoder(encoder_tensors(model), precision)
        self._embedding = weight_of(model.encoder.embed_tokens)
        self._plain = plain

    def forward(self, return_dict: bool = True, **kwargs) -> BaseModelOutput:
        """As of `_PlainEncoder`; what is padding is 0."""
        mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
        asked = any(kwargs.get(name) for name in ("output_attentions", "output_hidden_states"))
        tokens = kwargs.get("input_ids") if embeds is None else embeds[..., 0]
        real = np.ones(tokens.shape, bool) if mask is None else mask.numpy() != 0  # [sources, length]
        if asked or not _in_a_row(real):
            return self._plain(**kwargs)
        given = kwargs["input_ids"] if embeds is None else embeds
        if real.all():  # as most calls are; without the indexing
            states = self._states(given.flatten(0, 1), embeds)
            encoded = self._native(states, real.sum(-1)).unflatten(0, real.shape)
            return BaseModelOutput(last_hidden_state=encoded)
        indices = torch.from_numpy(real)
        encoded = self._native(self._states(given[indices], embeds), real.sum(-1))
        padded = encoded.new_zeros(*real.shape, encoded.shape[-1])
        padded[indices] = encoded
        return BaseModelOutput(last_hidden_state=padded)

    def _states(self, given: Tensor, embeds: Tensor | None) -> Tensor:
        """[tokens, d_model], embedded."""
        return self._embedding[given] if embeds is None else given


def _in_a_row(real: np.ndarray) -> bool:
    """Whether each source has real tokens, one after the other: positions then differ as they do without
    padding."""
    starts = np.diff(real.astype(np.int8), axis=1, prepend=0) == 1
    return bool((starts.sum(axis=1) == 1).all())
