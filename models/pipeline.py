"""What a guarantee is tied to: the pipeline that decodes, as a dictionary, and where two of them differ.

Everything that can change a token of a text belongs here. A call to `generate` sees the model, its numerics
and its prompts as tokens; the tokenizer itself it sees only where it is passed one.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from early_exit.confidence import get_measure
from early_exit.linear import has_native, usable_precision
from early_exit.models.engines import kept_for
from early_exit.models.hashes import json_hash
from early_exit.models.token_ranking import shortlist_of
from early_exit.setting import DecodingSetting

# Of decoding: raise it where the same weights, prompts and settings may give other tokens than before.
# `tests/models/test_pipeline.py` fails where they do.
PIPELINE_VERSION = 1

# Of a model's configuration: what cannot change a token that it decodes.
_IDLE = frozenset(
    "exit_calibration exit_heads exit_adapters exit_loss token_ranking _name_or_path architectures "
    "transformers_version "
    "dtype torch_dtype use_cache output_hidden_states output_attentions return_dict dropout_rate "
    "classifier_dropout "
    "initializer_factor task_specific_params n_positions chunk_size_feed_forward problem_type id2label "
    "label2id max_length num_beams early_stopping length_penalty no_repeat_ngram_size prefix".split()
)
_FLOAT32_PRODUCTS = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}
_CHUNK = 2**22  # numbers that are copied to the host and hashed at once


def model_pipeline(model, setting: DecodingSetting, device: torch.device | None = None) -> dict[str, Any]:
    """Of a model that decodes by a setting: JSON values.

    weights: of all bytes of all tensors that every setting reads, as loaded; exit head, shortlist: of the
    setting's own;
    configuration: of what else makes the model; numerics: see `numerics`; version: of decoding.
    """
    own = [] if setting.policy.measure is None else [setting.policy.measure]
    return {
        "version": PIPELINE_VERSION,
        "weights": backbone_hash(model),
        "exit head": exit_heads_hash(model, own),
        "shortlist": shortlist_hash(model, setting.policy.shortlist),
        "configuration": configuration_hash(model),
        "numerics": numerics(setting.precision, device or model.device),
    }


def numerics(precision: str, device: torch.device) -> dict[str, Any]:
    """What the arithmetic depends on. precision: that is computed in, which is float32 where the device has
    no kernels for the one asked for; kernels: "compiled" or "torch"; device: its type. On torch's kernels
    "float32 products" says whether they round to TF32 or bfloat16, in the words of
    `torch.set_float32_matmul_precision`."""
    compiled = has_native(device)
    values = {
        "precision": usable_precision(precision, device),
        "kernels": "compiled" if compiled else "torch",
        "device": device.type,
    }
    if not compiled:
        # Not torch.get_float32_matmul_precision, which raises where one backend was set by itself (--tf32).
        backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        values["float32 products"] = _FLOAT32_PRODUCTS[backend.matmul.fp32_precision]
    return values


def backbone_hash(model) -> str:
    """Of all parameters and buffers but exit heads and token ranking; kept until they change."""

    def make() -> str:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return _hash_tensors((name, each) for name, each in tensors if not _read_by_settings(name))

    return kept_for(model, "weights' hash", make)


def _read_by_settings(name: str) -> bool:
    """Whether a tensor is read by some settings only, which have entries of their own for it."""
    return name.startswith("exit_heads.") or name == "token_ranking"


def shortlist_hash(model, size: int | None) -> str | None:
    """Of the tokens that exits choose from; None where these are all, and where there is no ranking."""
    if size is None or model.token_ranking is None:
        return None
    return _hash_tensors([("shortlist", shortlist_of(model, size))])


def exit_heads_hash(model, measures: Iterable[str]) -> str | None:
    """Of the exit heads that some measures read; None where they read none."""
    read = sorted({name for name in measures if get_measure(name).needs_exit_head})
    if not read:
        return None

    def make() -> str:
        there = [name for name in read if name in model.exit_heads]
        heads = {name: [*model.exit_heads[name].state_dict().items()] for name in there}
        return _hash_tensors((f"{name}.{key}", each) for name in there for key, each in heads[name])

    return kept_for(model, f"hash of exit heads {read}", make)


def configuration_hash(model) -> str:
    """Of the model's configuration, but for what cannot change a token."""
    values = {name: value for name, value in model.config.to_dict().items() if name not in _IDLE}
    return json_hash(values)


def tokenizer_hash(tokenizer) -> str:
    """Of all that turns text into tokens and back: vocabulary, scores, merges, special tokens and so on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = sorted(tokenizer.get_vocab().items())
    else:  # padding and truncation are those of the last call
        rules = json.loads(backend.to_str())
        rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    return json_hash([type(tokenizer).__name__, special, rules])


def shared_prefix(prompts: Iterable[list[int]], longest: int) -> list[int]:
    """The tokens that all prompts begin with, at most so many: what a source prefix comes to."""
    shared: list[int] | None = None
    for tokens in prompts:
        shared = list(tokens[:longest]) if shared is None else shared
        same = next((i for i, (a, b) in enumerate(zip(shared, tokens, strict=False)) if a != b), None)
        shared = shared[: len(tokens)] if same is None else shared[:same]
    return shared or []


def pipeline_differences(
    calibrated: dict[str, Any],
    model,
    setting: DecodingSetting,
    precision: str | None,
    options: dict[str, Any],
) -> list[str]:
    """A phrase for each thing in which a call is not as it was calibrated, the generation config aside.

    precision: that the call asks for, None for the setting's own. options: of the call.
    """
    asked = DecodingSetting(setting.policy, precision or setting.precision)
    now = model_pipeline(model, asked)
    differs = []
    for name, phrase in (
        ("weights", "the weights are not those that were calibrated"),
        ("exit head", "the exit head is not the one that was calibrated"),
        ("shortlist", "the shortlist of tokens is not the one that was calibrated"),
        ("configuration", "the model's configuration is not the one that was calibrated"),
    ):
        if now[name] != calibrated.get(name):
            differs.append(phrase)
    if now["version"] != calibrated.get("version"):
        differs.append(f"decoding of version {now['version']} instead of {calibrated.get('version')}")
    then = calibrated.get("numerics") or {}
    for name in sorted({*now["numerics"], *then}):
        own, other = now["numerics"].get(name), then.get(name)
        if own != other:
            differs.append(f"{name} {own} instead of {other}")
    tokenizer = options.get("tokenizer")
    if tokenizer is not None and tokenizer_hash(tokenizer) != calibrated.get("tokenizer"):
        differs.append("the tokenizer is not the one that was calibrated")
    return differs + _source_differences(calibrated, options)


def _source_differences(calibrated: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Prompts that are longer than any that was calibrated, or lack its prefix."""
    tokens = options.get("input_ids")
    tokens = options.get("inputs") if tokens is None else tokens
    if tokens is None or tokens.ndim != 2 or tokens.is_floating_point():
        return []
    mask = options.get("attention_mask")
    mask = torch.ones_like(tokens) if mask is None else mask
    rows = [row[kept != 0].tolist() for row, kept in zip(tokens, mask, strict=True)]
    differs, longest = [], calibrated.get("source tokens")
    if longest is not None and max(map(len, rows)) > longest:
        differs.append(f"a prompt of {max(map(len, rows))} tokens instead of at most {longest}")
    prefix = calibrated.get("prefix tokens") or []
    if any(row[: len(prefix)] != prefix for row in rows):
        differs.append(f"a prompt without the prefix {calibrated.get('prefix')}")
    return differs


@torch.no_grad()
def _hash_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Of names, types, shapes and all bytes, a chunk at a time."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
