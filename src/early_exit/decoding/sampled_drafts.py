"""Sampling with drafts: which token a place of a text gets, where tokens are drawn and drafts are checked.

The rule is that of speculative sampling (Leviathan et al. 2023, section 2.3): a draft x, drawn from the
exit's distribution q, is kept with probability min(1, p(x) / q(x)), p being full depth's; in the place of one
that is not, a token is drawn from max(0, p − q), normalised. The token is then distributed as p. With a
lenience l (appendix A.5 there) q is replaced by l·q in both: 1 is the exact rule, 0 keeps every draft, and
between them no token is likelier than p(x) / l.

Random numbers belong to a place of a text, not to a moment: what is drawn does not depend on what else is
decoded, nor on when drafts are checked. A place may be drawn anew after an earlier draft was dropped; it then
meets the same numbers, of which nothing that stayed depends on any.
"""

import math

import numpy as np
import torch
from torch import Tensor

_TOKEN, _KEEP, _REPLACE = range(3)  # what a random number is for


class SampledDrafts:
    """The draws of one text. Tokens are drawn from shares [vocabulary], which sum to 1, at a length: the
    number of tokens before, prefix included.

    seed: 0 to 2^64 − 1, the same for all texts of a call; text: its number there. lenience: in [0, 1].
    """

    def __init__(self, seed: int, text: int, lenience: float = 1.0):
        self._seed, self._text, self._lenience = seed, text, lenience
        self._drafted: dict[int, Tensor] = {}  # by length, what unchecked drafts were drawn from
        self._dropped: tuple[int, Tensor] | None = None  # where a draft was just dropped, and its q

    def draft(self, length: int, shares: Tensor) -> int:
        """A token by an exit's shares, which are kept for the check."""
        if self._lenience > 0:
            self._drafted[length] = shares
        return self._draw(length, _TOKEN, shares)

    def stays(self, length: int, token: int, shares: Tensor) -> bool:
        """Whether the draft at a length stays, by full depth's shares. Drafts are checked in their order;
        after one that does not stay, `final` gives the token in its place."""
        if self._lenience == 0:
            return True
        own = self._drafted.pop(length)
        # u < p / (l·q) without a division; q > 0, for the token was drawn.
        if self._uniform(length, _KEEP) * self._lenience * own[token] < shares[token]:
            return True
        self._dropped = (length, own)
        self._drafted.clear()
        return False

    def final(self, length: int, shares: Tensor) -> int:
        """A token by full depth's shares: what these say beyond the dropped draft's, if there was one."""
        if self._dropped is None or self._dropped[0] != length:
            return self._draw(length, _TOKEN, shares)
        _, own = self._dropped
        self._dropped = None
        beyond = (shares - self._lenience * own).clamp_min(0)
        if beyond.sum() <= 0:  # q is p but for rounding
            return self._draw(length, _REPLACE, shares)
        return self._draw(length, _REPLACE, beyond / beyond.sum())

    def _draw(self, length: int, purpose: int, shares: Tensor) -> int:
        """Inverts the distribution function."""
        cumulative = shares.double().cumsum(-1)
        total = float(cumulative[-1])
        if not total > 0:  # NaN too
            raise ValueError(f"no token can be drawn at length {length}: the probabilities sum to {total}")
        point = min(self._uniform(length, purpose) * total, math.nextafter(total, 0))
        return int(torch.searchsorted(cumulative, cumulative.new_tensor(point), right=True))

    def _uniform(self, length: int, purpose: int) -> float:
        """In [0, 1), the same whenever it is asked for."""
        counter = [0, purpose, length, self._text]
        return float(np.random.Generator(np.random.Philox(key=self._seed, counter=counter)).random())


def shares_of(scores: Tensor) -> Tensor:
    """Processed logits [..., vocabulary] → probabilities, float64: quotients of small ones are looked at."""
    return scores.double().softmax(-1)
