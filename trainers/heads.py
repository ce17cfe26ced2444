"""Training of exit heads on a frozen model.

References: CALM, Schuster et al. 2022, section 3.5; logit adjustment, Menon et al. 2021.
"""

from collections.abc import Sequence
from typing import Any

import torch

from early_exit import head_quality
from early_exit.models.head_training import agreement_with_full_depth, head_log_odds
from trainers.frozen import FrozenTrainer
from trainers.loss_means import LossMeans

# Of the learning rate: the simpler a head, the larger its steps may be. Found on E2E, see decisions.md.
_RATE_FACTORS = {"vanilla_classifier": 10.0, "MLP": 3.0}


def head_rate(name: str, learning_rate: float) -> float:
    """The learning rate that a head is trained with."""
    return learning_rate * _RATE_FACTORS.get(name, 1.0)


class HeadTrainer(FrozenTrainer):
    """Trains exit heads of a model of `models.t5`, the rest of which is frozen and runs once a batch for all.

    heads: their names; head_loss: a name of `early_exit.head_losses.HEAD_LOSSES`. Each head's own loss is
    logged as `{name}_loss`. Heads do not influence each other, unless gradients are clipped: keep
    `max_grad_norm` 0. Evaluation adds `{split}_heads`: by name and layer, `head_quality.quality`.
    """

    def __init__(self, *args, heads: Sequence[str], head_loss: str = "independent", **kwargs):
        super().__init__(*args, **kwargs)
        self._heads, self._head_loss = list(heads), head_loss
        self._head_losses = LossMeans()
        for name in self._heads:
            self.model.exit_heads[name].requires_grad_(True)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The heads' losses: sums over tokens divided by the tokens of the whole step, on all devices."""
        asked = {"exit_head_loss": (self._head_loss, self._heads)}
        loss, outputs = self.frozen_loss(model, inputs, asked, num_items_in_batch)
        if torch.is_grad_enabled():
            for name, head_loss in zip(
                self._heads, outputs.head_losses.view(-1, len(self._heads)).mean(0), strict=True
            ):
                self._head_losses.add(f"{name}_loss", head_loss)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model=None):
        """The optimizer of the training arguments, with a rate that suits each head."""
        if self.optimizer is None:
            make, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = [
                {
                    "params": list(self.model.exit_heads[name].parameters()),
                    "lr": head_rate(name, settings["lr"]),
                }
                for name in self._heads
            ]
            self.optimizer = make(groups, **settings, weight_decay=self.args.weight_decay)
        return self.optimizer

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= self._head_losses.take()
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval", **kwargs):
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **kwargs)
        metrics[f"{metric_key_prefix}_heads"] = self._quality(eval_dataset or self.eval_dataset)
        return metrics

    @torch.no_grad()
    def _quality(self, dataset) -> dict[str, dict[str, Any]]:
        """head → layer → quality of the probability of agreement that it was trained to give, over the tokens
        of the reference texts."""
        agrees, confidences = [], {name: [] for name in self._heads}
        for inputs in self.own_share(dataset):
            seen = agreement_with_full_depth(self.model, **inputs)
            agrees.append(seen.agrees[:, seen.kept].cpu().numpy())
            for name in self._heads:
                log_odds = head_log_odds(self.model, name, seen.states)[:, seen.kept]
                confidences[name].append(log_odds.sigmoid().cpu().numpy())
        agrees = self.from_all_processes(agrees)
        confidences = {name: self.from_all_processes(parts) for name, parts in confidences.items()}
        return {
            name: {
                layer: head_quality.quality(of_layer, agree)
                for layer, (of_layer, agree) in enumerate(zip(confidence, agrees, strict=True), start=1)
            }
            for name, confidence in confidences.items()
        }
