"""What the stages of a run hand on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from util.command_line import Arguments
from util.metrics import scoring_rules
from util.results import provenance


@dataclass(frozen=True)
class Run:
    """A run whose flags fit its model. texts: the examples of each split that is needed, of `load_split`;
    generation: the effective generation config, see `models.effective_generation`."""

    arguments: Arguments
    texts: dict[str, Dataset]
    model: PreTrainedModel
    tokenizer: Any
    generation: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path(self.arguments.training.output_dir)

    def source(self) -> dict[str, Any]:
        """What stands in every result file: what it needs to be repeated, and how texts are scored."""
        data, training = self.arguments.data, self.arguments.training
        return provenance(training.seed, training.device) | scoring_rules() | data.task.rules()
