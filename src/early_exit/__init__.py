"""Early-exit decoding: confidence measures, exit policies, decoding loops and training losses.

Tensors in, tensors out: nothing here knows of transformers, flags or files.
"""

from early_exit.confidence import MEASURES, LayerView, get_measure
from early_exit.engine import DecodedBatch, decode
from early_exit.linear import PRECISIONS, Linear
from early_exit.losses import LAYER_WEIGHTINGS, joint_cross_entropy, layer_weights
from early_exit.policy import ExitPolicy
from early_exit.reference import Decoded, DecoderSteps, decode_reference
from early_exit.screen import ScreenedHead
from early_exit.setting import DecodingSetting
from early_exit.vocabulary import Scores
from early_exit.weights import DecoderWeights, LayerWeights

__all__ = [
    "LAYER_WEIGHTINGS",
    "MEASURES",
    "PRECISIONS",
    "Decoded",
    "DecodedBatch",
    "DecoderSteps",
    "DecoderWeights",
    "DecodingSetting",
    "ExitPolicy",
    "LayerView",
    "LayerWeights",
    "Linear",
    "Scores",
    "ScreenedHead",
    "decode",
    "decode_reference",
    "get_measure",
    "joint_cross_entropy",
    "layer_weights",
]
