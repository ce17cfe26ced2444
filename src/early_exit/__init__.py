"""Early-exit decoding: confidence measures, exit policies, decoding loops and training losses.

Tensors in, tensors out; `early_exit.models` alone, where `load_model` is from, knows transformers. It is
imported on first use, for that takes seconds.
"""

from typing import TYPE_CHECKING

from early_exit.confidence import MEASURES, LayerView, get_measure
from early_exit.decoding.engine import Engine, Prompt
from early_exit.decoding.reference import Decoded, DecoderSteps, decode_reference
from early_exit.decoding.results import DecodedBatch, DecodedRow
from early_exit.kernels.interface import DecoderTensors
from early_exit.linear import PRECISIONS, Linear
from early_exit.lm_head.scores import Scores
from early_exit.policy import ExitPolicy
from early_exit.setting import DecodingSetting
from early_exit.training.exit_losses import joint_cross_entropy
from early_exit.training.objectives import OBJECTIVES, Objective, objective_loss
from early_exit.training.weightings import LAYER_WEIGHTINGS, layer_weights

if TYPE_CHECKING:
    from early_exit.models.loading import load_model

__all__ = [
    "LAYER_WEIGHTINGS",
    "MEASURES",
    "OBJECTIVES",
    "PRECISIONS",
    "Decoded",
    "DecodedBatch",
    "DecodedRow",
    "DecoderSteps",
    "DecoderTensors",
    "DecodingSetting",
    "Engine",
    "ExitPolicy",
    "LayerView",
    "Linear",
    "Objective",
    "Prompt",
    "Scores",
    "decode_reference",
    "get_measure",
    "joint_cross_entropy",
    "layer_weights",
    "load_model",
    "objective_loss",
]


def __getattr__(name: str):
    if name == "load_model":
        from early_exit.models.loading import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
