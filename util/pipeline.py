"""What a guarantee is tied to, by name: the pipeline that a verdict's fingerprint is of."""

import hashlib
import json
from typing import Any

from models.exit_heads import fingerprint
from util.arguments import DataArguments, ExitArguments


def pipeline_of(
    model, tokenizer, effective: dict[str, Any], data: DataArguments, exits: ExitArguments, batch: int
) -> dict[str, Any]:
    """JSON values. effective: of `models.effective_generation`; batch: rows decoded at a time.

    What can change a text belongs here: an entry that is added makes another fingerprint.
    """
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "decoding": "greedy",
        "precision": exits.engine_precision or "float32",
        "LM head": "screened" if exits.lm_head_screen else "whole",
        "batch": batch,
        "max tokens": effective["max_length"],
        "source tokens": data.max_source_length,
        "prefix": repr(data.source_prefix or ""),
        "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()[:8],
        "weights": fingerprint(model),
        "generation": effective,
    }
