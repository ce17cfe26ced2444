"""Joint training: one loss over all exits.

References: CALM, Schuster et al. 2022, section 3.3; LayerSkip, Elhoushi et al. 2024, section 4.1.
"""

from dataclasses import replace

from early_exit import Objective
from early_exit.models.joint_training import JointTraining
from early_exit.models.perturbed_decoder import Perturbation
from early_exit.training.curricula import CURRICULA
from trainers.generation import GenerationTrainer
from trainers.loss_means import LossMeans


class JointTrainer(GenerationTrainer):
    """Trains a model of `models.t5` with a loss over all of its exits.

    objective: what they learn, CALM's weighted cross-entropy by default. perturbation: of the decoder, in
    training. curriculum: a name of `CURRICULA`, None for all exits at every step. The cross-entropy of each
    exit is logged as `exit_{layer}_loss`, its mean since the last log over the steps that it was computed at.
    """

    def __init__(
        self,
        *args,
        objective: Objective | None = None,
        perturbation: Perturbation | None = None,
        curriculum: str | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.objective, self.perturbation = objective or Objective(), perturbation or Perturbation()
        self._curriculum = None if curriculum is None else CURRICULA[curriculum]
        self._exit_losses = LossMeans()
        if self.objective.name != "last_ce":  # the checkpoint says how its exits were trained
            self.model.config.exit_loss = self.objective.name

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The joint loss: a sum over tokens divided by the tokens of the whole step, on all devices."""
        objective = self.objective
        if self._curriculum is not None and model.training:
            step, steps = self.state.global_step, self.state.max_steps
            objective = replace(objective, counted=self._curriculum(step, steps, self.model.num_exits))
        inputs = {**inputs, "exit_loss": JointTraining(objective, self.perturbation)}
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            # Several GPUs in one process give several losses an exit.
            exit_losses = outputs.exit_losses.view(-1, self.model.num_exits).nanmean(0)
            for layer, exit_loss in enumerate(exit_losses, start=1):
                self._exit_losses.add(f"exit_{layer}_loss", exit_loss)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= self._exit_losses.take()
        super().log(logs, *args, **kwargs)
