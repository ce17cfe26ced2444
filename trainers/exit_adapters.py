"""Training of exit adapters on a frozen model.

Reference: the tuned lens, Belrose et al. 2023.
"""

import torch

from early_exit.models.head_training import agreement_with_full_depth
from trainers.frozen import FrozenTrainer


class AdapterTrainer(FrozenTrainer):
    """Trains the exit adapters of a model of `models.t5`, the rest of which is frozen.

    The loss is the mean over exits and tokens of KL(full depth ‖ exit). Evaluation adds, over the tokens of
    the reference texts and by exit from 1 to L − 1, how often it chooses as full depth does:
    `{split}_agreement`, and `{split}_agreement_before`, without adapters.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.exit_adapters.requires_grad_(True)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Summed over tokens, divided by the tokens of the whole step, on all devices."""
        loss, outputs = self.frozen_loss(model, inputs, {"exit_adapter_loss": True}, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval", **kwargs):
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **kwargs)
        dataset = eval_dataset or self.eval_dataset
        metrics[f"{metric_key_prefix}_agreement"] = self._agreement(dataset)
        adapters, self.model.exit_adapters = self.model.exit_adapters, None
        try:
            metrics[f"{metric_key_prefix}_agreement_before"] = self._agreement(dataset)
        finally:
            self.model.exit_adapters = adapters
        return metrics

    @torch.no_grad()
    def _agreement(self, dataset) -> list[float]:
        """[L − 1], shares of tokens."""
        agrees = []
        for inputs in self.own_share(dataset):
            seen = agreement_with_full_depth(self.model, **inputs)
            agrees.append(seen.agrees[:, seen.kept].cpu().numpy())
        return self.from_all_processes(agrees).mean(axis=1).tolist()
