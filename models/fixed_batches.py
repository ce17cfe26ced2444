"""Texts of prompts through `generate`, a padded batch at a time: for what a stream does not serve."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from early_exit.decoding.results import DecodedRow
from early_exit.models.effective_generation import merged_config
from early_exit.models.generation import EarlyExitOutput
from early_exit.models.sources import Source, Watch, padded_batch, padded_sources
from early_exit.policy import ExitPolicy


def decode_batches(
    model,
    policy: ExitPolicy | None,
    precision: str | None,
    sources: Sequence[Source],
    rows: int,
    options: dict[str, Any],
    states: Sequence[Tensor] | None,
    watch: Watch,
) -> Iterator[tuple[list[DecodedRow], Counter]]:
    """The texts of each batch, and what there was to count of the LM head's reading; arguments as those of
    `models.stream.decode_prompts`. Raises ValueError where `generate` gives several texts a prompt."""
    config, _ = merged_config(model, options)
    pad = 0 if config.pad_token_id is None else config.pad_token_id
    ends = _as_set(config.eos_token_id)
    for first in range(0, len(sources), rows):
        numbers = list(range(first, min(first + rows, len(sources))))
        inputs: dict[str, Any] = padded_sources([sources[number] for number in numbers], pad, model.device)
        if states is not None:
            padded, inputs["attention_mask"] = padded_batch([states[number] for number in numbers])
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=padded)
        own = None if policy is None else policy.for_row(numbers)
        watch.start()
        output = _generate(model, own, precision, inputs | options)
        if len(output.sequences) != len(numbers):
            raise ValueError(
                f"generation gave {len(output.sequences)} texts for {len(numbers)} prompts; one each is read"
            )
        decoded = list(_rows(output, ends, model.num_exits, first))
        watch.chose(sum(len(row.tokens) for row in decoded))
        watch.ended(len(decoded))
        yield decoded, _counts(output)


def _generate(model, policy: ExitPolicy | None, precision: str | None, options: dict) -> EarlyExitOutput:
    """A batch; of transformers' own decoding the sequences alone."""
    if policy is None:
        output = model.generate(**options, exit_policy=None)
        return EarlyExitOutput(getattr(output, "sequences", output))
    exits = {"exit_policy": policy, "engine_precision": precision}
    return model.generate(**options | exits | {"return_dict_in_generate": True})


def _rows(output: EarlyExitOutput, ends: set[int], num_exits: int, first: int) -> Iterator[DecodedRow]:
    """The batch without start token and padding. Without exit layers a text ends with its first end token."""
    if output.exit_layers is None:
        for number, tokens in enumerate(output.sequences[:, 1:].tolist(), start=first):
            length = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
            confidences = [float("nan")] * length
            yield DecodedRow(number, tokens[:length], [num_exits] * length, confidences)
        return
    lengths = (output.exit_layers > 0).sum(-1).tolist()
    steps = output.exit_layers.shape[1]
    fields = (output.sequences[:, output.sequences.shape[1] - steps :], output.exit_layers)
    each = zip(*(field.tolist() for field in (*fields, output.confidences)), lengths, strict=True)
    for index, (tokens, layers, confidences, length) in enumerate(each):
        row = DecodedRow(first + index, tokens[:length], layers[:length], confidences[:length])
        if output.max_stay_confidence is not None:
            row.max_stay_confidence = output.max_stay_confidence[index].item()
            row.min_exit_confidence = output.min_exit_confidence[index].item()
        if output.drafting is not None:
            row.drafting = output.drafting[index]
        yield row


def _counts(output: EarlyExitOutput) -> Counter:
    counts = Counter(output.screen or {})
    if output.kept is not None:
        counts["kept"], counts["chosen"] = output.kept()
    return counts


def _as_set(tokens: int | list[int] | None) -> set[int]:
    if tokens is None:
        return set()
    return set(tokens) if isinstance(tokens, list) else {tokens}
