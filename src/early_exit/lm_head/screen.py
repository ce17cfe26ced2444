"""The LM head read through a coarse copy: the tokens and exits of the full float32 head for a fraction of it.

Softmax response asks for the two likeliest tokens and the normaliser of V logits. Here all logits are
computed with the head rounded to int8, the few that are large are computed again exactly, and what the
others can amount to is bounded. Where the bounds settle the question, that is the full head's answer;
otherwise the full head is computed for that row.

The bounds. Let w and ŵ be a token's row of the head, exact and rounded, x and x̂ the state. A logit is off by
at most e = ‖w − ŵ‖·‖x‖ + ‖ŵ‖·‖x − x̂‖ (Cauchy–Schwarz). The probability mass M = Σ p of the tokens that are
not computed again, in units of the likeliest, is off by Σ p·(exp(ε) − 1) with |ε| <= e. Its first-order part
Σ p·ε is at most Σ p·e; but also, since ε = (W − Ŵ)x but for the state's rounding, at most ‖p‖·‖W − Ŵ‖·‖x‖
with the spectral norm, which is far less where the mass is spread over many tokens. The rest is never
negative, and at most Σ p·(exp(e) − 1 − e).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import softmax_response
from early_exit.kernels.native.matrix import NativeMatrix, rounded_to_int8

# Logits within so much of the largest are computed again, or within half, a quarter … of it where these are
# more than _MOST_CANDIDATES.
_MARGIN, _SMALLEST_MARGIN, _MOST_CANDIDATES = 5.0, 0.3, 64
_LARGEST_ERROR = 20.0  # of a logit, beyond which bounds are not worth computing
_FLOAT32 = 1e-6  # relative error that float32 arithmetic is granted, wherever it was used


@dataclass(frozen=True)
class Screened:
    """What is known of rows, in their order.

    tokens: [rows] int64, the likeliest. low, high: [rows] float32, softmax response is between them; both NaN
    where only tokens were asked for. candidates: [rows] int64, how many logits were computed exactly.
    fell_back: [rows] bool, where the full head was computed.
    """

    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray
    candidates: np.ndarray
    fell_back: np.ndarray


class Screen:
    """An LM head [vocabulary, d_model] in float32, with its int8 copy, for the compiled kernels."""

    def __init__(self, weight: Tensor):
        self._weight = weight.detach().float().contiguous()
        self._coarse = NativeMatrix(self._weight, "int8")
        rounded = rounded_to_int8(self._weight)
        error = self._weight - rounded
        # A hair more, for what these norms are themselves rounded by.
        self._row_errors = ((1 + _FLOAT32) * torch.linalg.vector_norm(error, dim=1)).numpy()  # [vocabulary]
        self._largest_row_error = float(self._row_errors.max())
        self._largest_row = torch.linalg.vector_norm(rounded, dim=1).amax().item()
        self._error_norm = _spectral_norm(error)

    @cached_property
    def full(self) -> NativeMatrix:
        """The whole head in float32, [rows, d_model] → [rows, vocabulary]; packed when it is first used."""
        return NativeMatrix(self._weight, "float32")

    def tokens(self, states: Tensor) -> Screened:
        """The likeliest token of each state [rows, d_model]."""
        return self._read(states, limits=None)

    def response(self, states: Tensor, limits: np.ndarray) -> Screened:
        """The likeliest tokens, and softmax response as closely as it takes to compare it with a limit.

        states: [rows, d_model]; limits: [rows]. In every row either low > limit or high <= limit.
        """
        return self._read(states, limits)

    def _read(self, states: Tensor, limits: np.ndarray | None) -> Screened:
        rows = len(states)
        result = Screened(
            np.zeros(rows, dtype=np.int64),
            np.full(rows, np.nan, dtype=np.float32),
            np.full(rows, np.nan, dtype=np.float32),
            np.zeros(rows, dtype=np.int64),
            np.zeros(rows, dtype=bool),
        )
        states = states.float()
        open_rows = np.arange(rows)
        for sharp in (False, True):
            open_rows = self._screen(states, open_rows, limits, sharp, result)
            if not len(open_rows):
                return result
        logits = self.full(states[torch.from_numpy(open_rows)])
        result.tokens[open_rows] = logits.argmax(-1).numpy()
        if limits is not None:
            result.low[open_rows] = result.high[open_rows] = softmax_response(logits).numpy()
        result.candidates[open_rows] = logits.shape[1]
        result.fell_back[open_rows] = True
        return result

    def _screen(self, states: Tensor, rows: np.ndarray, limits, sharp: bool, result: Screened) -> np.ndarray:
        """Tries to settle some rows. Returns those left open."""
        some = states if len(rows) == len(states) else states[torch.from_numpy(rows)]
        coarse, errors = self._coarse.with_errors(some)
        logits, roundings = coarse.numpy(), errors.tolist()
        norms = np.sqrt(np.square(some.numpy()).sum(axis=1)).tolist()
        left = []
        for index, row in enumerate(rows.tolist()):
            limit = None if limits is None else float(limits[row])
            known = self._settle(logits[index], some[index], norms[index], roundings[index], limit, sharp)
            if known is None:
                left.append(row)
            else:
                result.tokens[row], result.low[row], result.high[row], result.candidates[row] = known
        return np.array(left, dtype=np.int64)

    def _settle(
        self,
        logits: np.ndarray,
        state: Tensor,
        norm: float,
        rounding: float,
        limit: float | None,
        sharp: bool,
    ) -> tuple[int, float, float, int] | None:
        """Token, bounds of its softmax response (NaN without a limit) and the candidates' number of one row;
        None where they stay open. Overwrites the logits [vocabulary].

        sharp: with the error of each row of the head instead of the largest; takes twice as long.
        """
        candidates = _near_largest(logits)
        if candidates is None:
            return None
        exact = (self._weight.index_select(0, torch.from_numpy(candidates)) @ state).numpy()
        best = int(exact.argmax())
        first = float(exact[best])
        others = self._others(logits, candidates, norm, rounding, sharp)
        if not first > others.largest:  # nor NaN
            return None
        token, number = int(candidates[best]), len(candidates)
        if limit is None:
            return token, math.nan, math.nan, number
        exact[best] = -np.inf
        bounds = _response_bounds(first, exact, others, limit)
        return None if bounds is None else (token, *bounds, number)

    def _others(
        self, logits: np.ndarray, candidates: np.ndarray, norm: float, rounding: float, sharp: bool
    ) -> "_Others":
        """The tokens of a row that are no candidates; arguments as of `_settle`."""
        logits[candidates] = -np.inf
        everywhere = self._largest_row * (rounding + _FLOAT32 * norm) + _FLOAT32**2  # never 0
        errors = None
        if sharp:
            errors = self._row_errors * norm + everywhere
            errors[candidates] = everywhere
            largest_error, largest = float(errors.max()), float((logits + errors).max())
        else:
            largest_error = self._largest_row_error * norm + everywhere
            largest = float(logits.max()) + largest_error
        return _Others(logits, largest, errors, largest_error, everywhere, norm, self._error_norm)


@dataclass(frozen=True)
class _Others:
    """The tokens of one row whose logits are not computed again.

    logits: [vocabulary], coarse, −inf for the candidates. largest: what none of them exceeds in truth.
    errors: [vocabulary], what each may be off by, at most `largest_error`; None where that is said of all.
    everywhere: the part of it that is the same for all. norm: ‖x‖; error_norm: ‖W − Ŵ‖.
    """

    logits: np.ndarray
    largest: float
    errors: np.ndarray | None
    largest_error: float
    everywhere: float
    norm: float
    error_norm: float

    def mass(self, first: float) -> tuple[float, float, float]:
        """Σ exp(logits − first), and how much less and more that may be in truth. Overwrites the logits."""
        shares = np.exp(np.subtract(self.logits, first, out=self.logits), out=self.logits)
        mass = float(shares.sum())
        tensor, largest = torch.from_numpy(shares), self.largest_error
        if self.errors is None:
            by_rows = largest * mass
        else:
            by_rows = torch.dot(tensor, torch.from_numpy(self.errors)).item()
        length = torch.linalg.vector_norm(tensor).item()
        first_order = min(by_rows, length * self.error_norm * self.norm + mass * self.everywhere)
        return mass, first_order, first_order + by_rows * (math.expm1(largest) - largest) / largest


def _response_bounds(
    first: float, exact: np.ndarray, others: _Others, limit: float
) -> tuple[float, float] | None:
    """Between what softmax response is, in float32, both above the limit or neither; None where that stays
    open. first: the largest logit; exact: the candidates', −inf in the place of the first."""
    if others.largest_error > _LARGEST_ERROR:
        return None
    second = float(exact.max())
    least_second = max(second, others.largest - 2 * others.largest_error)
    known = 1 + float(np.exp(exact - first).sum())  # the candidates' share, in units of the first's
    gap = 1 - math.exp(least_second - first)
    high = _float32(min(1.0, gap / known + 10 * _FLOAT32))
    if high <= limit:  # whatever the others amount to
        return 0.0, high
    mass, fewer, more = others.mass(first)
    high = _float32(min(1.0, gap / (known + max(0.0, mass - fewer)) + 10 * _FLOAT32))
    low = (1 - math.exp(max(second, others.largest) - first)) / (known + mass + more) - 10 * _FLOAT32
    low = _float32(max(0.0, low))
    return None if low <= limit < high else (low, high)


def _float32(value: float) -> float:
    """As it will be stored, and compared with the limit again."""
    return float(np.float32(value))


def _near_largest(logits: np.ndarray) -> np.ndarray | None:
    """Where the largest logits [vocabulary] are, in rising order; None where too many are too close."""
    largest, margin = logits.max(), _MARGIN
    while margin >= _SMALLEST_MARGIN:
        near = logits > largest - margin
        if np.count_nonzero(near) <= _MOST_CANDIDATES:
            return np.flatnonzero(near) if near.any() else None
        margin /= 2
    return None


def _spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of [rows, columns], not less: from the eigenvalues of a Gram matrix."""
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for chunk in matrix.split(4096):
        gram.addmm_(chunk.double().T, chunk.double())
    return (1 + _FLOAT32) * math.sqrt(max(0.0, torch.linalg.eigvalsh(gram)[-1].item()))
