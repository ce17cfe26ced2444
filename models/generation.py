"""Early-exit decoding as a `custom_generate` of transformers.

`generate` prepares everything as ever (encoder, logits processors, stopping criteria) and then hands
over to `early_exit_generate` instead of its own loop.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import ModelOutput

from early_exit.policy import ExitPolicy
from early_exit.reference import Decoded, decode_reference
from models.reference_decoder import ReferenceDecoder


@dataclass
class EarlyExitOutput(ModelOutput):
    """What `generate(exit_policy=…, return_dict_in_generate=True)` returns.

    sequences: [rows, length] int64, start token first, padded. exit_layers: [rows, length - 1]
    int64, the decoder layers that each new token ran, 0 for padding. confidences: the same shape,
    float32, at the exit; NaN for padding and where no exit was tried.
    """

    sequences: Tensor | None = None
    exit_layers: Tensor | None = None
    confidences: Tensor | None = None


_UNSUPPORTED_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def early_exit_generate(
    model,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    exit_policy: ExitPolicy | None = None,
    **model_kwargs,
) -> Tensor | EarlyExitOutput:
    """Reference decoding of a batch, row by row.

    input_ids: [rows, n] decoder prefix; the other arguments are as `generate` prepares them.
    Confidence is measured on the model's own logits; processors act on the choice of the token.
    Raises ValueError for beams and for outputs that it does not keep.

    The model's own arguments must stay in `model_kwargs`: `generate` takes any argument that is named
    here and that its own loop does not name away from the encoder, `attention_mask` included.
    """
    if generation_config.num_beams > 1:
        raise ValueError(f"early exit decodes without beams, got num_beams={generation_config.num_beams}")
    asked = [name for name in _UNSUPPORTED_OUTPUTS if getattr(generation_config, name)]
    if asked and generation_config.return_dict_in_generate:
        raise ValueError(f"early exit does not return {', '.join(asked)}")
    policy = exit_policy or ExitPolicy()
    rows = len(input_ids)
    policy.check_rows(rows)

    def next_token(row: int, tokens: Tensor, logits: Tensor) -> tuple[Tensor, bool]:
        # Some processors belong to a place in the batch, such as those that know its sources: they see
        # a whole batch of copies, and what they say of the row's own place counts.
        tokens, logits = tokens.repeat(rows, 1), logits.float().repeat(rows, 1)
        scores = logits_processor(tokens, logits)[row]
        token = scores.softmax(-1).multinomial(1) if generation_config.do_sample else scores.argmax(-1)[None]
        tokens = torch.cat([tokens, token.expand(rows, 1)], dim=-1)
        return token, bool(stopping_criteria(tokens, None)[row])

    source = model_kwargs["encoder_outputs"].last_hidden_state  # [rows, source, d_model]
    mask = model_kwargs.get("attention_mask")  # [rows, source]
    decoded = [
        decode_reference(
            ReferenceDecoder(model, source[row, None], None if mask is None else mask[row, None]),
            input_ids[row],
            policy.for_row(row),
            partial(next_token, row),
            max_new_tokens=generation_config.max_length - input_ids.shape[1],
        )
        for row in range(rows)
    ]
    return _as_batch(input_ids, decoded, generation_config)


def _as_batch(prefix: Tensor, decoded: list[Decoded], config: GenerationConfig) -> Tensor | EarlyExitOutput:
    padding = config.pad_token_id if config.pad_token_id is not None else 0
    new_tokens = pad_sequence([row.tokens for row in decoded], batch_first=True, padding_value=padding)
    sequences = torch.cat([prefix, new_tokens], dim=1)
    if not config.return_dict_in_generate:
        return sequences
    return EarlyExitOutput(
        sequences=sequences,
        exit_layers=pad_sequence([row.exit_layers for row in decoded], batch_first=True),
        confidences=pad_sequence(
            [row.confidences for row in decoded], batch_first=True, padding_value=float("nan")
        ),
    )
