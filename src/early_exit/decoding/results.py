"""What decoding gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class DecodedRow:
    """One decoded text.

    prompt: its number, in the order the prompts came. exit_layers, confidences: of each new token; the
    confidence is that at the exit, NaN where none was asked. max_stay_confidence: the highest confidence that
    did not exit; min_exit_confidence: the lowest that did (−inf and inf where there is none), each divided by
    the threshold's decay at its position, so that they compare with λ: the text is the same at every λ' with
    max_stay_confidence <= λ' < min_exit_confidence. With a screened LM head, confidences and
    min_exit_confidence are lower bounds and max_stay_confidence is an upper one.
    """

    prompt: int
    tokens: list[int] = field(default_factory=list)
    exit_layers: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    max_stay_confidence: float = -float("inf")
    min_exit_confidence: float = float("inf")
    drafting: "Drafting | None" = None

    @property
    def layers_run(self) -> int:
        """Layers over all tokens, dropped ones included."""
        return sum(self.exit_layers) if self.drafting is None else self.drafting.layers

    @property
    def layers_read(self) -> int:
        """The same, but of tokens that ran together once; see `Drafting`."""
        return sum(self.exit_layers) if self.drafting is None else self.drafting.reads


@dataclass
class Drafting:
    """What drafts of a text have cost and brought, see `early_exit.decoding.drafts`.

    layers: that were run, over all tokens, those that were dropped and prefixes left out included; blocks:
    runs through the deepest layer; drafted, accepted: tokens. reads: layers that the row has read, once for
    all of its tokens that ran together: what its time goes with where it is decoded alone. dropped: drafts
    that did not stay, as (place in the text from 0, token), in the order in which they were dropped.
    """

    layers: int = 0
    reads: int = 0
    blocks: int = 0
    drafted: int = 0
    accepted: int = 0
    dropped: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class DecodedBatch:
    """Rows of a batch, padded to the longest; fields as in `DecodedRow`.

    tokens: [rows, steps] int64, 0 after a row's end; exit_layers: the same. confidences: [rows, steps]
    float32, NaN there.
    max_stay_confidence, min_exit_confidence: [rows] float32. drafting: of each row, None without drafts.
    screen: with a screened LM head, how often it was "asked", how many "candidates" it computed exactly where
    it knew the answer, and how often it "fell_back" on the whole head. kept: with top-k propagation, a call
    that gives of how many tokens the whole head's choice was among the K, and of how many in all; it computes
    the whole head for every token.
    """

    tokens: Tensor
    exit_layers: Tensor
    confidences: Tensor
    max_stay_confidence: Tensor
    min_exit_confidence: Tensor
    drafting: list[Drafting] | None = None
    screen: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None

    @classmethod
    def of(cls, rows: Sequence[DecodedRow], device: torch.device, **counts) -> "DecodedBatch":
        """The rows in the order of their prompts. counts: `screen` and `kept`."""
        rows = sorted(rows, key=lambda row: row.prompt)
        tokens = [torch.tensor(row.tokens, dtype=torch.int64) for row in rows]
        layers = [torch.tensor(row.exit_layers, dtype=torch.int64) for row in rows]
        confidences = [torch.tensor(row.confidences, dtype=torch.float32) for row in rows]
        return cls(
            pad_sequence(tokens, batch_first=True).to(device),
            pad_sequence(layers, batch_first=True).to(device),
            pad_sequence(confidences, batch_first=True, padding_value=float("nan")).to(device),
            torch.tensor([row.max_stay_confidence for row in rows]).to(device),
            torch.tensor([row.min_exit_confidence for row in rows]).to(device),
            None if rows[0].drafting is None else [row.drafting for row in rows if row.drafting],
            **counts,
        )


@dataclass(frozen=True)
class DecodedStream(Iterator[DecodedRow]):
    """Rows in the order in which they end. tokens: a call that gives how many new tokens there are so far, of
    rows under way too. screen, kept: as in `DecodedBatch`, of the tokens so far."""

    rows: Iterator[DecodedRow]
    tokens: Callable[[], int]
    screen: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None

    def __next__(self) -> DecodedRow:
        return next(self.rows)
