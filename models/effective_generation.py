"""The effective generation config: all that can change a token of a call to `generate`, as a dictionary.

transformers merges a call's options, its `generation_config`, the checkpoint's and the library's defaults.
What comes out of that is what a guarantee is about, and what is compared with it.

Left out are the keys that cannot change a token: how it is computed and what else is returned (`_HOW`), and
what belongs to sampling and to beams where there are none (`_SAMPLING`, `_BEAMS`).
"""

from typing import Any

from torch import Tensor
from transformers import GenerationConfig

# Caches, compilation, batching; what is returned beside the tokens; where the file came from; and how many
# tokens an assistant proposes, each of which is verified: an assistant itself is an argument of the call.
_HOW = frozenset(
    "use_cache cache_implementation cache_config max_cache_len low_memory prefill_chunk_size compile_config "
    "disable_compile continuous_batching_config output_attentions output_hidden_states output_scores "
    "output_logits return_dict_in_generate transformers_version _from_model_config is_assistant "
    "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold "
    "max_matching_ngram_size assistant_lookbehind target_lookbehind".split()
)
# Warpers, which transformers applies where it samples.
_SAMPLING = frozenset("temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff".split())
_BEAMS = frozenset("early_stopping length_penalty num_beam_groups diversity_penalty".split())
# Arguments of `generate` that are the prompt itself, or say where text goes rather than which.
_PROMPT = frozenset("inputs input_ids attention_mask inputs_embeds encoder_outputs".split())
_ASIDE = frozenset("streamer tokenizer synced_gpus trust_remote_code use_model_defaults".split())
# Arguments of `generate` itself, and of its decoder, which no generation config holds.
_ARGUMENTS = frozenset(
    "logits_processor stopping_criteria prefix_allowed_tokens_fn assistant_model negative_prompt_ids "
    "negative_prompt_attention_mask custom_generate".split()
)


def effective_generation(model, options: dict[str, Any]) -> dict[str, Any]:
    """What can change a token, of a call `model.generate(**options)`.

    Lengths count the decoder's prefix, whether they were given as `max_length` or `max_new_tokens`. Values
    are JSON's; objects and functions are given by their type's name. What is off is left out.
    """
    given, (config, rest) = options.get("generation_config"), merged_config(model, options)
    arguments = {name: options[name] for name in _ARGUMENTS & set(options)} | rest
    if _keeps_all(arguments.get("decoder_attention_mask")):
        del arguments["decoder_attention_mask"]
    prefix, decoder_input_ids = decoder_prefix(config, arguments.pop("decoder_input_ids", None))
    configs = [given, model.generation_config]
    default_length = options.get("max_length") is None and not any(_max_length(each) for each in configs)
    values = _of_config(config, prefix, default_length)
    values |= {
        name: _plain(value) for name, value in arguments.items() if name not in _PROMPT | _ASIDE | _HOW
    }
    values |= {"decoder_input_ids": decoder_input_ids}
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def merged_config(model, options: dict[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """The config that `model.generate(**options)` would use, and those of the options that it does not hold,
    but for arguments of `generate` itself."""
    config_options = {name: value for name, value in options.items() if name not in _ARGUMENTS}
    given = config_options.pop("generation_config", None)
    return model._prepare_generation_config(given, **config_options)


def evaluation_options(arguments) -> dict[str, Any]:
    """What evaluation, loss tables and checks pass to `generate`. arguments: `Seq2SeqTrainingArguments`."""
    options = {"max_length": arguments.generation_max_length, "num_beams": arguments.generation_num_beams}
    return {name: value for name, value in options.items() if value is not None}


def greedy_generation(model, max_length: int) -> dict[str, Any]:
    """The same of plain greedy decoding with the special tokens of a checkpoint."""
    special = {name: value for name, value in vars(model.generation_config).items() if name.endswith("_id")}
    defaults = GenerationConfig._get_default_generation_params()
    config = GenerationConfig(**{**defaults, **special, "max_length": max_length})
    values = _of_config(config, prefix=1, default_length=False)
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def differences(calibrated: dict[str, Any], called: dict[str, Any]) -> list[str]:
    """What differs between two effective generation configs, a phrase for each key."""
    defaults = GenerationConfig._get_default_generation_params()
    phrases = []
    for name in sorted({*calibrated, *called}):
        own, other = (values.get(name, defaults.get(name)) for values in (called, calibrated))
        if own != other:
            phrases.append(f"{name} {_short(own)} instead of {_short(other)}")
    return phrases


def unlike_greedy(effective: dict[str, Any]) -> dict[str, Any]:
    """Of an effective generation config what plain greedy decoding has not, but for its special tokens and
    maximum length."""
    defaults = GenerationConfig._get_default_generation_params()
    usual = ("max_length", "pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")
    return {
        name: value
        for name, value in effective.items()
        if name not in usual and value != _plain(defaults.get(name))
    }


def _of_config(config: GenerationConfig, prefix: int, default_length: bool) -> dict[str, Any]:
    """The keys of a merged config that count; None for what is off."""
    defaults = GenerationConfig._get_default_generation_params()
    values = {
        name: _plain(defaults.get(name) if value is None else value)
        for name, value in config.to_dict().items()
        if name not in _HOW
    }
    longest, shortest = values.pop("max_new_tokens"), values.pop("min_new_tokens")
    if longest is not None:
        values["max_length"] = prefix + longest
    elif default_length:
        values["max_length"] += prefix
    if shortest is not None:
        values["min_length"] = prefix + shortest
    if values["min_length"] <= prefix:  # which every text has
        values["min_length"] = 0
    if isinstance(values["eos_token_id"], int):
        values["eos_token_id"] = [values["eos_token_id"]]
    idle = (frozenset() if values["do_sample"] else _SAMPLING) | (
        frozenset() if values["num_beams"] > 1 else _BEAMS
    )
    return {name: value for name, value in values.items() if name not in idle}


def _max_length(config: GenerationConfig | None) -> int | None:
    return None if config is None else config.max_length


def _keeps_all(mask: Tensor | None) -> bool:
    return mask is not None and bool((mask != 0).all())


def decoder_prefix(config: GenerationConfig, decoder_input_ids: Tensor | None) -> tuple[int, list | None]:
    """Length of what the decoder starts with, and its tokens; None for the start token, which is usual."""
    start = config.decoder_start_token_id
    start = config.bos_token_id if start is None else start
    if decoder_input_ids is None:
        return 1, None
    rows = decoder_input_ids.tolist()
    if all(row == [start] for row in rows):
        return 1, None
    begun = any(row[0] == start for row in rows)  # transformers puts the start token before others
    return len(rows[0]) + (not begun), rows


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        names = all(isinstance(name, str) for name in value)
        items = [[_plain(name), _plain(inner)] for name, inner in value.items()]
        return dict(items) if names else items
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return value if isinstance(value, int | float | str | None) else type(value).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
