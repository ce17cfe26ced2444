"""Models from checkpoints, hub ids and shapes."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel

from early_exit.models.calibration_file import read_certified
from early_exit.models.shapes import shape_config
from early_exit.models.t5 import MODEL_CLASSES


def load_model(
    name_or_path: str,
    dropout_rate: float | None = None,
    calibration: Path | str | None = None,
    **hub_options,
) -> PreTrainedModel:
    """A T5-family checkpoint, with exits. The class follows from its `model_type`, never from its name.

    dropout_rate: in [0, 1), None for the checkpoint's own.
    calibration: output folder of a calibration, whose certified setting `generate` then uses by default, in
    the place of one that the checkpoint has; with a warning and without exits where none was certified.
    hub_options: `revision`, `token`, `cache_dir`, `trust_remote_code` of transformers. Weights are
    read from safetensors only. Raises OSError where there is no such checkpoint or calibration, ValueError
    for a model type that has no exits here, weights of other shapes than the configuration's, and a
    calibration that is none.
    """
    config = AutoConfig.from_pretrained(name_or_path, **hub_options)
    if config.model_type not in MODEL_CLASSES:
        raise ValueError(
            f"{name_or_path} is a model of type {config.model_type!r}; known: {', '.join(MODEL_CLASSES)}"
        )
    if calibration is not None:
        certified = read_certified(calibration)
        config.exit_calibration = None if certified is None else certified.to_dict()
    if dropout_rate is not None:
        config.dropout_rate = dropout_rate
    try:
        model, found = MODEL_CLASSES[config.model_type].from_pretrained(
            name_or_path, config=config, use_safetensors=True, output_loading_info=True, **hub_options
        )
    except SafetensorError as error:
        raise OSError(f"the weights cannot be read: {error}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError("the weights have other shapes than its configuration says") from error
    _drop_missing(model, found["missing_keys"])
    return model


def _drop_missing(model, missing: Iterable[str]) -> None:
    """Drops exit heads and adapters that the configuration names and the weights lack, as where the stock
    class has saved them again; with a warning."""
    parts = {(*name.split("."), "")[:2] for name in missing}
    heads = sorted(name for module, name in parts if module == "exit_heads")
    for name in heads:
        model.drop_exit_heads(name)
    lost = [f"exit head {name!r}" for name in heads]
    if any(module == "exit_adapters" for module, _ in parts):
        model.drop_exit_adapters()
        lost.append("exit adapters")
    if lost:
        warnings.warn(f"the checkpoint has no weights of its {', '.join(lost)}: left out", stacklevel=3)


def new_model(shape: str, vocab_size: int, dropout_rate: float | None = None) -> PreTrainedModel:
    """A model with random weights; shape: a name of `models.shapes.SHAPES`. dropout_rate: in [0, 1),
    None for the shape's own."""
    overrides = {} if dropout_rate is None else {"dropout_rate": dropout_rate}
    return MODEL_CLASSES["t5"](shape_config(shape, vocab_size, **overrides))
