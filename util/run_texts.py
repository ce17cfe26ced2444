"""The texts of a run's first examples, token by token: what `util.report` shows.

`texts.json.gz` holds `layers` (L), `prompts` (what the model read, and its reference) and `settings`: of
each a `setting` (its name), `policy` with precision, `full_depth` (whether the texts are full depth's),
`losses` where the run measured them itself, and `texts`, each with `pieces`, `exit_layers`, `confidences`
(null where none was asked) and `dropped` drafts as [place, piece].
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from early_exit import DecodedRow, DecodingSetting, ExitPolicy
from early_exit.models.effective_generation import evaluation_options
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from util.files import read_json, write_json
from util.pieces import pieces
from util.results import setting_name
from util.run_folder import TEXTS_FILE

EXAMPLES = 100  # that are kept


class RunTexts:
    """Collects the texts of a run's settings, in the file of its output folder. It goes on with what is
    there, if that is about the same prompts."""

    def __init__(self, trainer, dataset: Dataset):
        """trainer: a `GenerationTrainer`. dataset: tokenized, as `util.tokens.tokenize` gives it."""
        self._trainer, self._dataset = trainer, dataset.select(range(min(EXAMPLES, len(dataset))))
        self._file = Path(trainer.args.output_dir) / TEXTS_FILE
        self._content = {"layers": trainer.model.num_exits, "prompts": self._prompts(), "settings": []}
        there = read_json(self._file, default={})
        if all(there.get(name) == self._content[name] for name in ("layers", "prompts")):
            self._content = there

    def add(
        self, setting: DecodingSetting, rows: Sequence[DecodedRow], losses: Sequence[float] | None = None
    ) -> None:
        """What a setting wrote for the dataset, in its order; in the place of what it wrote before. losses:
        of the texts, where they are not the distance from full depth's text."""
        precision = "" if setting.precision == "float32" else f", {setting.precision}"
        setting = {
            "setting": setting_name(setting.policy) + precision,
            "policy": setting.to_dict(),
            "full_depth": replace(setting, precision="float32").is_full_model(self._content["layers"]),
            "losses": None if losses is None else list(losses[: len(self._dataset)]),
            "texts": [self._text(row) for row in rows[: len(self._dataset)]],
        }
        others = [each for each in self._content["settings"] if each["setting"] != setting["setting"]]
        self._content["settings"] = [*others, setting]
        if self._trainer.is_world_process_zero():
            write_json(self._file, self._content)

    def finish(self) -> None:
        """Adds full depth's texts where no setting has written them; on the main process alone."""
        if not self._trainer.is_world_process_zero():
            return
        if not any(each["full_depth"] for each in self._content["settings"]):
            self.add(
                DecodingSetting(precision=self._trainer.generation.precision or "float32"), self._full_depth()
            )

    def _full_depth(self) -> list[DecodedRow]:
        trainer = self._trainer
        sources = [
            Source.of(torch.tensor(row["input_ids"]), torch.tensor(row["attention_mask"]))
            for row in self._dataset
        ]
        options, rows = evaluation_options(trainer.args), trainer.args.eval_batch_size
        precision = trainer.generation.precision
        return decode_prompts(trainer.model, ExitPolicy(), precision, sources, rows, options).rows

    def _prompts(self) -> list[dict[str, str | None]]:
        decode = self._trainer.processing_class.decode
        labels = self._dataset["labels"] if "labels" in self._dataset.column_names else None
        return [
            {
                "document": decode(tokens, skip_special_tokens=True),
                "reference": None if labels is None else decode(labels[number], skip_special_tokens=True),
            }
            for number, tokens in enumerate(self._dataset["input_ids"])
        ]

    def _text(self, row: DecodedRow) -> dict[str, Any]:
        tokenizer, dropped = self._trainer.processing_class, []
        for place, token in [] if row.drafting is None else row.drafting.dropped:
            before = row.tokens[:place]
            dropped.append([place, pieces(tokenizer, [*before, token])[-1]])
        return {
            "pieces": pieces(tokenizer, row.tokens),
            "exit_layers": row.exit_layers,
            "confidences": [None if math.isnan(each) else round(each, 4) for each in row.confidences],
            "dropped": dropped,
        }
