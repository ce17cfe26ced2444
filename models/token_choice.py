"""How `generate` chooses tokens, for the engine: greedily, by its logits processors, or drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from early_exit.decoding.greedy import GreedyChoice
from early_exit.decoding.sampled_drafts import SampledDrafts, shares_of
from early_exit.lm_head.scores import Scores


@dataclass(frozen=True)
class Prepared:
    """What `generate` hands over to a loop. input_ids: [rows, n] int64, the decoder's prefix."""

    input_ids: Tensor
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig
    streamer: Any = None

    @property
    def rows(self) -> int:
        return len(self.input_ids)

    @property
    def max_length(self) -> int:
        """Of a text with its prefix: a caller's own criterion stands in the place of the config's. A text
        has one new token at least."""
        given = [each.max_length for each in self.criteria if type(each) is MaxLengthCriteria]
        return max(min(given, default=self.config.max_length), self.input_ids.shape[1] + 1)

    @property
    def max_new_tokens(self) -> int:
        return self.max_length - self.input_ids.shape[1]


def greedy_choice(prepared: Prepared) -> GreedyChoice | None:
    """The choice of tokens where it is plain greedy: nothing but end tokens and the length ends a text."""
    if len(prepared.processors) or prepared.config.do_sample or prepared.streamer is not None:
        return None
    ends = [np.empty(0, dtype=np.int64)]
    for criterion in prepared.criteria:
        if type(criterion) is EosTokenCriteria:
            ends.append(criterion.eos_token_id.cpu().numpy().reshape(-1))
        elif type(criterion) is not MaxLengthCriteria:
            return None
    return GreedyChoice(np.unique(np.concatenate(ends)))


class Choice:
    """The choice of tokens as `generate` makes it, for the engine.

    sequences: [rows, max_length] int64, the texts so far.
    """

    def __init__(self, prepared: Prepared, drafts: bool):
        """drafts: whether tokens may be chosen anew; the streamer then gets those that are `settled`."""
        config, (rows, prefix_length) = prepared.config, prepared.input_ids.shape
        self.sequences = prepared.input_ids.new_full((rows, prepared.max_length), padding_of(config))
        self.sequences[:, :prefix_length] = prepared.input_ids
        self._processors, self._criteria = prepared.processors, prepared.criteria
        self._config, self._streamer = config, prepared.streamer
        self._drafts, self._streamed = drafts, prefix_length
        self._processes = bool(len(prepared.processors)) or config.do_sample

    def __call__(
        self, rows: np.ndarray, lengths: np.ndarray, scores: Scores
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `early_exit.decoding.exits.Choose`."""
        indices = torch.from_numpy(rows).to(self.sequences.device)
        if self._processes:
            tokens = torch.empty_like(indices)
            for some, everyone in self._processed(indices, lengths, scores.logits()):
                tokens[some] = self._pick(everyone, indices[some], int(lengths[some[0]]))
        else:
            tokens = torch.from_numpy(scores.tokens()).to(self.sequences.device)
        self.sequences[indices, torch.from_numpy(lengths).to(self.sequences.device)] = tokens
        if self._streamer is not None and not self._drafts:
            self._streamer.put(self.sequences[:, int(lengths[0])].cpu())
        ends = np.zeros(len(rows), dtype=bool)
        for length, some in _by_length(lengths):
            ended = self._criteria(self.sequences[:, : length + 1], None)
            ends[some] = ended[indices[some]].cpu().numpy()
        return tokens.cpu().numpy(), ends

    def _pick(self, everyone: Tensor, indices: Tensor, length: int) -> Tensor:
        """The tokens [n] of some rows at one length, from the processed logits of all [rows, vocabulary]."""
        return chosen_from(everyone, self._config)[indices]

    def processed(self, rows: np.ndarray, lengths: np.ndarray, scores: Scores) -> Tensor:
        """The logits [n, vocabulary] that a choice is made from."""
        logits = scores.logits()
        if not self._processes:
            return logits
        result, indices = (
            torch.empty_like(logits, dtype=torch.float32),
            torch.from_numpy(rows).to(logits.device),
        )
        for some, everyone in self._processed(indices, lengths, logits):
            result[some] = everyone[indices[some]]
        return result

    def settled(self, row: int, length: int) -> None:
        """What the first `length` tokens of a text are is final: those that may have been chosen anew are
        streamed now."""
        if self._streamer is not None and self._drafts:
            for token in self.sequences[row, self._streamed : length].cpu():
                self._streamer.put(token[None])
            self._streamed = length

    def _processed(
        self, indices: Tensor, lengths: np.ndarray, logits: Tensor
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Processed logits of the whole batch [rows, vocabulary], once for the rows [n] of each length.
        Processors may belong to a place in the batch, and draws to a row: they see all of it."""
        for length, some in _by_length(lengths):
            everyone = logits.new_zeros(len(self.sequences), logits.shape[1], dtype=torch.float32)
            everyone[indices[some]] = logits[some].float()
            yield some, self._processors(self.sequences[:, :length], everyone)


class SampledChoice(Choice):
    """The choice where tokens are drawn and may be drafts, see `early_exit.decoding.sampled_drafts`."""

    def __init__(self, prepared: Prepared, drafts: bool, seed: int, lenience: float):
        """seed, lenience: of the draws; the others as of `Choice`."""
        super().__init__(prepared, drafts)
        self._draws = [SampledDrafts(seed, row, lenience) for row in range(len(self.sequences))]
        self._drafting = False

    def draft(self, rows: np.ndarray, lengths: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
        """The same as a call, of tokens that left early."""
        self._drafting = True
        try:
            return self(rows, lengths, scores)
        finally:
            self._drafting = False

    def stays(self, row: int, length: int, token: int, scores: Scores) -> bool:
        """Whether a text's token at a length, a draft, stays by full depth's scores, of one row."""
        processed = self.processed(np.array([row]), np.array([length]), scores)
        return self._draws[row].stays(length, token, shares_of(processed[0]))

    def _pick(self, everyone: Tensor, indices: Tensor, length: int) -> Tensor:
        picked = []
        for row in indices.tolist():
            draws = self._draws[row]
            draw = draws.draft if self._drafting else draws.final
            picked.append(draw(length, shares_of(everyone[row])))
        return torch.tensor(picked, device=indices.device)


def _by_length(lengths: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The different lengths, and where each is."""
    first = int(lengths[0])
    if (lengths == first).all():
        return [(first, np.arange(len(lengths)))]
    return [(int(length), (lengths == length).nonzero()[0]) for length in np.unique(lengths)]


def chosen_from(scores: Tensor, config: GenerationConfig) -> Tensor:
    """The next tokens [rows] from processed scores [rows, vocabulary]."""
    if config.do_sample:
        return scores.softmax(-1).multinomial(num_samples=1)[:, 0]
    return scores.argmax(-1)


def new_seed() -> int:
    """For the draws of a call: torch's own next random number, so that `torch.manual_seed` decides."""
    return int(torch.randint(2**62, ()))


def padding_of(config: GenerationConfig) -> int:
    """The token that follows the end of a text in its batch."""
    return 0 if config.pad_token_id is None else config.pad_token_id
