"""When a token leaves: measure, threshold, minimum layer and positional decay, or layers fixed beforehand.

References: CALM, Schuster et al. 2022, section 3.2 and equation 5 (decaying threshold). Top-k token
propagation comes from a research fork of FREE.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import get_measure
from early_exit.values import from_plain, to_plain

VERIFICATIONS = ("parallel", "rollback", "exact", "lenient")
_VERSION = 1  # of the fields below: raise it where a default would not do for a file without a new one


@dataclass(frozen=True)
class ExitPolicy:
    """Decides at which decoder layer (1 to L) a token leaves. `ExitPolicy()` is full depth.

    measure: name of a confidence measure, or None for no early exit.
    threshold: λ in [0, 1], a float, or a float tensor [rows] with one a row. A token leaves at the
        first layer whose confidence is strictly greater.
    min_layer: no exit is tried before so many layers have run; 0 and 1 both allow one after the
        first.
    max_layer: nor after more layers than that, None for no such limit.
    position_temperature: τ >= 0 of the positional decay, None for a constant threshold.
    top_k: deeper layers than the first that tries an exit see only the K likeliest tokens of that one, in
        softmax response and in the choice of the token (top-k token propagation); 1 <= K <= vocabulary,
        with the measure softmax. Confidence is then a share among these K, so that a threshold for one
        K is none for another.
    shortlist: exits below full depth see, and choose from, the N likeliest tokens of the model's ranking by
        frequency (`models.token_ranking`), 1 <= N <= vocabulary; at full depth a token is chosen from all. It
        excludes top_k and screen. Confidence is then a share among these N.
    shortlist_at_full_depth: full depth chooses from them too: no other token is ever written, and drafts are
        verified by what full depth says of these.
    screen: read the LM head through its int8 copy (`early_exit.kernels.native.screen`): the tokens and exits
        of the whole float32 head for less. Confidences are then lower bounds.
    static_layer: every token leaves at this layer, at the latest where there is a measure (which goes with no
        `verify` then). Or, without a measure, an int64 tensor, a layer for every new token, [steps] or
        [rows, steps], whose last column holds for all later tokens: layers that sink with the position
        (SkipDecode, Del Corro et al. 2023), or exits replayed.

    verify: what becomes of tokens that left early (`VERIFICATIONS`). None: they are final, and give deeper
        layers the states that they left with (CALM). Else they are drafts, whose deeper layers are run
        together later, at most `max_draft` of a row at a time (`early_exit.decoding.drafts`): "parallel",
        they are final (FREE); "rollback", the first whose full-depth probability is below
        `rollback_threshold`, in [0, 1], is replaced and what came after it dropped (FREE); "exact", the
        same with the first that is not full depth's choice, so that the text is full depth's (of this
        shortlist, where that holds at full depth); "lenient", the
        same with the first whose full-depth probability is below `accept_ratio`, in [0, 1], times the
        largest: 1 accepts ties beside what "exact" does, 0 everything.

    Raises ValueError for values outside these ranges.
    """

    measure: str | None = None
    threshold: float | Tensor = 1.0
    min_layer: int = 0
    position_temperature: float | None = None
    static_layer: int | Tensor | None = None
    top_k: int | None = None
    screen: bool = False
    verify: str | None = None
    max_draft: int = 6
    accept_ratio: float = 0.9
    rollback_threshold: float = 0.1
    max_layer: int | None = None
    shortlist: int | None = None
    shortlist_at_full_depth: bool = False

    def __post_init__(self):
        if self.measure is not None:
            get_measure(self.measure)
        if self.static_layer is not None:
            self._check_static()
        thresholds = torch.as_tensor(self.threshold)
        outside = thresholds[~((thresholds >= 0) & (thresholds <= 1))]  # NaN is outside too
        if outside.numel():
            raise ValueError(f"confidence threshold {outside.flatten()[0]:g} is outside [0, 1]")
        if self.min_layer < 0:
            raise ValueError(f"minimum exit layer {self.min_layer} is negative")
        if self.max_layer is not None and self.max_layer < max(self.min_layer, 1):
            raise ValueError(
                f"maximum exit layer {self.max_layer}; allowed: {max(self.min_layer, 1)} and above"
            )
        temperature = self.position_temperature
        if temperature is not None and not (0 <= temperature < math.inf):
            raise ValueError(f"position temperature {temperature} is not a finite number >= 0")
        if self.top_k is not None:
            self._check_top_k()
        if self.shortlist is not None:
            self._check_shortlist()
        elif self.shortlist_at_full_depth:
            raise ValueError("full depth is to choose from a shortlist, and none is given")
        self._check_verification()

    def _check_shortlist(self) -> None:
        if self.shortlist < 1:
            raise ValueError(f"a shortlist of {self.shortlist} tokens; allowed: 1 and above")
        if self.top_k is not None or self.screen:
            other = "a screened LM head" if self.screen else "top-k propagation"
            raise ValueError(f"a shortlist of tokens and {other} exclude each other")

    def _check_top_k(self) -> None:
        if self.measure != "softmax":
            raise ValueError(f"top-k propagation goes with the measure softmax, not with {self.measure!r}")
        if self.screen:
            raise ValueError("top-k propagation and a screened LM head exclude each other")
        if self.top_k < 1:
            raise ValueError(f"{self.top_k} propagated tokens; allowed: 1 and above")

    def _check_verification(self) -> None:
        if self.verify not in (None, *VERIFICATIONS):
            raise ValueError(f"unknown verification {self.verify!r}; known: {', '.join(VERIFICATIONS)}")
        if self.max_draft < 1:
            raise ValueError(f"{self.max_draft} drafts in a block; allowed: 1 and above")
        for name in ("accept_ratio", "rollback_threshold"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} is outside [0, 1]")
        if self.verify is None:
            return
        if self.measure is None and self.static_layer is None:
            raise ValueError("drafts need a confidence measure or a static layer to leave at")
        if self.top_k is not None:
            raise ValueError("top-k propagation and drafts exclude each other")
        if self.measure is not None and get_measure(self.measure).needs_full_depth:
            raise ValueError(
                f"drafts by the measure {self.measure!r} would need full depth before they leave"
            )

    @property
    def is_exact(self) -> bool:
        """Whether drafts are checked so that the text is full depth's, with tokens chosen from all."""
        return self.verify == "exact" and not self.shortlist_at_full_depth

    def to_dict(self) -> dict[str, Any]:
        """Every field and `version`, as JSON values; tensors become lists. Equal policies give equal ones."""
        return to_plain(self, _VERSION)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ExitPolicy":
        """The policy of a dictionary of `to_dict`, of this version or an older one; see
        `early_exit.values.from_plain`, also for what raises ValueError."""
        return from_plain(cls, values, _VERSION)

    def check_vocabulary(self, size: int) -> None:
        """Raises ValueError where more tokens are to be propagated or listed than there are."""
        if self.top_k is not None and self.top_k > size:
            raise ValueError(f"{self.top_k} propagated tokens, of a vocabulary of {size}")
        if self.shortlist is not None and self.shortlist > size:
            raise ValueError(f"a shortlist of {self.shortlist} tokens, of a vocabulary of {size}")

    def _check_static(self) -> None:
        layers = torch.as_tensor(self.static_layer)
        if layers.ndim > 2 or layers.numel() == 0 or layers.is_floating_point():
            raise ValueError(
                f"static exit layers {layers.dtype} of shape {tuple(layers.shape)}; "
                "an integer, or integers [steps] or [rows, steps]"
            )
        if layers.min() < 1:
            raise ValueError(f"static exit layer {layers.min()}; layers count from 1")
        if self.measure is None:
            return
        if layers.ndim:
            raise ValueError("a layer for every new token and a confidence measure exclude each other")
        if self.verify is not None:
            raise ValueError("drafts leave by confidence or at a static layer, not by both")
        if get_measure(self.measure).needs_full_depth:
            raise ValueError(f"the measure {self.measure!r} needs full depth, and goes with no static layer")

    def last_layer(self, num_layers: int) -> int:
        """The deepest layer that any token runs. Raises ValueError for a static layer beyond L."""
        if self.static_layer is None:
            return num_layers
        deepest = int(torch.as_tensor(self.static_layer).max())
        if deepest > num_layers:
            raise ValueError(
                f"static exit layer {deepest} is outside 1 to {num_layers}, the model's decoder layers"
            )
        return deepest if self.verify is None else num_layers

    def planned_layers(self, steps: np.ndarray, rows: np.ndarray, last_layer: int) -> np.ndarray:
        """The layers [n] int64 that tokens leave at unless by confidence before: the step of each [n] (from
        0), and its row."""
        if self.static_layer is None:
            return np.full(len(steps), last_layer)
        layers = np.asarray(
            self.static_layer.cpu() if isinstance(self.static_layer, Tensor) else self.static_layer
        )
        if layers.ndim == 0:
            return np.full(len(steps), int(layers))
        steps = np.minimum(steps, layers.shape[-1] - 1)
        return layers[steps] if layers.ndim == 1 else layers[rows, steps]

    def thresholds_of(self, rows: np.ndarray) -> np.ndarray:
        """λ of each of some rows, [n] float64."""
        if not isinstance(self.threshold, Tensor):
            return np.full(len(rows), self.threshold)
        thresholds = self.threshold.detach().cpu().double().numpy()
        return thresholds[rows] if thresholds.ndim else np.full(len(rows), float(thresholds))

    def tries_exit(self, layer: int, num_layers: int) -> bool:
        """Whether a token's confidence is asked after `layer`. Never at the last one that is run: there is
        nothing to skip."""
        if self.measure is None:
            return False
        last = num_layers if self.static_layer is None else min(int(self.static_layer), num_layers)
        deepest = last - 1 if self.max_layer is None else min(self.max_layer, last - 1)
        return max(self.min_layer, 1) <= layer <= deepest

    def decay(self, step: int | np.ndarray, max_new_tokens: int) -> float | np.ndarray:
        """0.9 + 0.1·exp(−τ·t/T), in (0.9, 1], for the t-th new token (from 0) of at most T; 1 without τ.

        CALM's equation 5 with the decaying part scaled by λ too, as FREE has it: without that, a
        threshold of 0 would not stand for "leave at once".
        """
        if self.position_temperature is None:
            return 1.0
        return 0.9 + 0.1 * np.exp(-self.position_temperature * step / max_new_tokens)

    def threshold_at(self, position: int, max_new_tokens: int) -> float | Tensor:
        """The threshold at a position, λ times the decay; within [0, 1] as both are."""
        return self.threshold * float(self.decay(position, max_new_tokens))

    def exits(self, confidence: Tensor, position: int, max_new_tokens: int) -> Tensor:
        """Which rows leave: [rows] bool from their confidences [rows]. Raises ValueError on NaN."""
        if confidence.isnan().any():
            raise self.nan_error()
        threshold = self.threshold_at(position, max_new_tokens)
        if isinstance(threshold, Tensor):
            threshold = threshold.to(confidence.device)
        return confidence > threshold

    def nan_error(self) -> ValueError:
        """What to raise where the measure gave NaN."""
        return ValueError(f"confidence measure {self.measure!r} gave NaN; are the model's weights finite?")

    def for_row(self, row: int | list[int]) -> "ExitPolicy":
        """The policy of one row of a batch; or of several, in their order."""
        own = {}
        if isinstance(self.threshold, Tensor) and self.threshold.ndim == 1:
            own["threshold"] = self.threshold[row]
        if isinstance(self.static_layer, Tensor) and self.static_layer.ndim == 2:
            own["static_layer"] = self.static_layer[row]
        return replace(self, **own)

    def check_rows(self, rows: int) -> None:
        """Raises ValueError unless the thresholds fit a batch of so many rows."""
        shape = tuple(torch.as_tensor(self.threshold).shape)
        if shape not in ((), (rows,)):
            raise ValueError(f"thresholds of shape {shape} for a batch of {rows} rows")
        planned = torch.as_tensor(0 if self.static_layer is None else self.static_layer)
        if planned.ndim == 2 and len(planned) != rows:
            raise ValueError(f"static exit layers for {len(planned)} rows, and a batch of {rows}")
