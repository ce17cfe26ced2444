"""Early-exit decoding as a `custom_generate` of transformers.

`generate` prepares everything as ever (encoder, logits processors, stopping criteria) and then hands
over to a function of this module instead of its own loop: `early_exit_generate`, the fast engine, or
`reference_generate`, the definition that it is tested against.

A trap for whoever adds one: `generate` keeps any argument that such a function names and that its own
loop does not name away from the encoder, `attention_mask` included. The model's own arguments must stay
in `**model_kwargs`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import ModelOutput

from early_exit.decoding.engine import Prompt
from early_exit.decoding.greedy import GreedyChoice
from early_exit.decoding.reference import Decoded, decode_reference
from early_exit.decoding.reference_drafts import Draw, decode_drafts_reference
from early_exit.decoding.results import DecodedBatch, Drafting
from early_exit.decoding.sampled_drafts import SampledDrafts, shares_of
from early_exit.heads import head_kind
from early_exit.models.engines import ModelEngine, engine_for, precision_of
from early_exit.models.options import refuse_unserved
from early_exit.models.reference_decoder import ReferenceDecoder
from early_exit.models.token_choice import (
    Choice,
    Prepared,
    SampledChoice,
    chosen_from,
    greedy_choice,
    new_seed,
    padding_of,
)
from early_exit.policy import ExitPolicy


@dataclass
class EarlyExitOutput(ModelOutput):
    """What `generate(exit_policy=…, return_dict_in_generate=True)` returns.

    sequences: [rows, length] int64, prefix first, padded. exit_layers: [rows, new tokens] int64, the
    decoder layers that each new token ran, 0 for padding. confidences: the same shape, float32, at the
    exit; NaN for padding and where no exit was tried. max_stay_confidence, min_exit_confidence: [rows]
    float32, and screen,
    kept and drafting: see `early_exit.decoding.results.DecodedBatch`; None from reference decoding.
    """

    sequences: Tensor
    exit_layers: Tensor | None = None
    confidences: Tensor | None = None
    max_stay_confidence: Tensor | None = None
    min_exit_confidence: Tensor | None = None
    screen: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None
    drafting: list[Drafting] | None = None


def early_exit_generate(
    model,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    exit_policy: ExitPolicy | None = None,
    engine: ModelEngine | None = None,
    streamer=None,
    tokenizer=None,
    **model_kwargs,
) -> Tensor | EarlyExitOutput:
    """Decodes a batch with the fast engine.

    input_ids: [rows, n] decoder prefix; engine: the model's for the policy, by default in the type that the
    model is in; the other arguments are as `generate` prepares them.
    Confidence is measured on the model's own logits; processors act on the choice of the token.
    streamer: gets the tokens of every step, as transformers' loop gives them; tokenizer: for `generate`
    itself, which makes stop strings' criteria with it.
    Raises ValueError for what it does not serve, see `models.options`.
    """
    prepared = Prepared(input_ids, logits_processor, stopping_criteria, generation_config, streamer)
    policy = exit_policy or ExitPolicy()
    _check_call(prepared, policy, model_kwargs)
    choose = _choice(prepared, policy)
    engine = engine or engine_for(model, policy, precision_of(model, None))
    source, mask = model_kwargs["encoder_outputs"].last_hidden_state, model_kwargs.get("attention_mask")
    prefixes = input_ids.cpu().numpy()
    prompts = [Prompt(*each) for each in zip(without_padding(source, mask), prefixes, strict=True)]
    with torch.autocast(source.device.type, enabled=False):
        decoded = engine.engine.decode_batch(prompts, policy, choose, prepared.max_new_tokens)
    new = decoded.tokens.masked_fill(decoded.exit_layers == 0, padding_of(generation_config))
    sequences = torch.cat([input_ids, new.to(input_ids.device)], dim=1)
    if streamer is not None:
        if isinstance(choose, Choice) and _drafts_wait(policy):
            choose.settled(0, sequences.shape[1])
        streamer.end()
    return _output(sequences, decoded) if generation_config.return_dict_in_generate else sequences


def _choice(prepared: Prepared, policy: ExitPolicy) -> GreedyChoice | Choice:
    """How the tokens of a call are chosen."""
    greedy = greedy_choice(prepared)
    if greedy is not None:
        return greedy
    if policy.verify is not None and prepared.config.do_sample:
        return SampledChoice(prepared, _drafts_wait(policy), new_seed(), _lenience(policy))
    return Choice(prepared, _drafts_wait(policy))


def _drafts_wait(policy: ExitPolicy) -> bool:
    """Whether tokens may be chosen anew after their check."""
    return policy.verify not in (None, "parallel")


def _output(sequences: Tensor, decoded: DecodedBatch) -> EarlyExitOutput:
    names = [field.name for field in fields(EarlyExitOutput) if field.name != "sequences"]
    return EarlyExitOutput(sequences=sequences, **{name: getattr(decoded, name) for name in names})


def _check_call(prepared: Prepared, policy: ExitPolicy, options: dict) -> None:
    """Raises ValueError for what decoding with exits does not do. options: the model's arguments."""
    refuse_unserved(prepared.config, {**options, "past_key_values": None})  # here it is a fresh cache
    if policy.verify is None:
        return
    if prepared.config.do_sample and policy.verify == "rollback":
        raise ValueError(
            "verify='rollback' is for greedy decoding, got do_sample=True; allowed: exact, lenient, parallel"
        )
    if prepared.streamer is not None and prepared.rows > 1:
        raise ValueError(f"drafts (verify={policy.verify!r}) stream one row, got {prepared.rows}")


def _lenience(policy: ExitPolicy) -> float:
    """Of drafts that are drawn, see `early_exit.decoding.sampled_drafts`."""
    return {"exact": 1.0, "lenient": policy.accept_ratio, "parallel": 0.0}[str(policy.verify)]


def reference_generate(
    model,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    exit_policy: ExitPolicy | None = None,
    **model_kwargs,
) -> Tensor | EarlyExitOutput:
    """The same by reference decoding, row by row: slow, and right by construction."""
    prepared = Prepared(input_ids, logits_processor, stopping_criteria, generation_config)
    policy = exit_policy or ExitPolicy()
    _check_call(prepared, policy, model_kwargs)
    _check_model(model, policy, prepared.rows)
    choice = _RowByRow(prepared)
    source = model_kwargs["encoder_outputs"].last_hidden_state  # [rows, source, d_model]
    mask = model_kwargs.get("attention_mask")  # [rows, source]
    seed = new_seed() if policy.verify is not None and generation_config.do_sample else None

    def decode(row: int) -> Decoded:
        decoder = ReferenceDecoder(model, source[row, None], None if mask is None else mask[row, None])
        next_token, process = partial(choice.next_token, row), partial(choice.process, row)
        arguments = (decoder, input_ids[row], policy.for_row(row), next_token, prepared.max_new_tokens)
        if policy.verify is None:
            return decode_reference(*arguments)
        sampled = None if seed is None else SampledDrafts(seed, row, _lenience(policy))
        return decode_drafts_reference(*arguments, process=process, sampled=sampled)

    decoded = [decode(row) for row in range(prepared.rows)]
    pad = partial(pad_sequence, batch_first=True)
    new_tokens = pad([row.tokens for row in decoded], padding_value=padding_of(generation_config))
    sequences = torch.cat([input_ids, new_tokens], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    return EarlyExitOutput(
        sequences=sequences,
        exit_layers=pad([row.exit_layers for row in decoded]),
        confidences=pad([row.confidences for row in decoded], padding_value=float("nan")),
    )


def _check_model(model, policy: ExitPolicy, rows: int) -> None:
    """Raises ValueError for a policy that does not fit the model or the number of rows."""
    policy.check_rows(rows)
    policy.check_vocabulary(model.config.vocab_size)
    model.check_exit_adapters()
    if policy.measure is not None and head_kind(policy.measure) is not None:
        model.check_exit_heads(policy.measure)


class _RowByRow:
    """The choice of tokens for reference decoding: `next_token` and `process`, of one row of a batch."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared

    def process(self, row: int, tokens: Tensor, logits: Tensor) -> Tensor:
        # Some processors belong to a place in the batch, such as those that know its sources: they see
        # a whole batch of copies, and what they say of the row's own place counts.
        rows, processors = self._prepared.rows, self._prepared.processors
        return processors(tokens.repeat(rows, 1), logits.float().repeat(rows, 1))[row, None]

    def next_token(
        self, row: int, tokens: Tensor, logits: Tensor, draw: Draw | None = None
    ) -> tuple[Tensor, bool]:
        scores = self.process(row, tokens, logits)
        if draw is None:
            token = chosen_from(scores, self._prepared.config)  # [1]
        else:
            token = tokens.new_tensor([draw(tokens.shape[1], shares_of(scores[0]))])
        longer = torch.cat([tokens, token[None]], dim=-1).repeat(self._prepared.rows, 1)
        return token, bool(self._prepared.criteria(longer, None)[row])


def without_padding(source: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The encoder's output [rows, length, d_model] as a tensor [own length, d_model] a row. Cross-attention
    has no positions, so that padding anywhere can be left out.

    Of a row that is all padding the mean stays, [1, d_model]: transformers adds the same huge negative number
    to all of its scores, which leaves equal weights, and values are linear in the states.
    """
    source = source.float()
    if mask is None or bool((mask != 0).all()):
        return list(source)
    return [
        states[kept] if kept.any() else states.mean(0, keepdim=True)
        for states, kept in zip(source, mask != 0, strict=True)
    ]
