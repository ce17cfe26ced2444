"""Joint training of all exits: layer weightings, and a cross-entropy that never holds all logits.

References: CALM, Schuster et al. 2022 (section 3.3: a weighted average of per-layer losses).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of one chunk of tokens: at 4 bytes, 32 MiB. Larger chunks were no faster on a CPU.
_CHUNK_ELEMENTS = 8 * 2**20


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


LAYER_WEIGHTINGS: dict[str, Callable[[int], list[float]]] = {
    "weighted_ce": weighted_ce,
    "ce": ce,
    "last_ce": last_ce,
}


def layer_weights(name: str, num_layers: int) -> list[float]:
    """Weights of the exits 1..L, which sum to 1. Raises ValueError for an unknown name."""
    if name not in LAYER_WEIGHTINGS:
        raise ValueError(f"unknown layer weighting {name!r}; known: {', '.join(LAYER_WEIGHTINGS)}")
    return LAYER_WEIGHTINGS[name](num_layers)


def joint_cross_entropy(
    states: Sequence[Tensor],
    head: Tensor,
    labels: Tensor,
    weights: Sequence[float],
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over exits of the summed token cross-entropies.

    states: one [tokens, d_model] a weight, the inputs of the LM head (normed and scaled).
    head: [vocabulary, d_model]. labels: [tokens] int64, `ignore_index` where masked.
    weights: one a state; a state with weight 0 costs nothing and its loss is NaN.

    Returns (loss, exit_losses): a scalar that carries the gradient, and [exits]
    without one, the unweighted sums over unmasked tokens. Divide both by the number of unmasked
    tokens for a mean. Logits exist for one chunk of one exit at a time; the gradient is formed in
    the forward pass, so that no chunk is computed twice.
    """
    if len(states) != len(weights):
        raise ValueError(f"{len(states)} states but {len(weights)} weights")
    kept = labels != ignore_index
    labels = labels[kept]
    used = [index for index, weight in enumerate(weights) if weight != 0]
    loss, used_losses = _ChunkedCrossEntropy.apply(
        torch.is_grad_enabled(),  # inside it is off, whether or not a gradient is wanted
        head,
        labels,
        [weights[index] for index in used],
        *(states[index][kept] for index in used),
    )
    exit_losses = used_losses.new_full((len(states),), float("nan"))
    exit_losses[used] = used_losses
    return loss, exit_losses


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients with respect to the head and the states, accumulated chunk by chunk."""

    @staticmethod
    def forward(ctx, wanted: bool, head: Tensor, labels: Tensor, weights: list[float], *states: Tensor):
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
            size = max(1, _CHUNK_ELEMENTS // head.shape[0])
            for index, (state, weight) in enumerate(zip(states, weights, strict=True)):
                for begin in range(0, len(labels), size):
                    chunk = slice(begin, begin + size)
                    inputs = state[chunk].to(compute)  # [chunk, d_model]
                    logits = (inputs @ weight_matrix.T).to(full)  # [chunk, vocabulary]
                    target = labels[chunk, None]
                    normaliser = logits.logsumexp(-1, keepdim=True)
                    exit_losses[index] += (normaliser - logits.gather(-1, target)).sum()
                    if not (want_head or state_grads[index] is not None):
                        continue
                    # d loss / d logits = softmax - one_hot, times the exit's weight; in place.
                    gradient = logits.sub_(normaliser).exp_()
                    gradient.scatter_add_(-1, target, torch.full_like(normaliser, -1.0))
                    gradient = gradient.mul_(weight).to(compute)
                    if state_grads[index] is not None:
                        state_grads[index][chunk] = gradient @ weight_matrix
                    if want_head and compute == head.dtype:
                        head_grad.addmm_(gradient.T, inputs)
                    elif want_head:  # chunks are summed in the head's own precision
                        head_grad += gradient.T @ inputs
        ctx.save_for_backward(head_grad, *state_grads)
        loss = (exit_losses * exit_losses.new_tensor(weights)).sum()
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
