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
    if not len(states) == len(weights) == len(distillation):
        raise ValueError(f"{len(states)} states but {len(weights)} weights and {len(distillation)} for KL")
    if distillation[-1] != 0 or not temperature > 0:
        raise ValueError(
            f"full depth learns from itself with weight {distillation[-1]}, allowed: 0; temperature "
            f"{temperature}, allowed: above 0"
        )
    kept = labels != ignore_index
    labels = labels[kept]
    used = [
        index
        for index, pair in enumerate(zip(weights, distillation, strict=True))
        if any(pair) or (index == len(states) - 1 and any(distillation))
    ]
    terms = _Terms(
        [weights[index] for index in used], [distillation[index] for index in used], float(temperature)
    )
    loss, used_losses = _ChunkedLosses.apply(
        torch.is_grad_enabled(),  # inside it is off, whether or not a gradient is wanted
        head,
        labels,
        terms,
        *(states[index][kept] for index in used),
    )
    exit_losses = used_losses.new_full((len(states),), float("nan"))
    exit_losses[used] = used_losses
    return loss, exit_losses


@dataclass(frozen=True)
class _Terms:
    """Weights of the exits that are used, and the temperature of the divergences."""

    weights: list[float]
    distillation: list[float]
    temperature: float

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


class _ChunkedLosses(torch.autograd.Function):
    """Gradients with respect to the head and the states, accumulated chunk by chunk."""

    @staticmethod
    def forward(ctx, wanted: bool, head: Tensor, labels: Tensor, terms: _Terms, *states: Tensor):
        device = head.device.type
        # Under autocast the products run in its type, everything else in float32.
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
        with torch.autocast(device, enabled=False):
            weight_matrix = head.to(compute)  # [vocabulary, d_model]
            want_head, *want_states = (
                wanted and ctx.needs_input_grad[i] for i in (1, *range(4, 4 + len(states)))
            )
            head_grad = torch.zeros_like(head) if want_head else None
            state_grads = [
                torch.zeros_like(state) if want else None
                for state, want in zip(states, want_states, strict=True)
            ]
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
                    learns = terms.weights[index] or terms.distillation[index]
                    if not learns or not (want_head or state_grads[index] is not None):
                        continue
                    gradient = terms.gradient(index, logits, target, teacher, softened).to(compute)
                    if state_grads[index] is not None:
                        state_grads[index][chunk] = gradient @ weight_matrix
                    if want_head and compute == head.dtype:
                        head_grad.addmm_(gradient.T, inputs)
                    elif want_head:  # chunks are summed in the head's own precision
                        head_grad += gradient.T @ inputs  # pyright: ignore[reportOperatorIssue]
        ctx.save_for_backward(head_grad, *state_grads)
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
