"""What the exits are trained on: one registry of objectives.

References: CALM, Schuster et al. 2022 (section 3.3); FREE, Bae et al. 2023 (section 3.2);
LayerSkip, Elhoushi et al. 2024 (section 4.1.2).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from early_exit.training.exit_losses import joint_cross_entropy
from early_exit.training.hidden_states import hidden_state_loss
from early_exit.training.weightings import LAYER_WEIGHTINGS, layer_weights, layerskip_ce


@dataclass(frozen=True)
class Terms:
    """What an objective adds up, over L exits. labels: [L], weights of the cross-entropies; full_depth: [L],
    weights of the divergences from full depth's predictions; matching: of hidden states, if they count."""

    labels: list[float]
    full_depth: list[float] | None = None
    matching: str | None = None

    def of_layers(self, layers: Collection[int]) -> "Terms":
        """Those of some layers alone, from 1, with the same sum of weights."""

        def there(weights: list[float]) -> list[float]:
            return [weight if layer in layers else 0.0 for layer, weight in enumerate(weights, start=1)]

        labels, full_depth = there(self.labels), there(self.full_depth or [0.0] * len(self.labels))
        more = (sum(self.labels) + sum(self.full_depth or [])) / (sum(labels) + sum(full_depth))
        kept = None if self.full_depth is None else [more * weight for weight in full_depth]
        return Terms([more * weight for weight in labels], kept, self.matching)


@dataclass(frozen=True)
class Objective:
    """A training objective with its settings, as plain values.

    name: of `OBJECTIVES`. shallow_layer: S, for the objectives of FREE. alpha: weight of distillation: of
    hidden states beside the cross-entropies, at least 0; of predictions in their place, in [0, 1].
    temperature: τ > 0 that predictions are softened by. scale: of the exits' losses in layerskip_ce, at least
    0. counted: the layers below full depth whose losses count, all if None; the others weigh nothing and the
    rest makes up for it. Raises ValueError for other values.
    """

    name: str = "weighted_ce"
    shallow_layer: int | None = None
    alpha: float = 0.5
    temperature: float = 1.0
    scale: float = 1.0
    counted: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.name not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.name!r}; known: {', '.join(OBJECTIVES)}")
        high = 1.0 if self.name == "kd_logits" else float("inf")
        if not 0 <= self.alpha <= high:
            raise ValueError(f"alpha {self.alpha} is outside [0, {high:g}]")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} is not above 0")
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale {self.scale} is outside [0, inf)")
        if self.is_shallow_deep and self.counted is not None:
            raise ValueError(f"objective {self.name!r} has one exit: there are none to choose from")
        if self.is_shallow_deep and self.shallow_layer is None:
            raise ValueError(f"objective {self.name!r} needs a shallow layer")

    @property
    def is_shallow_deep(self) -> bool:
        """Whether it is one of FREE's, which train one exit and full depth."""
        return self.name.startswith("shallowdeep")

    def terms(self, num_layers: int) -> Terms:
        """For L layers. Raises ValueError where S is outside 1 to L − 1."""
        if self.is_shallow_deep and not 1 <= (self.shallow_layer or 0) < num_layers:
            raise ValueError(f"shallow layer {self.shallow_layer} is outside 1 to {num_layers - 1}")
        terms = OBJECTIVES[self.name](self, num_layers)
        return terms if self.counted is None else terms.of_layers({*self.counted, num_layers})


def _labels_alone(objective: Objective, num_layers: int) -> Terms:
    return Terms(layer_weights(objective.name, num_layers))


def _layerskip(objective: Objective, num_layers: int) -> Terms:
    return Terms(layerskip_ce(num_layers, objective.scale))


def _kd_logits(objective: Objective, num_layers: int) -> Terms:
    """CALM's weights; exits below full depth learn its predictions with share α, the labels with 1 − α."""
    *exits, full = layer_weights("weighted_ce", num_layers)
    labels = [(1 - objective.alpha) * weight for weight in exits]
    return Terms([*labels, full], [*(objective.alpha * weight for weight in exits), 0.0])


def _shallow_deep(objective: Objective, num_layers: int) -> Terms:
    """(S·CE_S + L·CE_L) / (S + L)."""
    shallow, weights = objective.shallow_layer, [0.0] * num_layers
    for layer in (shallow, num_layers):
        weights[layer - 1] = layer / (shallow + num_layers)
    return Terms(weights)


def _with_hidden_states(matching: str) -> Callable[[Objective, int], Terms]:
    def terms(objective: Objective, num_layers: int) -> Terms:
        return Terms(_shallow_deep(objective, num_layers).labels, matching=matching)

    return terms


OBJECTIVES: dict[str, Callable[[Objective, int], Terms]] = {
    **dict.fromkeys(LAYER_WEIGHTINGS, _labels_alone),
    "layerskip_ce": _layerskip,
    "kd_logits": _kd_logits,
    "shallowdeep_ce": _shallow_deep,
    "shallowdeep_kd_last": _with_hidden_states("last"),
    "shallowdeep_kd_unif": _with_hidden_states("unif"),
    "shallowdeep_kd_dyna": _with_hidden_states("dyna"),
}


def objective_loss(
    objective: Objective,
    inputs: Sequence[Tensor],
    head: Tensor,
    labels: Tensor,
    scale: float = 1.0,
    transform: Callable[[Tensor], Tensor] | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Loss over all exits, summed over tokens, and each exit's cross-entropy: see `joint_cross_entropy`.

    inputs: L tensors [tokens, d_model], what the LM head reads: normed states times `scale`. head:
    [vocabulary, d_model]. labels: [tokens] int64, `ignore_index` where masked. transform: what the states of
    students go through before they are compared with their teachers'.
    """
    terms = objective.terms(len(inputs))
    loss, exit_losses = joint_cross_entropy(
        inputs, head, labels, terms.labels, terms.full_depth, objective.temperature, ignore_index
    )
    if terms.matching is not None:
        kept = labels != ignore_index
        normed = [state[kept] / scale for state in inputs]
        hidden = hidden_state_loss(normed, objective.shallow_layer or 0, terms.matching, transform)
        loss = loss + objective.alpha * hidden
    return loss, exit_losses
