"""The encoder in the engine's precision."""

import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
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
        return copy.deepcopy(self._own, shared).to(self._dtype).eval()

    def forward(self, return_dict: bool = True, **kwargs) -> BaseModelOutput:
        """kwargs: the encoder's tensors [sources, length, …] and settings. Gives `last_hidden_state`.

        `generate` leaves out a mask that it does not find named here, unless there are `kwargs` of that name.
        """
        with torch.autocast(self._device.type, enabled=False):
            return self._encoder(**kwargs)


class _CompiledEncoder(nn.Module):
    """The compiled encoder, for sources whose real tokens lie in a row; `plain` for the others of a batch."""

    def __init__(self, model, precision: str, plain: nn.Module):
        super().__init__()
        self._native = NativeEncoder(encoder_tensors(model), precision)
        self._embedding = weight_of(model.encoder.embed_tokens)
        self._plain = plain

    def forward(self, return_dict: bool = True, **kwargs) -> BaseModelOutput:
        """As of `_PlainEncoder`, and nothing but the last states; padding of sources in a row is 0."""
        mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
        given = kwargs["input_ids"] if embeds is None else embeds
        real = np.ones(given.shape[:2], bool) if mask is None else mask.numpy() != 0  # [sources, length]
        in_a_row = _in_a_row(real)
        if in_a_row.all():
            return BaseModelOutput(last_hidden_state=self._compiled(given, real))
        some, others = (torch.from_numpy(rows) for rows in (in_a_row, ~in_a_row))
        name = "input_ids" if embeds is None else "inputs_embeds"
        plain = self._plain(**{name: given[others], "attention_mask": mask[others]}).last_hidden_state
        states = plain.new_zeros(*real.shape, plain.shape[-1], dtype=torch.float32)
        states[others] = plain.float()
        if in_a_row.any():
            states[some] = self._compiled(given[some], real[in_a_row])
        return BaseModelOutput(last_hidden_state=states)

    def _compiled(self, given: Tensor, real: np.ndarray) -> Tensor:
        """[sources, length, d_model]. given: tokens [sources, length] or embedded ones; real: [sources,
        length], those that are no padding."""
        if real.all():  # as most calls are; without the indexing
            return self._native(self._states(given.flatten(0, 1)), real.sum(-1)).unflatten(0, real.shape)
        indices = torch.from_numpy(real)
        encoded = self._native(self._states(given[indices]), real.sum(-1))
        padded = encoded.new_zeros(*real.shape, encoded.shape[-1])
        padded[indices] = encoded
        return padded

    def _states(self, given: Tensor) -> Tensor:
        """[tokens, d_model], embedded. Raises IndexError for tokens that the vocabulary does not have."""
        return given if given.is_floating_point() else functional.embedding(given, self._embedding)


def _in_a_row(real: np.ndarray) -> np.ndarray:
    """Whether each source has real tokens, one after the other: positions then differ as they do without
    padding. [sources, length] → [sources]."""
    starts = np.diff(real.astype(np.int8), axis=1, prepend=0) == 1
    return starts.sum(axis=1) == 1
