"""Whether a system writes the model's texts."""

import torch
from torch import Tensor

LARGEST = 0.05  # rounding to 8 bits gives 0.001; cross-attention with signs turned 0.6, any tokens 1
_ROWS = 8


@torch.no_grad()
def lost_logit(model, source: Tensor, texts: list[list[int]]) -> float:
    """How far a text is from greedy decoding, as the float32 model sees each token after those before it:
    the mean of (largest logit − own logit) / (largest logit − mean logit). 0 for the model's own text.

    Unlike a comparison of texts it does not count all that follows a first token between two equals.
    source: [rows, length]; texts: [rows][new tokens]. The first rows are looked at.
    """
    rows = torch.tensor(texts[:_ROWS])
    before = torch.cat([torch.zeros_like(rows[:, :1]), rows[:, :-1]], dim=1)
    logits = model(
        input_ids=source[: len(rows)], decoder_input_ids=before
    ).logits  # [rows, tokens, vocabulary]
    largest, own = logits.amax(-1), logits.gather(-1, rows[..., None])[..., 0]
    return float(((largest - own) / (largest - logits.mean(-1))).mean())
