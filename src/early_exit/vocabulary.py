"""How decoding reads the LM head: in full, through the tokens that the first exit proposed, or screened.

A reader is asked about the states of one layer at a time (`look`), for confidences; told which rows leave
with these states (`leave`); and gives the scores of all rows at the end of the step. Rows are numbered among
the active ones of the step.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from early_exit.rows import on_device
from early_exit.screen import Screened, ScreenedHead
from early_exit.weights import DecoderWeights

# K rows of the head are gathered for each state where these are no more than this share of its rows; else all
# logits are computed and K taken. See docs/speed.md.
_GATHER_BELOW = 1 / 8
# Of tokens that were not propagated. Finite: a processor that forbids all others leaves these a choice.
NOT_PROPAGATED = torch.finfo(torch.float32).min


class Part(Protocol):
    """What some rows that left in one layer chose from."""

    def tokens(self) -> Tensor:
        """The likeliest tokens [n] int64."""

    def logits(self) -> Tensor:
        """[n, vocabulary] float32."""


class Scores:
    """What the rows of a step choose their next tokens from."""

    def __init__(self, rows: int, parts: list[tuple[np.ndarray, Part]]):
        """parts: with the rows that each is of, in rising order."""
        self._rows, self._parts = rows, parts

    def tokens(self) -> Tensor:
        """The likeliest token of every row, [rows] int64."""
        return self._together([part.tokens() for _, part in self._parts])

    def logits(self) -> Tensor:
        """[rows, vocabulary] float32. Of a screened head they are computed here."""
        return self._together([part.logits() for _, part in self._parts])

    def _together(self, tensors: list[Tensor]) -> Tensor:
        if len(tensors) == 1:
            return tensors[0]
        result = tensors[0].new_empty(self._rows, *tensors[0].shape[1:])
        for (places, _), tensor in zip(self._parts, tensors, strict=True):
            result[on_device(places, tensor.device)] = tensor
        return result


class Look:
    """What the head says of the states [n, d_model] of rows at one layer. `logits` are computed once, if
    asked for: [n, vocabulary], or [n, K] of propagated tokens; float32."""

    def __init__(self, rows: np.ndarray, states: Tensor, compute: Callable[["Look"], Tensor]):
        self.rows, self.states = rows, states
        self.known: Tensor | None = None
        self._compute = compute

    def logits(self) -> Tensor:
        if self.known is None:
            self.known = self._compute(self)
        return self.known


class _Logits:
    """Logits that are known."""

    def __init__(self, logits: Tensor):
        self._logits = logits

    def tokens(self) -> Tensor:
        return self._logits.argmax(-1)

    def logits(self) -> Tensor:
        return self._logits


class FullReader:
    """The whole head, for whoever asks; and once for all rows that left unasked.

    counts, kept: of the readers below; see `early_exit.engine.DecodedBatch`.
    """

    counts: dict[str, int] | None = None
    kept: Callable[[], tuple[int, int]] | None = None

    def __init__(self, weights: DecoderWeights):
        self._weights = weights
        self._parts: list[tuple[np.ndarray, Part]] = []
        self._later: list[tuple[np.ndarray, Tensor]] = []

    def look(self, rows: np.ndarray, states: Tensor) -> Look:
        """rows: [n], in rising order."""
        return Look(rows, states, lambda look: self._weights.logits(look.states))

    def response(self, look: Look, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds [n] of softmax response, where this reader has them cheaper than from logits."""
        return None

    def leave(self, look: Look, leaves: np.ndarray, states: Tensor) -> None:
        """leaves: [n] bool, which rows of a look leave; states: [leaving, d_model], those of its states."""
        if look.known is None:
            self._later.append((look.rows[leaves], states))
        else:
            self._parts.append((look.rows[leaves], _Logits(look.known[_chosen(leaves, states.device)])))

    def scores(self, rows: int) -> Scores:
        """What all rows of the step chose from, each having left; forgets them."""
        if self._later:
            places, states = _in_order(*zip(*self._later, strict=True))
            self._parts.append((places, self._unasked(states)))
        parts, self._parts, self._later = self._parts, [], []
        return Scores(rows, parts)

    def _unasked(self, states: Tensor) -> Part:
        """Of rows that left without a question to the head."""
        return _Logits(self._weights.logits(states))


class _Propagated:
    """Logits of propagated tokens, both [n, K]."""

    def __init__(self, ids: Tensor, logits: Tensor, vocabulary: int):
        self._ids, self._logits, self._vocabulary = ids, logits, vocabulary

    def tokens(self) -> Tensor:
        return self._ids.gather(1, self._logits.argmax(-1, keepdim=True))[:, 0]

    def logits(self) -> Tensor:
        everything = self._logits.new_full((len(self._ids), self._vocabulary), NOT_PROPAGATED)
        return everything.scatter_(1, self._ids, self._logits)


class PropagatedReader(FullReader):
    """The whole head at the first layer that is asked; from there on the K likeliest tokens that it found.

    Deeper layers choose their token, and softmax their confidence, among these (top-k token propagation). It
    remembers the states of all choices, so that `kept` can tell afterwards what that changed.
    """

    def __init__(self, weights: DecoderWeights, top_k: int):
        super().__init__(weights)
        self._top_k = top_k
        self._ids: Tensor | None = None  # [rows of the step, K]
        self._first: Look | None = None  # which found them
        self._gathered: tuple[np.ndarray, Tensor] | None = None  # rows, and their K rows of the head
        self._choices: list[tuple[Tensor, Tensor]] = []

    def look(self, rows: np.ndarray, states: Tensor) -> Look:
        if self._ids is None:
            return Look(rows, states, self._propagate)
        return Look(rows, states, self._among_propagated)

    def leave(self, look: Look, leaves: np.ndarray, states: Tensor) -> None:
        if self._ids is None:  # no exit was tried in this step
            super().leave(look, leaves, states)
            return
        logits = look.logits()[_chosen(leaves, states.device)]  # at full depth nobody has asked yet
        if look is self._first:
            part = _Logits(logits)
        else:
            ids = self._ids[on_device(look.rows[leaves], logits.device)]
            part = _Propagated(ids, logits, self._weights.head.width)
        self._parts.append((look.rows[leaves], part))
        self._choices.append((states, part.tokens()))

    def scores(self, rows: int) -> Scores:
        self._ids = self._first = self._gathered = None
        return super().scores(rows)

    def kept(self) -> tuple[int, int]:
        """Of how many choices the whole head's likeliest token was among the K, and how many choices there
        were. Computes the whole head for all of them."""
        kept = total = 0
        for states, tokens in self._choices:
            kept += int((self._weights.logits(states).argmax(-1) == tokens).sum())
            total += len(tokens)
        return kept, total

    def _propagate(self, look: Look) -> Tensor:
        """The whole head's logits; keeps their K likeliest tokens."""
        logits = self._weights.logits(look.states)
        self._first, self._ids = look, logits.topk(self._top_k, sorted=False).indices
        return logits

    def _among_propagated(self, look: Look) -> Tensor:
        ids = self._ids
        if len(look.rows) < len(ids):
            ids = ids[on_device(look.rows, ids.device)]
        weights = self._weights
        cheap_head = weights.precision == "int8"  # its products cost less than gathering rows
        if cheap_head or ids.numel() > _GATHER_BELOW * weights.head.width:
            return weights.logits(look.states).gather(1, ids)
        inputs = weights.head_inputs(look.states)
        rows = self._head_rows(look.rows, ids)  # [n, K, d_model]
        return torch.bmm(rows, inputs.to(rows.dtype)[:, :, None])[:, :, 0].float()  # [n, K]

    def _head_rows(self, rows: np.ndarray, ids: Tensor) -> Tensor:
        if self._gathered is None:
            gathered = self._weights.vocabulary.index_select(0, ids.flatten())
            self._gathered = (rows, gathered.view(*ids.shape, -1).to(self._weights.dtype))
        held, gathered = self._gathered
        if len(rows) < len(held):  # some of these have left since
            gathered = gathered[on_device(np.searchsorted(held, rows), ids.device)]
            self._gathered = (rows, gathered)
        return gathered


class _ScreenedTokens:
    """Tokens that a screened head found, and the states, for whoever wants logits."""

    def __init__(self, tokens: np.ndarray, inputs: Tensor, head: ScreenedHead):
        self._tokens, self._inputs, self._head = tokens, inputs, head

    def tokens(self) -> Tensor:
        return torch.from_numpy(self._tokens)

    def logits(self) -> Tensor:
        return self._head.full(self._inputs)


class ScreenedReader(FullReader):
    """The float32 head through its int8 copy, `early_exit.screen`: same tokens, same exits."""

    def __init__(self, weights: DecoderWeights, head: ScreenedHead):
        super().__init__(weights)
        self._head = head
        self._answer: tuple[Look, Tensor, Screened] | None = None  # of the last look
        self.counts = {"asked": 0, "candidates": 0, "fell_back": 0}

    def look(self, rows: np.ndarray, states: Tensor) -> Look:
        return Look(rows, states, lambda look: self._head.full(self._weights.head_inputs(look.states)))

    def response(self, look: Look, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = self._weights.head_inputs(look.states)
        answer = self._counted(self._head.response(inputs, limits))
        self._answer = (look, inputs, answer)
        return answer.low, answer.high

    def leave(self, look: Look, leaves: np.ndarray, states: Tensor) -> None:
        if self._answer is None or self._answer[0] is not look:
            super().leave(look, leaves, states)
            return
        _, inputs, answer = self._answer
        part = _ScreenedTokens(answer.tokens[leaves], inputs[_chosen(leaves, inputs.device)], self._head)
        self._parts.append((look.rows[leaves], part))

    def scores(self, rows: int) -> Scores:
        self._answer = None
        return super().scores(rows)

    def _unasked(self, states: Tensor) -> Part:
        inputs = self._weights.head_inputs(states)
        return _ScreenedTokens(self._counted(self._head.tokens(inputs)).tokens, inputs, self._head)

    def _counted(self, answer: Screened) -> Screened:
        self.counts["asked"] += len(answer.tokens)
        self.counts["candidates"] += int(answer.candidates[~answer.fell_back].sum())
        self.counts["fell_back"] += int(answer.fell_back.sum())
        return answer


def _chosen(leaves: np.ndarray, device: torch.device) -> slice | Tensor:
    """Indices of the rows that leave."""
    return slice(None) if leaves.all() else on_device(leaves.nonzero()[0], device)


def _in_order(places: tuple[np.ndarray, ...], parts: tuple[Tensor, ...]) -> tuple[np.ndarray, Tensor]:
    """Parts of rows as one part whose places rise."""
    if len(parts) == 1:
        return places[0], parts[0]
    together = np.concatenate(places)
    order = np.argsort(together)
    return together[order], torch.cat(parts)[on_device(order, parts[0].device)]
