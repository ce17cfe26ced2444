"""`generate` of a model with exits: transformers' own, with the engine in the place of its loop."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from transformers import GenerationMixin
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from early_exit.models.auditing import Audit
from early_exit.models.calibrated import CALIBRATED, calibrated_policy
from early_exit.models.effective_generation import merged_config
from early_exit.models.engines import engine_for, precision_of
from early_exit.models.family import Family
from early_exit.models.generation import early_exit_generate
from early_exit.models.options import refuse_unserved
from early_exit.policy import ExitPolicy

_GENERATE_ARGUMENTS = list(inspect.signature(GenerationMixin.generate).parameters)[1:]  # without self

# Of the model that generates in this thread, with its encoder in the engine's precision: `generate` asks for
# the encoder by a method without arguments.
_generating: ContextVar[tuple] = ContextVar("generating", default=(None, None))


@contextmanager
def _encoding_by(model, encoder) -> Iterator[None]:
    """Within, a model's encoder is this one, in this thread."""
    token = _generating.set((model, encoder))
    try:
        yield
    finally:
        _generating.reset(token)


def _refuse_without_exits(engine_precision: str | None, audit: Audit | None) -> None:
    """Raises ValueError for what goes with an exit policy alone."""
    if audit is not None:
        raise ValueError("an audit compares exits with full depth, and there is no exit policy")
    if engine_precision is not None:
        raise ValueError("engine_precision needs an exit policy; ExitPolicy() is full depth")


class ExitGeneration(Family):
    """Beside transformers' `GenerationMixin`: exits in `generate`, and what this asks of the model."""

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

        engine_precision: what the engine computes in, encoder included, of `early_exit.PRECISIONS`; None for
        the type that the model is in. It goes with an exit policy; `ExitPolicy()` is full depth.

        audit: decodes a random share of the prompts at full depth too and tells a monitor of the difference.
        """
        kwargs.update(zip(_GENERATE_ARGUMENTS, args, strict=False))
        exit_policy, engine_precision = self._settled(exit_policy, engine_precision, kwargs)
        if exit_policy is None:
            _refuse_without_exits(engine_precision, audit)
            return super().generate(**self._with_deep_cache(kwargs))
        if audit is not None:
            return audit.generate(self, exit_policy, engine_precision, kwargs)
        loop = kwargs.pop("custom_generate", None) or early_exit_generate
        refuse_unserved(merged_config(self, kwargs)[0], kwargs)
        if loop is not early_exit_generate:
            if engine_precision is not None:
                raise ValueError("engine_precision is the engine's, not another loop's")
            return super().generate(custom_generate=loop, exit_policy=exit_policy, **kwargs)
        engine = engine_for(self, exit_policy, precision_of(self, engine_precision))
        with _encoding_by(self, engine.encoder):
            return super().generate(custom_generate=loop, exit_policy=exit_policy, engine=engine, **kwargs)

    def _settled(self, policy, precision: str | None, kwargs: dict) -> tuple[ExitPolicy | None, str | None]:
        """Policy and precision as they are used. Raises ValueError for what is no policy."""
        if isinstance(policy, str) and policy == CALIBRATED:
            policy, precision = calibrated_policy(self, precision, kwargs)
        if policy is not None and not isinstance(policy, ExitPolicy):
            raise ValueError(f"exit_policy {policy!r}: allowed: an ExitPolicy, None and {CALIBRATED!r}")
        return policy, precision

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
