"""Losses of prompts one by one, decoded a batch at a time when they are first asked for."""

from collections.abc import Callable, Sequence

from early_exit import DecodingSetting
from trainers.loss_table import LossTable


class LazyLosses:
    """The losses of settings on prompts, in the order of the prompts.

    table_of: the loss table of some prompts, by their numbers; batch: how many it is made of; losses: of each
    setting as far as they are known, which grow; save: is called after each batch.
    """

    def __init__(
        self,
        table_of: Callable[[range], LossTable],
        prompts: int,
        batch: int,
        settings: Sequence[DecodingSetting],
        losses: list[list[float]],
        save: Callable[[], None],
    ):
        self._table_of, self._prompts, self._batch = table_of, prompts, batch
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
            self._tables[first] = self._table_of(range(first, min(first + self._batch, self._prompts)))
        return self._tables[first]
