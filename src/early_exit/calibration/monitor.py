"""Does a deployed setting still keep its promise? Wealth over audited losses that grows when it does not.

An audit decodes a prompt at full depth too and compares. The null hypothesis is that every audited loss has a
mean of at most δ given those before it; no draw from one distribution is assumed. An alarm when the wealth
reaches 1/ε is false with probability ε at most, over all time and however often one looks.

Prompts may have changed late, after much wealth was lost on good ones. So the wealth is a mixture over
starts: of a bettor who starts at the j-th block of audits with weight 1 / (j(j + 1)), which sum to 1.

References: Shin et al., E-detectors, 2023 (mixtures over change points); Podkopaev & Ramdas, Tracking the
risk of a deployed model, 2022.
"""

import datetime
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from early_exit.bounds import check_level

_BETS = np.geomspace(0.01, 0.9, 20)  # shares of 1/δ, the largest bet that cannot lose more than all
_BLOCK = 25  # audits between starts


@dataclass
class Monitor:
    """State of a monitor, plain values.

    delta, epsilon: in (0, 1), of the promise and of false alarms; running: [bets], wealth of the bettors that
    have started; audits: how many; total: the sum of their losses; largest: wealth so far; alarmed_at: the
    audit that reached 1/ε; days: for each day its date, audits, mean loss and wealth at its end.
    """

    delta: float
    epsilon: float = 0.05
    running: list[float] = field(default_factory=lambda: [0.0] * len(_BETS))
    audits: int = 0
    total: float = 0.0
    largest: float = 1.0
    alarmed_at: int | None = None
    days: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        check_level("delta", self.delta)
        check_level("epsilon", self.epsilon)

    @property
    def alarmed(self) -> bool:
        """Whether the promise is broken, at confidence 1 − ε."""
        return self.alarmed_at is not None

    @property
    def wealth(self) -> float:
        """Of all bettors, those too that have not started."""
        return float(np.mean(self.running)) + 1 / (self._blocks + 1)

    def observe(self, loss: float, day: str | None = None) -> bool:
        """The loss in [0, 1] of an audited prompt. day: its date; today's if None. Returns whether the alarm
        is on. Raises ValueError for a loss outside [0, 1]."""
        if not 0 <= loss <= 1:
            raise ValueError(f"loss {loss} is outside [0, 1]")
        running = np.array(self.running)
        if self.audits % _BLOCK == 0:  # a bettor of the next block starts
            block = self._blocks + 1
            running += 1 / (block * (block + 1))
        self.running = (running * (1 + _BETS / self.delta * (loss - self.delta))).tolist()
        self.audits, self.total = self.audits + 1, self.total + float(loss)
        self.largest = max(self.largest, self.wealth)
        if not self.alarmed and self.wealth >= 1 / self.epsilon:
            self.alarmed_at = self.audits
        self._note(loss, day or datetime.date.today().isoformat())
        return self.alarmed

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Monitor":
        """Of `to_dict`. Raises ValueError for other values."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"no state of a monitor: {error}") from error

    def __str__(self) -> str:
        """One line: what the last day says."""
        if not self.days:
            return f"δ = {self.delta:g}: no audits yet"
        day = self.days[-1]
        state = f"ALARM since audit {self.alarmed_at}" if self.alarmed else "no alarm"
        return (
            f"{day['date']}: {day['audits']} audits, mean loss {day['mean_loss']:.3f}; {self.audits} "
            f"in all, mean "
            f"{self.total / self.audits:.3f}, δ = {self.delta:g}, wealth {self.wealth:.3g} of "
            f"{1 / self.epsilon:g}: {state}"
        )

    @property
    def _blocks(self) -> int:
        """Blocks that have begun."""
        return -(-self.audits // _BLOCK)

    def _note(self, loss: float, day: str) -> None:
        if not self.days or self.days[-1]["date"] != day:
            self.days.append({"date": day, "audits": 0, "mean_loss": 0.0, "wealth": 0.0})
        last = self.days[-1]
        last["audits"] += 1
        last["mean_loss"] += (float(loss) - last["mean_loss"]) / last["audits"]
        last["wealth"] = self.wealth


def alarms(losses: np.ndarray, delta: float, epsilon: float) -> np.ndarray:
    """The audit, from 1, at which a monitor of each row of losses [draws, audits] gives alarm; 0 for none."""
    draws, audits = losses.shape
    running, found = np.zeros((draws, len(_BETS))), np.zeros(draws, dtype=int)
    for audit in range(audits):
        blocks = audit // _BLOCK + 1
        if audit % _BLOCK == 0:
            running += 1 / (blocks * (blocks + 1))
        running *= 1 + _BETS / delta * (losses[:, audit, None] - delta)
        reached = running.mean(axis=1) + 1 / (blocks + 1) >= 1 / epsilon
        found[(found == 0) & reached] = audit + 1
    return found
