"""Sources: what prompts are to the encoder, and their states, without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from early_exit.models.generation import without_padding


class Watch:
    """Is told what decoding has just done; a clock overrides what it wants to know. Here nothing happens."""

    def start(self) -> None:
        """What happened since the last call was no decoding."""

    def encoded(self, tokens: int) -> None:
        """A batch of sources, of so many tokens together, padding aside."""

    def chose(self, tokens: int) -> None:
        """So many new tokens."""

    def ended(self, texts: int) -> None:
        """So many texts."""


@dataclass(frozen=True)
class Source:
    """tokens: [length >= 1] int64; mask: [length], 0 where the encoder and the decoder do not look."""

    tokens: Tensor
    mask: Tensor

    @classmethod
    def of(cls, tokens: Tensor, mask: Tensor | None = None) -> "Source":
        """A row [length] of a batch, without the padding at its end.

        Of a row that is all padding one token stays: transformers lets such a row see all of its padding
        alike, whose states are all the same (but for LongT5, where they depend on how much padding there is).
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        if not mask.any():
            tokens = tokens[:1] if len(tokens) else tokens.new_zeros(1)
            return cls(tokens, torch.ones_like(tokens))
        length = int(mask.nonzero()[-1]) + 1
        return cls(tokens[:length], mask[:length])

    def __len__(self) -> int:
        return len(self.tokens)


def by_length(sources: Sequence[Source]) -> list[int]:
    """Numbers of the sources, the longest first: the caches get their size at once, and sources that are
    encoded together differ least."""
    return sorted(range(len(sources)), key=lambda number: -len(sources[number]))


def padded_batch(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [length, …] of different length as one tensor [rows, longest, …], and its mask [rows, longest]."""
    padded = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=padded.device)
    return padded, (torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]).long()


def padded_sources(sources: Sequence[Source], pad: int, device: torch.device) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, [sources, longest] each."""
    tokens = pad_sequence([source.tokens for source in sources], batch_first=True, padding_value=pad)
    mask = pad_sequence([source.mask for source in sources], batch_first=True)
    return {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def encoded(
    encoder: nn.Module, sources: Sequence[Source], at_once: int, device: torch.device, watch: Watch
) -> Iterator[Tensor]:
    """States [tokens that are not masked, d_model] float32 of each source, in order. So many are encoded
    together, when the first of them is asked for."""
    for first in range(0, len(sources), at_once):
        group = sources[first : first + at_once]
        inputs = padded_sources(group, 0, device)
        states = encoder(**inputs).last_hidden_state  # [group, longest, d_model]
        rows = without_padding(states, inputs["attention_mask"])
        watch.encoded(sum(map(len, group)))
        yield from rows


def encode_all(encoder: nn.Module, sources: Sequence[Source], at_once: int, device) -> list[Tensor]:
    """The same, kept, in the order of the sources though encoded by length."""
    order = by_length(sources)
    rows = encoded(encoder, [sources[number] for number in order], at_once, device, Watch())
    states = dict(zip(order, rows, strict=True))
    return [states[number] for number in range(len(sources))]
