"""Losses of exits against labels and against full depth's predictions, which never hold all logits.

References: CALM, Schuster et al. 2022 (section 3.3); distillation at a temperature, Hinton et al. 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of one chunk of tokens: at 4 bytes, 32 MiB. Larger chunks were no faster on a CPU.
_CHUNK_ELEMENTS = 8 * 2**20


def joint_cross_entropy(
    states: Sequence[Tensor],
    head: Tensor,
    labels: Tensor,
    weights: Sequence[float],
    distillation: Sequence[float] | None = None,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over exits and tokens of cross-entropies, and of divergences from full depth.

    states: one [tokens, d_model] a weight, the inputs of the LM head (normed and scaled), full depth's last.
    head: [vocabulary, d_model]. labels: [tokens] int64, `ignore_index` where masked.
    weights: of the cross-entropies, one a state; a state that no weight uses costs nothing and its loss is
    NaN. distillation: weights of τ²·KL(full depth ‖ exit), both softened by the temperature τ > 0, one a
    state and 0 for the last; full depth gets no gradient from it.

    Returns (loss, exit_losses): a scalar that carries the gradient, and [exits] without one, the unweighted
    cross-entropies summed over unmasked tokens. Divide both by the number of unmasked
    tokens for a mean. Logits exist for one chunk of one exit at a time, beside full depth's; the gradient is
    formed in the forward pass, so that no chunk is computed twice. Raises ValueError for weights that do not
    fit.
    """
    distillation = [0.0] * len(states) if distillation is None else list(distillation)
    terms = _Terms(list(weights), distillation, float(temperature))
    terms.check(len(states))
    kept, used = labels != ignore_index, terms.used()
    loss, used_losses = _ChunkedLosses.apply(
        torch.is_grad_enabled(),  # inside it is off, whether or not a gradient is wanted
        head,
        labels[kept],
        terms.of(used),
        *(states[index][kept] for index in used),
    )
    exit_losses = used_losses.new_full((len(states),), float("nan"))
    exit_losses[used] = used_losses
    return loss, exit_losses


@dataclass(frozen=True)
class _Terms:
    """Weights of cross-entropies and of divergences, one an exit, and the temperature of the latter."""

    weights: list[float]
    distillation: list[float]
    temperature: float

    def check(self, exits: int) -> None:
        """Raises ValueError for weights that do not fit so many exits."""
        if not exits == len(self.weights) == len(self.distillation):
            raise ValueError(
                f"{exits} states but {len(self.weights)} weights and {len(self.distillation)} for KL"
            )
        if self.distillation[-1] != 0 or not self.temperature > 0:
            raise ValueError(
                f"full depth learns from itself with weight {self.distillation[-1]}, allowed: 0; temperature "
                f"{self.temperature}, allowed: above 0"
            )

    def used(self) -> list[int]:
        """The exits that some weight uses: full depth too where others learn from it."""
        last = len(self.weights) - 1
        return [
            index
            for index, pair in enumerate(zip(self.weights, self.distillation, strict=True))
            if any(pair) or (index == last and any(self.distillation))
        ]

    def of(self, exits: list[int]) -> "_Terms":
        """The same of some exits."""
        weights, distillation = (
            [each[index] for index in exits] for each in (self.weights, self.distillation)
        )
        return _Terms(weights, distillation, self.temperature)

    def learns(self, exit: int) -> bool:
        """Whether the loss depends on an exit."""
        return bool(self.weights[exit] or self.distillation[exit])

    def values(
        self, exit: int, logits: Tensor, target: Tensor, teacher: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Summed cross-entropy and weighted divergence of a chunk, and the softened log-probabilities, where
        there is a divergence.

        logits: [chunk, vocabulary]; target: [chunk, 1]; teacher: [chunk, vocabulary], softened probabilities.
        """
        entropy = (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, target)).sum()
        share, temperature = self.distillation[exit], self.temperature
        if not share:
            return entropy, entropy.new_zeros(()), None
        softened = (logits / temperature).log_softmax(-1)
        # xlogy: a token without probability adds nothing.
        divergence = (torch.special.xlogy(teacher, teacher) - teacher * softened).sum()
        return entropy, share * temperature**2 * divergence, softened

    def gradient(
        self, exit: int, logits: Tensor, target: Tensor, teacher: Tensor | None, softened: Tensor | None
    ) -> Tensor:
        """d loss / d logits, in place of the logits: softmax − one-hot, times the exit's weight, and
        τ·(softened − teacher), times that of its divergence."""
        gradient = logits.sub_(logits.logsumexp(-1, keepdim=True)).exp_()
        gradient.scatter_add_(-1, target, -torch.ones_like(target, dtype=gradient.dtype))
        gradient.mul_(self.weights[exit])
        if softened is not None:
            alpha = self.distillation[exit] * self.temperature
            gradient.add_(softened.exp_().sub_(teacher), alpha=alpha)  # pyright: ignore[reportArgumentType]
        return gradient


@dataclass(frozen=True)
class _Gradients:
    """Summed over chunks. head: [vocabulary, d_model]; states: [tokens, d_model] an exit; None where none is
    wanted. Each is in the type of what it is the gradient of."""

    head: Tensor | None
    states: list[Tensor | None]

    @classmethod
    def zeros(cls, head: Tensor, states: Sequence[Tensor], wanted: Sequence[bool]) -> "_Gradients":
        """wanted: of the head and of each state."""
        zeros = [
            torch.zeros_like(tensor) if want else None
            for tensor, want in zip((head, *states), wanted, strict=True)
        ]
        return cls(zeros[0], zeros[1:])

    def wanted(self, exit: int) -> bool:
        """Whether logits of an exit have to be differentiated."""
        return self.head is not None or self.states[exit] is not None

    def add(self, exit: int, chunk: slice, gradient: Tensor, inputs: Tensor, weight_matrix: Tensor) -> None:
        """Of the logits [chunk, vocabulary] of an exit; inputs: [chunk, d_model], what they were made of."""
        state_grad = self.states[exit]
        if state_grad is not None:
            state_grad[chunk] = gradient @ weight_matrix
        if self.head is not None and gradient.dtype == self.head.dtype:
            self.head.addmm_(gradient.T, inputs)
        elif self.head is not None:  # chunks are summed in the head's own precision
            self.head.add_(gradient.T @ inputs)


class _ChunkedLosses(torch.autograd.Function):
    """Gradients with respect to the head and the states, accumulated chunk by chunk."""

    @staticmethod
    def forward(ctx, wanted: bool, head: Tensor, labels: Tensor, terms: _Terms, *states: Tensor):
        device = head.device.type
        # Under autocast the products run in its type, everything else in float32.
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
        with torch.autocast(device, enabled=False):
            weight_matrix = head.to(compute)  # [vocabulary, d_model]
            needed = [wanted and ctx.needs_input_grad[i] for i in (1, *range(4, 4 + len(states)))]
            gradients = _Gradients.zeros(head, states, needed)
            full = torch.promote_types(compute, torch.float32)
            exit_losses = torch.zeros(len(states), device=head.device, dtype=full)
            divergences = torch.zeros((), device=head.device, dtype=full)
            size = max(1, _CHUNK_ELEMENTS // head.shape[0])
            for begin in range(0, len(labels), size):
                chunk, teacher = slice(begin, begin + size), None
                target = labels[chunk, None]
                for index in reversed(range(len(states))):  # full depth first, the others learn from it
                    inputs = states[index][chunk].to(compute)  # [chunk, d_model]
                    logits = (inputs @ weight_matrix.T).to(full)  # [chunk, vocabulary]
                    if teacher is None and any(terms.distillation):
                        teacher = (logits / terms.temperature).softmax(-1)
                    entropy, divergence, softened = terms.values(index, logits, target, teacher)
                    exit_losses[index] += entropy
                    divergences += divergence
                    if terms.learns(index) and gradients.wanted(index):
                        gradient = terms.gradient(index, logits, target, teacher, softened).to(compute)
                        gradients.add(index, chunk, gradient, inputs, weight_matrix)
        ctx.save_for_backward(gradients.head, *gradients.states)
        loss = (exit_losses * exit_losses.new_tensor(terms.weights)).sum() + divergences
        ctx.mark_non_differentiable(exit_losses)
        return loss, exit_losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, _):
        # Scaled in place: each gradient is used once, and a copy of the head's would cost its size.
        head_grad, *state_grads = (
            None if grad is None else grad.mul_(grad_loss) for grad in ctx.saved_tensors
        )
        return None, head_grad, None, None, *state_grads
