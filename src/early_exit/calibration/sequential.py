"""Calibration that stops when it is sure: wealth that may be looked at after every prompt.

A fixed number of prompts has to be guessed in advance. Here prompts come one by one, and a setting is
accepted as soon as its wealth has reached 1/ε; looking as often as one likes costs nothing (Ville's
inequality).

References: Waudby-Smith & Ramdas 2023 (section 4: betting, anytime-valid); Ramdas et al., Game-theoretic
statistics and safe anytime-valid inference, 2023 (mixtures).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from early_exit.bounds import check_level

_BETS = np.linspace(0.15, 0.99, 6)  # shares of the largest bet that cannot lose more than all


class EProcess:
    """Wealth of a mixture of constant bets against "the mean loss is δ or more", losses in [0, 1] one by one.

    Under that its mean is at most 1 at any stopping time, so that it reaches 1/ε with probability ε at most.
    """

    def __init__(self, delta: float):
        check_level("delta", delta)
        self.delta, self.seen, self.largest = delta, 0, 1.0
        self._logs = np.zeros(len(_BETS))

    def update(self, loss: float) -> float:
        """Takes one loss. Returns the wealth. Raises ValueError outside [0, 1]."""
        if not 0 <= loss <= 1:
            raise ValueError(f"loss {loss} is outside [0, 1]")
        self.seen += 1
        self._logs += np.log1p(-_BETS / (1 - self.delta) * (loss - self.delta))
        wealth = float(np.exp(self._logs).mean())
        self.largest = max(self.largest, wealth)
        return wealth


@dataclass
class SequentialTest:
    """Settings in the order of testing, the safest first; each is tested once the one before is accepted, on
    the same prompts from the first on (a fixed sequence of e-processes, each at ε).

    settings: how many. losses: of each setting, in the order of the prompts, as far as they were asked for.
    Its dictionary holds the losses: `from_dict` goes on where `to_dict` was.
    """

    settings: int
    delta: float
    epsilon: float
    losses: list[list[float]] = field(default_factory=list)

    def __post_init__(self):
        check_level("delta", self.delta)
        check_level("epsilon", self.epsilon)
        given, self.losses = self.losses, []
        self.accepted_after: list[int] = []  # prompts that each accepted setting took
        self._start()
        for column in given:
            for loss in column:
                self.update(loss)

    @property
    def current(self) -> int | None:
        """The setting that is tested now; None once all are accepted."""
        return len(self.accepted_after) if len(self.accepted_after) < self.settings else None

    @property
    def seen(self) -> int:
        """Prompts that the current setting has read."""
        return self._process.seen

    @property
    def p_value(self) -> float:
        """Of the current setting, anytime-valid: 1 over its largest wealth."""
        return 1 / self._process.largest

    def update(self, loss: float) -> bool:
        """The current setting's loss of its next prompt. Returns whether it is accepted by it."""
        self.losses[-1].append(float(loss))
        if self._process.update(loss) < 1 / self.epsilon:
            return False
        self.accepted_after.append(self._process.seen)
        if self.current is not None:
            self._start()
        return True

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        names = ("settings", "delta", "epsilon", "losses")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SequentialTest":
        """Of `to_dict`."""
        return cls(**values)

    def _start(self) -> None:
        self._process = EProcess(self.delta)
        self.losses.append([])


def prompts_until_accepted(losses, delta: float, epsilon: float) -> int | None:
    """How many of the losses [n], in their order, it takes to accept one setting; None where all do not."""
    logs = np.zeros(len(_BETS))
    for count, loss in enumerate(losses, start=1):
        logs += np.log1p(-_BETS / (1 - delta) * (loss - delta))
        if math.log(np.exp(logs).mean()) >= -math.log(epsilon):
            return count
    return None
