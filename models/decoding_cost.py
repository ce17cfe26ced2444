"""What a setting costs, to rank settings before any of them is timed."""

import numpy as np

from early_exit.policy import ExitPolicy

_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def bytes_per_token(model, policy: ExitPolicy, precision: str, layers: np.ndarray) -> np.ndarray:
    """Bytes of weights that decoding one row reads for a token, on average: what its time goes with.

    layers: mean decoder layers a token. Keys and values of the source are computed once and do not count.
    """
    size = _BYTES[precision]
    block = model.decoder.block[-1]
    cross = block.layer[1].EncDecAttention
    layer = sum(parameter.numel() for parameter in block.parameters())
    layer -= cross.k.weight.numel() + cross.v.weight.numel()
    vocabulary, d_model = model.lm_head.weight.shape
    head = vocabulary * d_model * (1 if policy.screen else size)
    # Times that the head is read: for every exit tried, or for the token at full depth.
    reads = np.maximum(1, layers - max(policy.min_layer, 1) + 1) if policy.measure == "softmax" else 1
    if policy.top_k is not None and size > 1:  # int8 computes all logits and takes K of them
        return layers * layer * size + head + (reads - 1) * policy.top_k * d_model * size
    return layers * layer * size + reads * head
