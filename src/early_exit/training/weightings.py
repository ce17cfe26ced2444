"""How much each exit's cross-entropy counts.

References: CALM, Schuster et al. 2022 (section 3.3: a weighted average of per-layer losses); LayerSkip,
Elhoushi et al. 2024 (section 4.1.2, equation 5).
"""

from collections.abc import Callable


def weighted_ce(num_layers: int) -> list[float]:
    """Exit i weighs i / sum(1..L): CALM's weighting, which favours the deep exits."""
    total = num_layers * (num_layers + 1) / 2
    return [layer / total for layer in range(1, num_layers + 1)]


def ce(num_layers: int) -> list[float]:
    """Every exit weighs the same."""
    return [1 / num_layers] * num_layers


def last_ce(num_layers: int) -> list[float]:
    """Only full depth is trained, as in a T5 without exits."""
    return [0.0] * (num_layers - 1) + [1.0]


def layerskip_ce(num_layers: int, scale: float = 1.0) -> list[float]:
    """Exit i weighs s·Σ(1..i), full depth L + s·Σ(1..L−1), over their sum: LayerSkip's, with layers counted
    from 1, so that the first exit learns too. scale: s, at least 0."""
    weights = [scale * layer * (layer + 1) / 2 for layer in range(1, num_layers)]
    weights.append(num_layers + scale * num_layers * (num_layers - 1) / 2)
    return [weight / sum(weights) for weight in weights]


LAYER_WEIGHTINGS: dict[str, Callable[[int], list[float]]] = {
    "weighted_ce": weighted_ce,
    "ce": ce,
    "layerskip_ce": layerskip_ce,
    "last_ce": last_ce,
}


def layer_weights(name: str, num_layers: int) -> list[float]:
    """Weights of the exits 1..L, which sum to 1. Raises ValueError for an unknown name."""
    if name not in LAYER_WEIGHTINGS:
        raise ValueError(f"unknown layer weighting {name!r}; known: {', '.join(LAYER_WEIGHTINGS)}")
    return LAYER_WEIGHTINGS[name](num_layers)
