"""Reference decoding of drafts: the plainest loop that is right, one sequence at a time.

Every token is run through all layers at once; what full depth says of it is looked up when the drafts are
checked. So there are no blocks, and nothing is deferred. `early_exit.decoding.drafts` gives the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import LayerView, get_measure
from early_exit.decoding.reference import Decoded, DecoderSteps, ExitLogits
from early_exit.decoding.sampled_drafts import SampledDrafts, shares_of
from early_exit.policy import ExitPolicy

# Gets all tokens so far [1, n] and logits [1, vocabulary]; gives those that a choice is made from.
Process = Callable[[Tensor, Tensor], Tensor]
# Draws a token at a length, by the shares [vocabulary].
Draw = Callable[[int, Tensor], int]
# `early_exit.decoding.reference.NextToken` with what draws the token, None for the likeliest.
NextToken = Callable[[Tensor, Tensor, Draw | None], tuple[Tensor, bool]]


@dataclass(frozen=True)
class _Draft:
    """A token that left early. logits: [1, vocabulary], full depth's in its place. decoder: as it was
    then."""

    logits: Tensor
    decoder: DecoderSteps


def decode_drafts_reference(
    decoder: DecoderSteps,
    prefix: Tensor,
    policy: ExitPolicy,
    next_token: NextToken,
    max_new_tokens: int,
    process: Process = lambda tokens, logits: logits,
    sampled: SampledDrafts | None = None,
) -> Decoded:
    """Decodes one sequence by a policy with `verify`. Arguments as of `decode_reference`; not for exit heads
    that attend, which see drafts with the states that these left with.

    sampled: where tokens are drawn. `next_token` then gets as a third argument what draws one, see
    `early_exit.decoding.sampled_drafts`."""
    draft, final = (None, None) if sampled is None else (sampled.draft, sampled.final)
    for token in prefix[:-1]:
        _through(decoder, token[None], policy, None, max_new_tokens)
    tokens, layers, confidences = prefix, [], []
    drafts: list[_Draft] = []
    while True:
        step = len(tokens) - len(prefix)
        asks = step if len(drafts) < policy.max_draft else None
        layer, confidence, hidden, logits = _through(decoder, tokens[-1:], policy, asks, max_new_tokens)
        in_flight = _Draft(logits, decoder.fork())
        if layer < decoder.num_layers:
            drafts.append(in_flight)
            token, ends = next_token(tokens[None], ExitLogits(decoder, policy)(layer, hidden), draft)
            tokens = torch.cat([tokens, token])
            layers.append(layer)
            confidences.append(confidence)
            if not ends and step + 1 < max_new_tokens:
                continue
            checked = drafts
        else:
            checked = [*drafts, in_flight]
        first = len(tokens) - len(drafts)  # the place of the first draft's token
        kept = 0
        while kept < len(drafts) and _stays(
            policy, tokens[: first + kept + 1], drafts[kept].logits, next_token, process, sampled
        ):
            kept += 1
        drafts = []
        if kept == len(checked):
            break  # all stay, and the last one ends the text
        decoder = checked[kept].decoder.fork()
        dropped = len(tokens) - first - kept
        tokens = tokens[: first + kept]
        layers, confidences = layers[: len(layers) - dropped], confidences[: len(confidences) - dropped]
        token, ends = next_token(tokens[None], checked[kept].logits, final)
        tokens = torch.cat([tokens, token])
        layers.append(decoder.num_layers)
        confidences.append(float("nan"))
        if ends or len(layers) == max_new_tokens:
            break
    device = prefix.device
    return Decoded(
        tokens[len(prefix) :],
        torch.tensor(layers, device=device),
        torch.tensor(confidences, device=device),
    )


def _through(
    decoder: DecoderSteps, token: Tensor, policy: ExitPolicy, step: int | None, max_new_tokens: int
) -> tuple[int, float, Tensor, Tensor]:
    """Runs a token through all layers. Returns where it may leave, with which confidence and state, and
    full depth's logits. step: its number, None where it may not leave."""
    last = decoder.num_layers
    planned = last
    if step is not None:
        planned = int(policy.planned_layers(np.array([step]), np.zeros(1, int), last)[0])
    exited: tuple[int, float, Tensor] | None = None
    hidden = decoder.embed(token)
    for layer in range(1, last + 1):
        previous, hidden = hidden, decoder.run_layer(layer, hidden)
        if exited is not None or step is None:
            continue
        if layer == planned < last:
            exited = (layer, float("nan"), hidden)
        elif policy.tries_exit(layer, last):
            confidence = get_measure(str(policy.measure))(_view(decoder, policy, layer, hidden, previous))
            if policy.exits(confidence, step, max_new_tokens).item():
                exited = (layer, float(confidence), hidden)
    layer, confidence, state = exited or (last, float("nan"), hidden)
    return layer, confidence, state, ExitLogits(decoder, policy)(last, hidden)


def _view(
    decoder: DecoderSteps, policy: ExitPolicy, layer: int, hidden: Tensor, previous: Tensor
) -> LayerView:
    def no_final_tokens() -> Tensor:
        raise ValueError("drafts do not know full depth's tokens when they leave")

    return LayerView(
        hidden,
        previous,
        logits=lambda: ExitLogits(decoder, policy)(layer, hidden),
        head=lambda: decoder.head_logits(str(policy.measure), layer, hidden[:, None]),
        final_tokens=no_final_tokens,
    )


def _stays(
    policy: ExitPolicy,
    tokens: Tensor,
    logits: Tensor,
    next_token: NextToken,
    process: Process,
    sampled: SampledDrafts | None,
) -> bool:
    """Whether the last of some tokens stays, by full depth's logits in its place."""
    before, token = tokens[None, :-1], tokens[-1]
    if policy.verify == "parallel":
        return True
    if sampled is not None:
        return sampled.stays(len(tokens) - 1, int(token), shares_of(process(before, logits)[0]))
    if policy.verify == "exact":
        return bool(next_token(before, logits, None)[0] == token)
    shares = process(before, logits)[0].softmax(-1)
    if policy.verify == "rollback":
        return bool(shares[token] >= policy.rollback_threshold)
    return bool(shares[token] >= policy.accept_ratio * shares.max())
