"""Distillation of hidden states: the layers below a shallow exit learn from deeper ones.

References: FREE, Bae et al. 2023 (section 3.2, layer-wise distillation); the dynamic matching is that of Xia
et al. 2022 (CoFi).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# (student, teacher) layers, from 1.
Pairs = list[tuple[int, int]]


def spread_teachers(shallow: int, num_layers: int) -> list[int]:
    """A teacher for each of the layers 1 to S, evenly spread up to L: ⌈j·L/S⌉. Of 24 layers and S = 6 layers
    4, 8, … 24."""
    return [-(-layer * num_layers // shallow) for layer in range(1, shallow + 1)]


def last(states: Sequence[Tensor], students: Sequence[Tensor]) -> Pairs:
    """Layer S learns from layer L. states: L tensors [tokens, d_model]; students: S, as they are compared."""
    return [(len(students), len(states))]


def uniform(states: Sequence[Tensor], students: Sequence[Tensor]) -> Pairs:
    """Each of the layers up to S learns from one of `spread_teachers`."""
    return list(enumerate(spread_teachers(len(students), len(states)), start=1))


@torch.no_grad()
def dynamic(states: Sequence[Tensor], students: Sequence[Tensor]) -> Pairs:
    """The same teachers, from the deepest on: each teaches the layer nearest to it, strictly below the one
    that the teacher before had. Teachers that no layer is left for teach none."""
    pairs, below = [], len(students) + 1
    for teacher in reversed(spread_teachers(len(students), len(states))):
        distances = [_distance(states[teacher - 1], student) for student in students[: below - 1]]
        if not distances:
            break
        below = 1 + int(torch.stack(distances).argmin())
        pairs.append((below, teacher))
    return pairs


MATCHINGS: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor]], Pairs]] = {
    "last": last,
    "unif": uniform,
    "dyna": dynamic,
}


def hidden_state_loss(
    states: Sequence[Tensor],
    shallow: int,
    matching: str,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean over pairs, sum over tokens, of the mean squared difference of student and teacher; a scalar.

    states: normed, L tensors [tokens, d_model]. shallow: S in 1 to L − 1. matching: a name of `MATCHINGS`.
    transform: what students go through before they are compared. Teachers get no gradient.
    """
    students = [state if transform is None else transform(state) for state in states[:shallow]]
    pairs = MATCHINGS[matching](states, students)
    return torch.stack(
        [_distance(states[teacher - 1].detach(), students[student - 1]) for student, teacher in pairs]
    ).mean()


def _distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum over tokens of mean squares, in float32 or more."""
    difference = teacher - student
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    return difference.square().mean(-1).sum()
