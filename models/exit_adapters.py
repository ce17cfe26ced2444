"""Exit adapters: a linear map for each exit, which makes of a layer's state what the LM head can read.

For a model whose exits were never trained. The maps are fitted to full depth's distribution (the tuned lens,
Belrose et al. 2023, section 3); the model itself stays as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.utils import ModelOutput

from early_exit.models.head_training import frozen_pass
from early_exit.training.exit_losses import joint_cross_entropy


class ExitAdapters(nn.Module):
    """Maps of the exits 1 to L − 1: state + change · state, where the change is 0 at the start.

    changes: [L − 1, d_model, d_model]; of a rank r the product of outward [L − 1, d_model, r], 0 at the
    start, and inward [L − 1, r, d_model]. Weight decay draws them to the identity.
    """

    def __init__(self, exits: int, d_model: int, rank: int | None = None):
        super().__init__()
        if exits < 1:
            raise ValueError("a decoder of one layer has no exit below full depth to adapt")
        if rank is not None and not 1 <= rank <= d_model:
            raise ValueError(f"rank {rank} of exit adapters is outside 1 to {d_model}")
        self.changes = self.outward = self.inward = None
        if rank is None:
            self.changes = nn.Parameter(torch.zeros(exits, d_model, d_model))
            return
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed())  # whatever was drawn before
            self.inward = nn.Parameter(torch.randn(exits, rank, d_model) / d_model**0.5)
        self.outward = nn.Parameter(torch.zeros(exits, d_model, rank))

    def forward(self, layer: int, states: Tensor) -> Tensor:
        """What the exit after `layer` (1 to L − 1) reads instead of its raw output [..., d_model]; of the
        same type."""
        if self.changes is not None:
            return states + linear(states, self.changes[layer - 1].to(states.dtype))
        inner = linear(states, self.inward[layer - 1].to(states.dtype))
        return states + linear(inner, self.outward[layer - 1].to(states.dtype))

    def matrices(self) -> Tensor:
        """The changes, [L − 1, d_model, d_model], in float32 and without gradient."""
        if self.changes is not None:
            return self.changes.detach().float()
        return self.outward.detach().float() @ self.inward.detach().float()


def new_exit_adapters(config) -> ExitAdapters:
    """Untrained adapters for a model's configuration, whose `exit_adapters` holds their rank."""
    return ExitAdapters(config.num_decoder_layers - 1, config.d_model, config.exit_adapters["rank"])


@dataclass
class AdapterLossOutput(ModelOutput):
    """loss: scalar. exit_losses: [L], mean cross-entropy of every exit, without gradient."""

    loss: Tensor | None = None
    exit_losses: Tensor | None = None


def adapter_training_loss(
    model, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None
) -> AdapterLossOutput:
    """Mean over the exits below full depth of KL(full depth ‖ exit), summed over tokens and divided by
    `num_items_in_batch` (by the number of unmasked labels if None). The adapters alone get a gradient.

    inputs: of `frozen_pass`; the model runs once for all exits, and the logits of one exit exist at a time.
    Raises ValueError for a model without adapters.
    """
    if model.exit_adapters is None:
        raise ValueError("the model has no exit adapters to train: add them")
    read = model.head_inputs(frozen_pass(model, **inputs))
    exits = len(read) - 1
    loss, exit_losses = joint_cross_entropy(
        [state.flatten(0, 1) for state in read],  # each [rows * length, d_model]
        model.lm_head.weight,
        inputs["labels"].flatten(),
        weights=[0.0] * (exits + 1),
        distillation=[1 / exits] * exits + [0.0],
    )
    tokens = (inputs["labels"] != -100).sum().clamp(min=1)
    divisor = tokens if num_items_in_batch is None else num_items_in_batch
    return AdapterLossOutput(loss=loss / divisor, exit_losses=exit_losses / tokens)
