"""Training of what is added to a model that itself stays as it is."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from trainers.generation import GenerationTrainer

_READ = ("input_ids", "attention_mask", "labels")


class FrozenTrainer(GenerationTrainer):
    """Freezes all of a model of `models.t5`, which then runs once a batch, without dropout; subclasses say
    what is trained beside it (`requires_grad_`)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    def frozen_loss(
        self, model, inputs: dict[str, Tensor], asked: dict[str, Any], num_items_in_batch
    ) -> tuple[Tensor, Any]:
        """Loss and outputs of a model's forward, `asked` by its further arguments."""
        model.eval()  # the Trainer turns dropout on before every step
        inputs = {name: inputs[name] for name in _READ} | asked
        return super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)

    def own_share(self, dataset: Dataset) -> Iterator[dict[str, Tensor]]:
        """Batches of this process's examples, as the model takes them."""
        self._prepare_model()
        indices = range(self.args.process_index, len(dataset), self.args.world_size)
        batches = DataLoader(
            Subset(dataset, indices), batch_size=self.args.eval_batch_size, collate_fn=self.data_collator
        )
        for batch in batches:
            batch = self._prepare_inputs(batch)
            yield {name: batch[name] for name in _READ}

    def from_all_processes(self, parts: list[np.ndarray]) -> np.ndarray:
        """Arrays [L − 1, tokens] of all batches, and of all processes, in one."""
        if self.args.world_size > 1:
            shares = [None] * self.args.world_size
            torch.distributed.all_gather_object(shares, parts)
            parts = [part for share in shares for part in share]
        return np.concatenate(parts, axis=1)
