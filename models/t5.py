"""T5-family models with an exit after every decoder layer.

Subclasses of transformers' own models: an exit adds no weights, it reads a decoder layer's hidden
state through the final layer norm and the LM head that the model has anyway. So a checkpoint saved
from here is a plain T5 checkpoint. Exit heads, exit adapters and a ranking of tokens, where there are any,
are further tensors in it, which T5's own class leaves alone.

References: CALM, Schuster et al. 2022; T5, Raffel et al. 2020.
"""

import inspect
from collections.abc import Sequence
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import (
    LongT5ForConditionalGeneration,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
    UMT5ForConditionalGeneration,
)

from early_exit.models.exit_adapters import adapter_training_loss
from early_exit.models.exit_generation import ExitGeneration
from early_exit.models.exit_modules import ExitModules
from early_exit.models.head_training import head_training_loss
from early_exit.models.joint_training import JointTraining, joint_training_loss
from early_exit.models.readable import FAMILY
from early_exit.training.objectives import Objective


class EarlyExitMixin(ExitModules, ExitGeneration):
    """What an exit after every decoder layer adds to a T5-family model. Layers count from 1 to L."""

    def head_input(self, normed: Tensor) -> Tensor:
        """What the LM head reads: `normed` [..., d_model], scaled where this model scales it.

        T5's original checkpoints scale; T5 v1.1, Flan and mT5 do not. transformers keeps that in
        `scale_decoder_outputs`; `tie_word_embeddings` no longer tells them apart.
        """
        return normed * self.head_scale if self._scales_head_input else normed

    @property
    def head_scale(self) -> float:
        """What `head_input` multiplies with."""
        return self.config.d_model**-0.5 if self._scales_head_input else 1.0

    @property
    def _scales_head_input(self) -> bool:
        return getattr(self.config, "scale_decoder_outputs", False)

    def exit_logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of an exit that reads a layer's raw output `hidden` [..., d_model], or
        what `adapted` makes of it."""
        return self.lm_head(self.head_input(self.decoder.final_layer_norm(hidden)))

    def forward(
        self,
        *args,
        exit_loss: JointTraining | Objective | str | None = None,
        exit_head_loss: tuple[str, Sequence[str]] | None = None,
        exit_adapter_loss: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ):
        """transformers' forward, or with `exit_loss` the joint training loss over all exits, or with
        `exit_head_loss` that of exit heads, or with `exit_adapter_loss` that of exit adapters.

        exit_head_loss: a name of `early_exit.head_losses.HEAD_LOSSES` and the names of the heads, see
        `models.head_training`.

        exit_loss: an objective, with what is done to the decoder or alone, or the name of one. The loss is
        then a sum over tokens divided by `num_items_in_batch` (by the number of unmasked labels if None),
        which makes it right under gradient accumulation; no logits are returned.
        """
        if exit_head_loss is None and exit_loss is None and not exit_adapter_loss:
            return super().forward(*args, **kwargs)
        inputs = inspect.signature(super().forward).bind_partial(*args, **kwargs).arguments
        inputs: dict[str, Any] = {**inputs.pop("kwargs", {}), **inputs}
        if inputs.get("labels") is None:
            raise ValueError("exit_loss, exit_head_loss and exit_adapter_loss need labels")
        _refuse(inputs, "past_key_values")
        if exit_head_loss is not None or exit_adapter_loss:
            _refuse(inputs, "decoder_inputs_embeds", "decoder_attention_mask", "inputs_embeds")
            names = ("input_ids", "attention_mask", "labels")
            read: dict[str, Any] = {name: inputs.get(name) for name in names}
            if exit_adapter_loss or exit_head_loss is None:
                return adapter_training_loss(self, read, num_items_in_batch)
            loss, heads = exit_head_loss
            return head_training_loss(self, heads, loss, read, num_items_in_batch)
        if self.exit_adapters is not None:
            raise ValueError("the losses at the exits train a model without exit adapters: drop these")
        assert exit_loss is not None  # or all three were
        return joint_training_loss(self, JointTraining.of(exit_loss), inputs, num_items_in_batch)

    def head_inputs(self, outputs) -> list[Tensor]:
        """What the LM head reads at every exit, L tensors [batch, length, d_model], of a decoder's outputs
        with all hidden states."""
        # hidden_states: the embeddings, then every layer; only the last is normed already.
        inner = [
            self.exit_input(self.adapted(layer, hidden))
            for layer, hidden in enumerate(outputs.hidden_states[1:-1], start=1)
        ]
        return [*inner, self.head_input(outputs.last_hidden_state)]

    def exit_input(self, hidden: Tensor) -> Tensor:
        """What the LM head reads at an exit of a layer's raw output `hidden` [..., d_model]; in training with
        dropout, as at full depth."""
        return self.head_input(self.decoder.dropout(self.decoder.final_layer_norm(hidden)))

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: of custom code transformers' loader leaves out modules without weights of their own, and with
        them how T5 draws weights that a checkpoint lacks."""
        return False

    def save_pretrained(self, save_directory, is_main_process: bool = True, *args, **kwargs) -> None:
        """transformers' own, but the configuration names transformers' class: the checkpoint is one of it."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            self.config.architectures = [_stock_class(type(self)).__name__]
            self.config.save_pretrained(save_directory)


def _refuse(inputs: dict, *names: str) -> None:
    for name in names:
        if inputs.get(name) is not None:
            raise ValueError(f"the losses at the exits cannot take {name}")


def _stock_class(model_class: type) -> type:
    """transformers' class that a class of ours is one of."""
    return next(each for each in model_class.__mro__ if each.__module__.startswith("transformers."))


def with_stock_signature(model_class: type) -> type:
    """Gives `forward` the stock class's named arguments, in their order, and ours behind them: transformers
    and its Trainer choose by names what to pass."""
    ours = EarlyExitMixin.forward
    *stock, rest = inspect.signature(_stock_class(model_class).forward).parameters.values()
    added = [own for own in inspect.signature(ours).parameters.values() if own.kind is own.KEYWORD_ONLY]

    @wraps(ours)
    def forward(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    forward.__dict__["__signature__"] = inspect.Signature([*stock, *added, rest])
    model_class.forward = forward
    setattr(model_class, FAMILY, True)
    return model_class


@with_stock_signature
class EarlyExitT5(EarlyExitMixin, T5ForConditionalGeneration):
    """T5, T5 v1.1, Flan-T5, ByT5."""


@with_stock_signature
class EarlyExitMT5(EarlyExitMixin, MT5ForConditionalGeneration):
    """mT5."""


@with_stock_signature
class EarlyExitUMT5(EarlyExitMixin, UMT5ForConditionalGeneration):
    """UMT5, with a position bias in every layer."""

    @property
    def _scales_head_input(self) -> bool:
        return self.config.tie_word_embeddings  # transformers knows no other sign of it here


@with_stock_signature
class EarlyExitLongT5(EarlyExitMixin, LongT5ForConditionalGeneration):
    """LongT5: another encoder before T5's decoder."""


MODEL_CLASSES = {"t5": EarlyExitT5, "mt5": EarlyExitMT5, "umt5": EarlyExitUMT5, "longt5": EarlyExitLongT5}
