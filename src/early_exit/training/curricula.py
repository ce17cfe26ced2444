"""Which exits' losses count at a step; full depth's always does.

References: LayerSkip, Elhoushi et al. 2024 (section 4.1.2).
"""

from collections.abc import Callable


def rotational(step: int, steps: int, num_layers: int) -> tuple[int, ...]:
    """One exit at a time, in turn: LayerSkip's C_rot with R = L − 1."""
    return (step % (num_layers - 1) + 1,) if num_layers > 1 else ()


def gradual(step: int, steps: int, num_layers: int) -> tuple[int, ...]:
    """From the deepest exit down, one more every T / (2·L) steps: all of them from half of training on."""
    return tuple(range(max(1, num_layers - 1 - step * 2 * num_layers // max(1, steps)), num_layers))


# step: from 0; steps: of the whole training, T; num_layers: L. → layers below L, from 1, rising.
CURRICULA: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {
    "rotational": rotational,
    "gradual": gradual,
}
