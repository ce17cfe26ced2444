"""T5-family models with an exit after every decoder layer.

Subclasses of transformers' own models: an exit adds no weights, it reads a decoder layer's hidden
state through the final layer norm and the LM head that the model has anyway. So a checkpoint saved
from here is a plain T5 checkpoint. Exit heads, exit adapters and a ranking of tokens, where there are any,
are further tensors in it, which T5's own class leaves alone.

References: CALM, Schuster et al. 2022; T5, Raffel et al. 2020.
"""

import inspect
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from functools import wraps

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    LongT5ForConditionalGeneration,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
    UMT5ForConditionalGeneration,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from early_exit.models.auditing import Audit
from early_exit.models.calibrated import CALIBRATED, calibrated_policy
from early_exit.models.effective_generation import merged_config
from early_exit.models.engines import engine_for, precision_of
from early_exit.models.exit_adapters import ExitAdapters, adapter_training_loss, new_exit_adapters
from early_exit.models.exit_heads import ExitHeads, backbone_fingerprints, fingerprint, new_exit_heads
from early_exit.models.generation import early_exit_generate
from early_exit.models.head_training import head_training_loss
from early_exit.models.joint_training import JointTraining, joint_training_loss
from early_exit.models.options import why_not_served
from early_exit.models.readable import FAMILY
from early_exit.models.token_ranking import rank_tokens
from early_exit.policy import ExitPolicy
from early_exit.training.objectives import Objective


class EarlyExitMixin:
    """What an exit after every decoder layer adds to a T5-family model. Layers count from 1 to L.

    exit_heads: the trained confidence classifiers, by name; `config.exit_heads` says of each how it was made.
    exit_adapters: what the exits' states go through, where they were not trained with the model, or None.
    """

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        names = getattr(config, "exit_heads", None) or {}
        self.exit_heads = nn.ModuleDict({name: new_exit_heads(config, name) for name in names})
        self.exit_adapters: ExitAdapters | None = None
        if getattr(config, "exit_adapters", None):
            self.exit_adapters = new_exit_adapters(config)
        ranked = getattr(config, "token_ranking", None)
        self.register_buffer("token_ranking", None if ranked is None else torch.full((ranked,), -1))
        self.exit_transformation: nn.Linear | None = None
        if getattr(config, "exit_transformation", False):
            self.add_exit_transformation()

    def add_exit_transformation(self) -> None:
        """A linear map, the identity at first, that students' states go through where hidden states are
        distilled, see `early_exit.training.hidden_states`; for training alone: drop it afterwards."""
        self.config.exit_transformation = True
        self.exit_transformation = nn.Linear(self.config.d_model, self.config.d_model).to(self.device)
        with torch.no_grad():
            self.exit_transformation.weight.copy_(torch.eye(self.config.d_model))
            self.exit_transformation.bias.zero_()

    def drop_exit_transformation(self) -> None:
        """Leaves the model as it decodes."""
        self.exit_transformation = None
        if hasattr(self.config, "exit_transformation"):
            del self.config.exit_transformation

    def rank_tokens(self, texts: Iterable[Iterable[int]]) -> None:
        """Ranks the vocabulary by frequency in some texts, for shortlists; see `models.token_ranking`."""
        ranking = rank_tokens(texts, self.lm_head.weight.shape[0])
        self.config.token_ranking = len(ranking)
        self.token_ranking = ranking.to(self.device)

    def add_exit_heads(self, name: str, shared: bool = False) -> ExitHeads:
        """New, untrained heads under a name of `early_exit.heads`, in the place of any that were there.

        shared: one head for all layers. Raises ValueError for a name that is none.
        """
        made = {"shared": shared, "backbone": backbone_fingerprints(self)}
        self.config.exit_heads = {**(getattr(self.config, "exit_heads", None) or {}), name: made}
        self.exit_heads[name] = new_exit_heads(self.config, name).to(self.device)
        return self.exit_heads[name]

    def check_exit_heads(self, name: str) -> None:
        """Raises ValueError where the model has no heads of that name, or has them from another model."""
        if name not in self.exit_heads:
            there = ", ".join(sorted(self.exit_heads)) or "none"
            raise ValueError(f"the model has no exit head {name!r}; it has: {there}")
        backbone = self.config.exit_heads[name]["backbone"]  # text in older checkpoints
        if fingerprint(self) not in ([backbone] if isinstance(backbone, str) else backbone):
            raise ValueError(f"exit head {name!r} was trained on a model with other weights: train it again")

    def add_exit_adapters(self, rank: int | None = None) -> ExitAdapters:
        """New adapters, which change nothing before they are trained, in the place of any that were there.

        rank: of each exit's map, 1 to d_model; None for a full one. Raises ValueError for another rank.
        """
        self.config.exit_adapters = {"rank": rank, "backbone": backbone_fingerprints(self, adapters=False)}
        self.exit_adapters = new_exit_adapters(self.config).to(self.device)
        return self.exit_adapters

    def drop_exit_adapters(self) -> None:
        """Leaves the exits as they were without."""
        self.exit_adapters = None
        if hasattr(self.config, "exit_adapters"):
            del self.config.exit_adapters

    def check_exit_adapters(self) -> None:
        """Raises ValueError for adapters that were trained on another model."""
        if self.exit_adapters is None:
            return
        if fingerprint(self, adapters=False) not in self.config.exit_adapters["backbone"]:
            raise ValueError("the exit adapters were trained on a model with other weights: train them again")

    def adapted(self, layer: int, hidden: Tensor) -> Tensor:
        """What the exit after `layer` (from 1) reads instead of its raw output [..., d_model]."""
        if self.exit_adapters is None or layer >= self.num_exits:
            return hidden
        return self.exit_adapters(layer, hidden)

    @property
    def num_exits(self) -> int:
        """L, the number of decoder layers."""
        return len(self.decoder.block)

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
        inputs = {**inputs.pop("kwargs", {}), **inputs}
        if inputs.get("labels") is None:
            raise ValueError("exit_loss, exit_head_loss and exit_adapter_loss need labels")
        _refuse(inputs, "past_key_values")
        if exit_head_loss is not None or exit_adapter_loss:
            _refuse(inputs, "decoder_inputs_embeds", "decoder_attention_mask", "inputs_embeds")
            read = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "labels")}
            if exit_adapter_loss:
                return adapter_training_loss(self, read, num_items_in_batch)
            loss, names = exit_head_loss
            return head_training_loss(self, names, loss, read, num_items_in_batch)
        if self.exit_adapters is not None:
            raise ValueError("the losses at the exits train a model without exit adapters: drop these")
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

    def generate(
        self,
        *args,
        exit_policy: ExitPolicy | str | None = CALIBRATED,
        engine_precision: str | None = None,
        audit: Audit | None = None,
        **kwargs,
    ):
        """transformers' `generate`; with `exit_policy`, tokens leave where the policy says.

        exit_policy: None for transformers' own decoding. By default the policy that a calibration has
        certified and left in the model's configuration, if one has: its guarantee then holds for prompts
        like those it was calibrated with, and a call that is outside of it warns.
        Greedy decoding and sampling, logits processors, stopping criteria, stop strings and streamers work
        as ever; beams and the other loops of transformers are refused by name, see `models.options`. With
        `return_dict_in_generate=True` the result holds exit layers and confidences,
        see `models.generation.EarlyExitOutput`.

        engine_precision: what the engine computes in, encoder included: "float32", "bfloat16", "int8" or
        None for the type that the model is in. It goes with an exit policy; `ExitPolicy()` is full depth.

        audit: decodes a random share of the prompts at full depth too and tells a monitor of the difference.
        """
        kwargs.update(zip(_GENERATE_ARGUMENTS, args, strict=False))
        if exit_policy == CALIBRATED:
            exit_policy, engine_precision = calibrated_policy(self, engine_precision, kwargs)
        if audit is not None:
            if exit_policy is None:
                raise ValueError("an audit compares exits with full depth, and there is no exit policy")
            return audit.generate(self, exit_policy, engine_precision, kwargs)
        if exit_policy is None:
            if engine_precision is not None:
                raise ValueError("engine_precision needs an exit policy; ExitPolicy() is full depth")
            return super().generate(**self._with_deep_cache(kwargs))
        loop = kwargs.pop("custom_generate", None) or early_exit_generate
        reason = why_not_served(merged_config(self, kwargs)[0], kwargs)
        if reason is not None:
            raise ValueError(f"early exit does not serve {reason}; pass exit_policy=None")
        if loop is not early_exit_generate:
            if engine_precision is not None:
                raise ValueError("engine_precision is the engine's, not another loop's")
            return super().generate(custom_generate=loop, exit_policy=exit_policy, **kwargs)
        engine = engine_for(self, exit_policy, precision_of(self, engine_precision))
        token = _generating.set((self, engine.encoder))
        try:
            return super().generate(custom_generate=loop, exit_policy=exit_policy, engine=engine, **kwargs)
        finally:
            _generating.reset(token)

    def _with_deep_cache(self, kwargs: dict) -> dict:
        """transformers sizes its default cache by the encoder's layers and fails on a deeper decoder."""
        config = kwargs.get("generation_config") or self.generation_config
        asked = kwargs.get("cache_implementation", config.cache_implementation) is not None
        asked |= kwargs.get("past_key_values") is not None
        uses = kwargs.get("use_cache", config.use_cache) is not False
        if asked or not uses or self.config.num_decoder_layers <= self.config.num_layers:
            return kwargs
        return {**kwargs, "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}

    def _extract_generation_mode_kwargs(
        self, custom_generate, kwargs, synced_gpus, assistant_model, streamer
    ):
        """Of a loop of one's own transformers drops the streamer; and the tokenizer, which stop strings
        need."""
        tokenizer = kwargs.get("tokenizer")
        extracted = super()._extract_generation_mode_kwargs(
            custom_generate, kwargs, synced_gpus, assistant_model, streamer
        )
        if custom_generate is early_exit_generate:
            given = {"tokenizer": tokenizer, "streamer": streamer}
            extracted |= {name: value for name, value in given.items() if value is not None}
        return extracted

    def get_encoder(self, modality: str | None = None):
        """transformers' encoder; while the engine generates in this thread, the same in its precision."""
        model, encoder = _generating.get()
        return encoder if model is self else super().get_encoder(modality)

    def _prepare_cache_for_generation(self, *args, **kwargs) -> bool:
        """None while the engine generates, which has its own."""
        return (
            False if _generating.get()[0] is self else super()._prepare_cache_for_generation(*args, **kwargs)
        )

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: of custom code transformers' loader leaves out modules without weights of their own, and with
        them how T5 draws weights that a checkpoint lacks."""
        return False

    def save_pretrained(self, save_directory, is_main_process: bool = True, *args, **kwargs) -> None:
        """transformers' own, but the configuration names transformers' class: the checkpoint is one of it."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            plain = next(each for each in type(self).__mro__ if each.__module__.startswith("transformers."))
            self.config.architectures = [plain.__name__]
            self.config.save_pretrained(save_directory)


_GENERATE_ARGUMENTS = list(inspect.signature(GenerationMixin.generate).parameters)[1:]  # without self

# Of the model that generates in this thread, with its encoder in the engine's precision: `generate` asks for
# the encoder by a method without arguments.
_generating: ContextVar[tuple] = ContextVar("generating", default=(None, None))


def _refuse(inputs: dict, *names: str) -> None:
    for name in names:
        if inputs.get(name) is not None:
            raise ValueError(f"the losses at the exits cannot take {name}")


def with_stock_signature(model_class: type) -> type:
    """Gives `forward` the stock class's named arguments, in their order, and ours behind them: transformers
    and its Trainer choose by names what to pass."""
    ours = EarlyExitMixin.forward
    *stock, rest = inspect.signature(model_class.__mro__[2].forward).parameters.values()
    added = [own for own in inspect.signature(ours).parameters.values() if own.kind is own.KEYWORD_ONLY]

    @wraps(ours)
    def forward(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    forward.__signature__ = inspect.Signature([*stock, *added, rest])
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
