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
from early_exit.decoding.reference import Decoded, DecoderSteps, ExitLogits, Text
from early_exit.decoding.sampled_drafts import SampledDrafts, shares_of
from early_exit.policy import ExitPolicy

# Gets all tokens so far [1, n] and logits [1, vocabulary]; gives those that a choice is made from.
Process = Callable[[Tensor, Tensor], Tensor]
# Draws a token at a length, by the shares [vocabulary].
Draw = Callable[[int, Tensor], int]
# `early_exit.decoding.reference.NextToken` with what draws the token, None for the likeliest.
NextToken = Callable[[Tensor, Tensor, Draw | None], tuple[Tensor, bool]]
History = dict[int, list[Tensor]]  # layer → a state [1, d_model] a token so far


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
    """Decodes one sequence by a policy with `verify`. Arguments as of `decode_reference`. Exit heads that
    attend see every token with its state after their layer, as in one pass over the text.

    sampled: where tokens are drawn. `next_token` then gets as a third argument what draws one, see
    `early_exit.decoding.sampled_drafts`."""
    draft, final = (None, None) if sampled is None else (sampled.draft, sampled.final)
    check = _Check(policy, next_token, process, sampled)
    history: History = {layer: [] for layer in range(1, decoder.num_layers + 1)}
    for token in prefix[:-1]:
        _through(decoder, token[None], history, policy, None, max_new_tokens)
    text = Text(prefix)
    drafts: list[_Draft] = []
    while True:
        asks = text.new_tokens if len(drafts) < policy.max_draft else None
        layer, confidence, hidden, logits = _through(
            decoder, text.tokens[-1:], history, policy, asks, max_new_tokens
        )
        checked = [*drafts, _Draft(logits, decoder.fork())]
        if layer < decoder.num_layers:
            drafts = checked
            token, ends = next_token(text.tokens[None], ExitLogits(decoder, policy)(layer, hidden), draft)
            text.add(token, layer, confidence)
            if not ends and text.new_tokens < max_new_tokens:
                continue
        kept = check.kept(text.tokens, drafts)
        if kept == len(checked):
            break  # all stay, and the last one ends the text
        text.cut(text.new_tokens - len(drafts) + kept)
        decoder, drafts = checked[kept].decoder.fork(), []
        history = {layer: states[: len(text.tokens)] for layer, states in history.items()}
        token, ends = next_token(text.tokens[None], checked[kept].logits, final)
        text.add(token, decoder.num_layers, float("nan"))
        if ends or text.new_tokens == max_new_tokens:
            break
    return text.decoded()


def _through(
    decoder: DecoderSteps,
    token: Tensor,
    history: History,
    policy: ExitPolicy,
    step: int | None,
    max_new_tokens: int,
) -> tuple[int, float, Tensor, Tensor]:
    """Runs a token through all layers, which are added to the history. Returns where it may leave, with which
    confidence and state, and full depth's logits. step: its number, None where it may not leave."""
    last = decoder.num_layers
    planned = last
    if step is not None:
        planned = int(policy.planned_layers(np.array([step]), np.zeros(1, int), last)[0])
    exited: tuple[int, float, Tensor] | None = None
    hidden = decoder.embed(token)
    for layer in range(1, last + 1):
        previous, hidden = hidden, decoder.run_layer(layer, hidden)
        history[layer].append(hidden)
        if exited is not None or step is None:
            continue
        if layer == planned < last:
            exited = (layer, float("nan"), hidden)
        elif policy.tries_exit(layer, last):
            confidence = get_measure(str(policy.measure))(
                _view(decoder, policy, layer, previous, history[layer])
            )
            if policy.exits(confidence, step, max_new_tokens).item():
                exited = (layer, float(confidence), hidden)
    layer, confidence, state = exited or (last, float("nan"), hidden)
    return layer, confidence, state, ExitLogits(decoder, policy)(last, hidden)


def _view(
    decoder: DecoderSteps, policy: ExitPolicy, layer: int, previous: Tensor, history: list[Tensor]
) -> LayerView:
    hidden = history[-1]

    def no_final_tokens() -> Tensor:
        raise ValueError("drafts do not know full depth's tokens when they leave")

    return LayerView(
        hidden,
        previous,
        logits=lambda: ExitLogits(decoder, policy)(layer, hidden),
        head=lambda: decoder.head_logits(str(policy.measure), layer, torch.stack(history, dim=1)),
        final_tokens=no_final_tokens,
    )


@dataclass(frozen=True)
class _Check:
    """The check of drafts. Fields as the arguments of `decode_drafts_reference`."""

    policy: ExitPolicy
    next_token: NextToken
    process: Process
    sampled: SampledDrafts | None

    def kept(self, tokens: Tensor, drafts: list[_Draft]) -> int:
        """How many of the drafts, which are the last of some tokens [n], stay: all before the first that does
        not."""
        first = len(tokens) - len(drafts)  # the place of the first draft's token
        for number, draft in enumerate(drafts):
            if not self._stays(tokens[: first + number + 1], draft.logits):
                return number
        return len(drafts)

    def _stays(self, tokens: Tensor, logits: Tensor) -> bool:
        """Whether the last of some tokens stays, by full depth's logits in its place."""
        policy, before, token = self.policy, tokens[None, :-1], tokens[-1]
        if policy.verify == "parallel":
            return True
        if self.sampled is not None:
            shares = shares_of(self.process(before, logits)[0])
            return self.sampled.stays(len(tokens) - 1, int(token), shares)
        if policy.verify == "exact":
            return bool(self.next_token(before, logits, None)[0] == token)
        shares = self.process(before, logits)[0].softmax(-1)
        if policy.verify == "rollback":
            return bool(shares[token] >= policy.rollback_threshold)
        return bool(shares[token] >= policy.accept_ratio * shares.max())
