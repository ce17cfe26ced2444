"""The generation config that a run decodes with: settled and checked before anything is trained or
decoded."""

from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainer

from early_exit.models.effective_generation import (
    effective_generation,
    evaluation_options,
    merged_config,
    unlike_greedy,
)
from early_exit.models.options import OTHER_LOOPS, why_not_served
from util.errors import UsageError

# What decoding with exits does not do.
_NOT_WITH_EXITS = {name: f"exits do not serve {what}" for name, what in OTHER_LOOPS.items()} | {
    "num_beams": "exits decode without beams: pass --num_beams 1",
    "do_sample": "exits are evaluated and calibrated greedily",
    "num_return_sequences": "there is one greedy text",
}


def settle_generation(model, training) -> dict[str, Any]:
    """The effective generation config of a run, see `models.effective_generation`.

    Gives the model the config that `--generation_config` names. Raises UsageError where that is none, or no
    text can come of it.
    """
    try:
        if training.generation_config is not None:
            model.generation_config = Seq2SeqTrainer.load_generation_config(training.generation_config)
        return effective_generation(model, evaluation_options(training))
    except (OSError, ValueError) as error:
        raise UsageError(f"generation config: {' '.join(str(error).split())}") from error


def check_generation(
    effective: dict[str, Any],
    checkpoint: str | None,
    training,
    exits: bool,
    calibrates: bool,
    adapts: bool,
) -> None:
    """Raises UsageError where the run cannot decode as the effective generation config says.

    checkpoint: whose config it is. exits: whether the run decodes with this project's engine; calibrates:
    what it is for; adapts: whether a threshold is learned from its texts.
    """
    if not training.predict_with_generate and not calibrates:
        return
    unusual = unlike_greedy(effective)
    refused = dict.fromkeys(unusual, "--use_adapt_threshold is for plain greedy decoding") if adapts else {}
    refused |= {"stop_strings": "evaluation knows no stop strings"}
    if exits:
        refused |= _NOT_WITH_EXITS
    if calibrates:
        refused["max_time"] = "texts that depend on the clock cannot be calibrated"
    for name, value in unusual.items():
        if name in refused:
            raise UsageError(f"{name} {value!r} in {_source(checkpoint, training)}: {refused[name]}")
    if exits and effective["max_length"] < 2:
        raise UsageError(
            f"generation of at most {effective['max_length']} tokens, the start token included, is empty"
        )


def check_served(model, checkpoint: str | None, training) -> None:
    """Raises UsageError where decoding with exits does not do what else the generation config asks for, such
    as to return scores. checkpoint: whose config it is."""
    reason = why_not_served(*merged_config(model, evaluation_options(training)))
    if reason is not None:
        raise UsageError(f"{_source(checkpoint, training)}: exits do not serve {reason}")


def _source(checkpoint: str | None, training) -> str:
    if training.generation_config is not None:
        return f"--generation_config {training.generation_config}"
    file = Path(checkpoint or "") / "generation_config.json"
    return str(file) if checkpoint and file.is_file() else f"the generation config of {checkpoint}"
