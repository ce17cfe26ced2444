"""How long decoding takes: milliseconds a token, with their spread.

The unit is a slice: one of 50 shares of a process's new tokens, equal but for the size of what they consist
of, which are whole steps of the engine, or whole batches of `generate`. Sources are encoded in bursts, which
are timed by themselves: each slice bears the median time of a source's token times the source tokens that
there are for each new one. Quantiles count a slice as often as it has tokens: half of the new tokens took the
median or less. So neither a last small batch nor a neighbour that steals a moment moves it; the spread shows
such neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from early_exit.models.sources import Watch

_SLICES = 50


@dataclass(frozen=True)
class Slices:
    """Of one process. seconds, tokens: [slices]; new tokens. Both are empty where there was nothing to
    decode."""

    seconds: np.ndarray
    tokens: np.ndarray


class Stopwatch(Watch):
    """Times what it is told of.

    clock: gives seconds. progress: called with the number of texts that have ended.
    """

    def __init__(self, clock: Callable[[], float], progress: Callable[[int], object] = lambda texts: None):
        self._clock, self._progress = clock, progress
        self._last = clock()
        self._steps: list[tuple[float, int]] = []
        self._encodings: list[tuple[float, int]] = []

    def start(self) -> None:
        self._last = self._clock()

    def encoded(self, tokens: int) -> None:
        self._encodings.append((self._lap(), tokens))

    def chose(self, tokens: int) -> None:
        seconds = self._lap()
        if not tokens and self._steps:  # what follows a step, such as learning from its texts, is part of it
            before, tokens = self._steps.pop()
            seconds += before
        self._steps.append((seconds, tokens))

    def ended(self, texts: int) -> None:
        self._progress(texts)

    def slices(self) -> Slices:
        """Of all that was timed."""
        seconds, tokens = _columns(self._steps)
        if not tokens.sum():
            return Slices(np.zeros(0), np.zeros(0))
        share = ((np.cumsum(tokens) - tokens) * _SLICES // tokens.sum()).astype(int)
        seconds = np.bincount(share, weights=seconds, minlength=_SLICES)
        tokens = np.bincount(share, weights=tokens, minlength=_SLICES)
        seconds, tokens = seconds[tokens > 0], tokens[tokens > 0]
        if self._encodings:
            spent, sources = _columns(self._encodings)
            per_source_token = _quantiles(spent / sources, sources, [0.5])[0]
            seconds = seconds + per_source_token * sources.sum() / tokens.sum() * tokens
        return Slices(seconds, tokens)

    def _lap(self) -> float:
        before, self._last = self._last, self._clock()
        return self._last - before


def speed(processes: Sequence[Slices]) -> dict[str, float]:
    """ms_per_token: the median of a process, with the 10th and 90th percentile as ms_per_token_p10 and
    ms_per_token_p90; tokens_per_second: of all processes together, by the median. Empty without tokens."""
    busy = [slices for slices in processes if len(slices.tokens)]
    if not busy:
        return {}
    tokens = np.concatenate([slices.tokens for slices in busy])
    milliseconds = 1000 * np.concatenate([slices.seconds for slices in busy]) / tokens
    low, median, high = _quantiles(milliseconds, tokens, [0.1, 0.5, 0.9]).tolist()
    return {
        "tokens_per_second": 1000 * len(busy) / max(median, np.finfo(float).tiny),
        "ms_per_token": median,
        "ms_per_token_p10": low,
        "ms_per_token_p90": high,
    }


def _quantiles(values: np.ndarray, weights: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The lowest of the values that so large shares of the weight are at or below, [shares]."""
    return np.quantile(values, shares, weights=weights, method="inverted_cdf")


def _columns(pairs: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array(pairs, dtype=float).reshape(-1, 2).T)
