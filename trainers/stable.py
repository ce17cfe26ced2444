"""Training that keeps float32 weights and stops at the first number that is not finite."""

import torch
from torch import Tensor
from transformers import PreTrainedModel, Seq2SeqTrainer, TrainerCallback


class TrainingDivergedError(ValueError):
    """A loss, a gradient or a weight is not finite. What was saved before stays as it was."""


class StableTrainer(Seq2SeqTrainer):
    """A Seq2SeqTrainer for the losses of `models.t5`.

    The weights that are trained, and saved, are float32 whatever type the model comes in: steps smaller than
    a half type's rounding would be lost. bfloat16 is used by autocast, `args.bf16`.

    Raises ValueError for what these losses do not serve: label smoothing, a loss function of one's own,
    float16; TrainingDivergedError, a ValueError, from `train` and `save_model`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor {self.args.label_smoothing_factor} is not supported by the losses "
                "at the exits; allowed: 0"
            )
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func is not supported: the losses at the exits are the model's own"
            )

        self.add_callback(_KeepIntervals)

    def train(self, *args, **kwargs):
        mixed = self.accelerator.mixed_precision
        if mixed not in ("no", "bf16"):
            raise ValueError(f"mixed precision {mixed} is not supported: T5 overflows in it; use bf16")
        self.model.float()
        return super().train(*args, **kwargs)

    def call_model_init(self, trial=None) -> PreTrainedModel:
        return super().call_model_init(trial).float()

    def training_step(self, *args, **kwargs) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss).all():
            raise _diverged(self.state, f"the loss is {loss.mean().item()}")
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> Tensor:
        # The Trainer asks between clipping and the step. Clipping turns a norm beyond float32 into zeros.
        norm = super()._get_grad_norm(*args, **kwargs)
        if not torch.isfinite(torch.as_tensor(norm)):
            raise _diverged(self.state, f"the norm of the gradient is {float(norm)}")
        return norm

    def save_model(self, *args, **kwargs) -> None:
        for name, weight in self.model.state_dict().items():
            if weight.is_floating_point() and not torch.isfinite(weight).all():
                raise TrainingDivergedError(
                    f"{name} holds numbers that are not finite: the model is not saved"
                )
        super().save_model(*args, **kwargs)


class _KeepIntervals(TrainerCallback):
    """A run that goes on from a checkpoint logs, saves and evaluates as it says, not as that one did."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


def _diverged(state, what: str) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"training stopped at step {state.global_step + 1}: {what}. Nothing is saved of it; a lower learning "
        "rate may help"
    )
