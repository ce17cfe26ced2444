"""What a guarantee is tied to, by name: the pipeline that a verdict's fingerprint is of."""

from collections.abc import Sequence
from typing import Any

import torch

from early_exit import DecodingSetting
from early_exit.confidence import get_measure
from early_exit.models.hashes import json_hash
from early_exit.models.pipeline import exit_heads_hash, model_pipeline, shared_prefix, tokenizer_hash
from util.tokens import Tokenization


def pipeline_of(
    model,
    tokenizer,
    effective: dict[str, Any],
    how: Tokenization,
    full_depth: DecodingSetting,
    device: torch.device,
    settings: Sequence[DecodingSetting] = (),
    prompts: Sequence[list[int]] = (),
) -> dict[str, Any]:
    """JSON values. effective: of `models.effective_generation`; full_depth: how that is decoded; settings:
    that are calibrated, if any; prompts: to calibrate with, as tokens.

    What can change a text belongs here or in `models.pipeline`: an entry that is added makes another
    fingerprint. The number of rows decoded at a time is not among them: a row's text does not depend on it.
    """
    longest = len(tokenizer(how.prefix, add_special_tokens=False).input_ids) if how.prefix else 0
    measures = {setting.policy.measure for setting in settings}
    heads = [name for name in measures if name is not None and get_measure(name).needs_exit_head]
    return {
        "decoding": "greedy",
        "precision": full_depth.precision,
        "LM head": "screened" if full_depth.policy.screen else "whole",
        "max tokens": effective["max_length"],
        "source tokens": how.source_length,
        "prefix": repr(how.prefix),
        "prefix tokens": shared_prefix(prompts, longest),
        "tokenizer": tokenizer_hash(tokenizer),
        **model_pipeline(model, full_depth, device),
        "exit head": exit_heads_hash(model, heads),
        "generation": effective,
    }


def certified_pipeline(
    pipeline: dict[str, Any], model, setting: DecodingSetting, device: torch.device
) -> dict[str, Any]:
    """The same of one setting, for `models.calibrated.Certified`, but for what that holds itself."""
    others = {name: value for name, value in pipeline.items() if name not in ("generation", "precision")}
    return others | model_pipeline(model, setting, device)


def fingerprint_of(pipeline: dict[str, Any]) -> str:
    """The hash that stands for a pipeline."""
    return json_hash(pipeline, length=12)
