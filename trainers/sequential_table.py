"""Losses of prompts one by one, decoded a batch at a time when they are first asked for."""

from collections.abc import Callable, Sequence

from datasets import Dataset
from transformers import PreTrainedModel

from early_exit import DecodingSetting
from trainers.generation import GenerationTrainer
from trainers.loss_table import LossTable, Score, loss_table


class LazyLosses:
    """The losses of settings on prompts, in the order of the prompts.

    losses: of each setting as far as they are known, which grow; save: is called after each batch;
    reference: another model, whose full-depth texts are compared with in the place of the own ones.
    """

    def __init__(
        self,
        trainer: GenerationTrainer,
        prompts: Dataset,
        settings: Sequence[DecodingSetting],
        score: Score,
        losses: list[list[float]],
        save: Callable[[], None],
        reference: PreTrainedModel | None = None,
    ):
        self._trainer, self._prompts, self._score, self._reference = trainer, prompts, score, reference
        self._settings, self.losses, self._save = settings, losses, save
        self._tables: dict[int, LossTable] = {}  # by their first prompt: settings share what is encoded

    def __call__(self, setting: int, prompt: int) -> float:
        known = self.losses[setting]
        while len(known) <= prompt:
            known += self._table(len(known)).column(self._settings[setting]).losses
            self._save()
        return known[prompt]

    def _table(self, first: int) -> LossTable:
        if first not in self._tables:
            rows = self._trainer.args.eval_batch_size * self._trainer.args.world_size
            batch = self._prompts.select(range(first, min(first + rows, len(self._prompts))))

            def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
                return self._score(first + prompt, early, full)

            self._tables[first] = loss_table(self._trainer, batch, score, self._reference)
        return self._tables[first]
