"""Which options of `generate` decoding with exits serves, and why not the others."""

from typing import Any

from transformers import GenerationConfig

# Of a generation config: what each selects, where it is not one of the values that select nothing.
OTHER_LOOPS = {
    "num_beams": "beam search",
    "penalty_alpha": "contrastive search",
    "prompt_lookup_num_tokens": "prompt lookup",
    "assistant_early_exit": "assisted decoding",
    "dola_layers": "DoLa",
    "num_beam_groups": "group beam search",
    "constraints": "constrained beam search",
    "force_words_ids": "constrained beam search",
    "guidance_scale": "classifier-free guidance",
    "token_healing": "token healing",
    "use_mtp": "multi-token prediction",
}
_SELECT_NOTHING = (None, False, 0, 0.0, 1, 1.0)
_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
# Arguments of `generate`, or of the model, that exits would have to read past.
_ARGUMENTS = {
    "assistant_model": "assisted decoding",
    "assistant_tokenizer": "assisted decoding",
    "negative_prompt_ids": "classifier-free guidance",
    "negative_prompt_attention_mask": "classifier-free guidance",
    "past_key_values": "decoding from a cache of transformers",
    "decoder_inputs_embeds": "decoding from embeddings",
    "decoder_attention_mask": "a masked decoder prefix",
    "cache_implementation": "a cache of transformers",
    "cache_config": "a cache of transformers",
    "custom_generate": "another decoding loop",
}


def why_not_served(config: GenerationConfig, options: dict[str, Any]) -> str | None:
    """What of a call decoding with exits does not do, by name; None where it serves the call.

    config: the generation config that the call would use (`models.effective_generation.merged_config`);
    options: of `generate`, by name.
    """
    for name, what in OTHER_LOOPS.items():
        value = getattr(config, name, None)
        nothing = isinstance(value, int | float | None) and value is not True and value in _SELECT_NOTHING
        if not nothing:
            return f"{what} ({name}={value!r})"
    for name, what in _ARGUMENTS.items():
        value = options.get(name)
        if value is None or (name == "decoder_attention_mask" and bool((value != 0).all())):
            continue
        return f"{what} ({name})"
    asked = [name for name in _OUTPUTS if getattr(config, name, None)]
    if asked and config.return_dict_in_generate:
        return f"returning {', '.join(asked)}"
    return None


def refuse_unserved(config: GenerationConfig, options: dict[str, Any]) -> None:
    """Raises ValueError where decoding with exits does not serve a call; arguments as of `why_not_served`."""
    reason = why_not_served(config, options)
    if reason is not None:
        raise ValueError(f"early exit does not serve {reason}; pass exit_policy=None")
