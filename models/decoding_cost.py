"""What a setting costs, to rank settings before any of them is timed."""

import numpy as np

from early_exit.confidence import get_measure
from early_exit.kernels.native.kernels import WORTH_SCREENING
from early_exit.linear import PRECISIONS, has_native
from early_exit.policy import ExitPolicy
from early_exit.setting import DecodingSetting


def bytes_per_token(model, setting: DecodingSetting, layers: np.ndarray) -> np.ndarray:
    """Bytes of weights that decoding one row reads for a token, on average: what its time goes with.

    layers: mean decoder layers a token. Keys and values of the source are computed once and do not count.
    """
    policy, size = setting.policy, PRECISIONS[setting.precision].weight_bytes
    measure = None if policy.measure is None else get_measure(policy.measure)
    if measure is not None and measure.needs_full_depth:
        layers = np.full_like(layers, len(model.decoder.block))
    looks = _looks(model, policy, layers)
    cost = layers * _layer_weights(model) * size + _lm_head_bytes(model, setting, looks, layers)
    cost = cost + _adapter_bytes(model, setting, looks, layers)
    if measure is not None and measure.needs_exit_head:
        head = model.exit_heads[policy.measure].heads[0]
        asked = looks - _last(model, policy, layers)  # at the last layer there is nothing to decide
        cost = cost + asked * size * sum(parameter.numel() for parameter in head.parameters())
    return cost


def _looks(model, policy: ExitPolicy, layers: np.ndarray) -> np.ndarray:
    """How often a token is looked at: at the exits that are tried, and where it is chosen; one that leaves
    was tried there. Beyond `max_layer` nobody is asked, and those that get there go to the last layer."""
    last = policy.last_layer(len(model.decoder.block))
    looks = layers - max(policy.min_layer, 1) + 1
    if policy.max_layer is not None and policy.max_layer < last:
        beyond = np.maximum(0, layers - policy.max_layer) / (last - policy.max_layer)  # the fewest tokens
        looks = looks - beyond * (last - policy.max_layer - 1)
    return np.maximum(1, looks)


def _layer_weights(model) -> int:
    """How many weights of a decoder layer a token reads."""
    block = model.decoder.block[-1]
    cross = block.layer[1].EncDecAttention
    return (
        sum(parameter.numel() for parameter in block.parameters())
        - cross.k.weight.numel()
        - cross.v.weight.numel()
    )


def _adapter_bytes(
    model, setting: DecodingSetting, looks: np.ndarray, layers: np.ndarray
) -> np.ndarray | float:
    """Of exit adapters: one wherever an exit below full depth reads the LM head."""
    if model.exit_adapters is None:
        return 0.0
    measure = setting.policy.measure
    asks = measure is not None and get_measure(measure).reads_lm_head
    size = model.config.d_model**2 * PRECISIONS[setting.precision].head_bytes
    return ((looks if asks else 1) - _deep(model, setting.policy, layers)) * size


def _last(model, policy: ExitPolicy, layers: np.ndarray) -> np.ndarray:
    """The largest share of tokens that may go to the last layer that is run, the others leaving after one."""
    return (layers - 1) / max(1, policy.last_layer(len(model.decoder.block)) - 1)


def _deep(model, policy: ExitPolicy, layers: np.ndarray) -> np.ndarray | float:
    """The same of full depth."""
    number = len(model.decoder.block)
    return 0.0 if policy.last_layer(number) < number else _last(model, policy, layers)


def _lm_head_bytes(
    model, setting: DecodingSetting, looks: np.ndarray, layers: np.ndarray
) -> np.ndarray | float:
    """Of the LM head: for the token alone, or for every look of a measure that reads it."""
    policy, size = setting.policy, PRECISIONS[setting.precision].head_bytes
    vocabulary, d_model = model.lm_head.weight.shape
    whole, screened = vocabulary * d_model * size, vocabulary * d_model * PRECISIONS["int8"].weight_bytes
    deep, last = _deep(model, policy, layers), _last(model, policy, layers)
    token = screened if policy.screen or _finds_tokens_through_a_copy(model, setting.precision) else whole
    if policy.shortlist is not None:
        asks = policy.measure is not None and get_measure(policy.measure).reads_lm_head
        listed = policy.shortlist * d_model * size
        if policy.shortlist_at_full_depth:
            token = listed
        return (looks if asks else 1) * listed + deep * token
    if policy.measure is None or not get_measure(policy.measure).reads_lm_head:
        return token
    if policy.top_k is not None and size > 1:  # int8 computes all logits and takes K of them
        return whole + (looks - 1) * policy.top_k * d_model * size
    if policy.screen:  # which knows bounds of softmax response; other measures ask for all logits, exactly
        exact = vocabulary * d_model * PRECISIONS["float32"].weight_bytes
        return looks * (screened if policy.measure == "softmax" else exact)
    return (looks - last) * whole + last * token  # the last layer is asked for its token alone


def _finds_tokens_through_a_copy(model, precision: str) -> bool:
    """Whether the kernels read the head's int8 copy where only a token is asked for."""
    large = model.lm_head.weight.numel() >= WORTH_SCREENING
    return PRECISIONS[precision].head_bytes == 4 and large and has_native(model.device)
