"""How a model decodes: an exit policy and the precision that the engine computes in, as one value."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from early_exit.linear import PRECISIONS
from early_exit.policy import ExitPolicy


@dataclass(frozen=True, eq=False)
class DecodingSetting:
    """A policy and a precision of `early_exit.linear.PRECISIONS`. `DecodingSetting()` is the full model in
    float32.

    Two settings are the same where their dictionaries are: a point of a sweep, a column of a loss table and a
    certified setting are known by it. Raises ValueError for an unknown precision.
    """

    policy: ExitPolicy = ExitPolicy()  # noqa: RUF009 # frozen
    precision: str = "float32"

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    def exits(self, num_layers: int) -> bool:
        """Whether any token of a model of so many decoder layers can leave early: a threshold of 1 without
        decay lets none, nor does a minimum layer that is not below full depth."""
        policy = self.policy
        if policy.static_layer is not None and int(torch.as_tensor(policy.static_layer).min()) < num_layers:
            return True
        tried = any(policy.tries_exit(layer, num_layers) for layer in range(1, num_layers))
        lowest = float(torch.as_tensor(policy.threshold).min())
        return tried and (lowest < 1 or (policy.position_temperature or 0) > 0)

    def is_full_model(self, num_layers: int) -> bool:
        """Whether the texts are the full model's by construction: no exits, in float32, and tokens chosen
        from all, not from a shortlist or the K of an earlier layer."""
        from_all = not self.policy.shortlist_at_full_depth and self.policy.top_k is None
        return self.precision == "float32" and from_all and not self.exits(num_layers)

    def is_exact(self, num_layers: int) -> bool:
        """Whether tokens leave early and the texts are nevertheless those of full depth in this precision, by
        construction: exact drafts, with tokens chosen from all."""
        return self.policy.is_exact and self.exits(num_layers)

    def to_dict(self) -> dict[str, Any]:
        """The policy's dictionary with `precision` beside; JSON values."""
        return {**self.policy.to_dict(), "precision": self.precision}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecodingSetting":
        """Of `to_dict`, older ones too. Raises ValueError as `ExitPolicy.from_dict`, and without
        precision."""
        if "precision" not in values:
            raise ValueError(f"a decoding setting without its precision: {values}")
        policy = {name: value for name, value in values.items() if name != "precision"}
        return cls(ExitPolicy.from_dict(policy), values["precision"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecodingSetting) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))
